"""The type checker proves that the REST platform fills its role."""

from canfar_batch.protocols import Platform
from canfar_batch.rest import RestPlatform, open_platform


def fits(platform: RestPlatform) -> Platform:
    return platform


def opened() -> Platform:
    return open_platform(certificate="~/.ssl/cadcproxy.pem")
