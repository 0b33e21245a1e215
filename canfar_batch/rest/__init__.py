"""The only place that speaks HTTP: the platform as its REST API presents it."""

from canfar_batch.rest.platform import RestPlatform, open_platform

__all__ = ["RestPlatform", "open_platform"]
