"""The only package that speaks HTTP: the platform by its REST API."""

from canfar_batch.rest.platform import RestPlatform, credential_of, open_platform

__all__ = ["RestPlatform", "credential_of", "open_platform"]
