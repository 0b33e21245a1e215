"""Python functions as jobs: what identifies a function, how it travels, and its arguments."""

from canfar_batch.functions.function import Function
from canfar_batch.functions.image_python import check_python

__all__ = ["Function", "check_python"]
