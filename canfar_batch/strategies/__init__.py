"""Ready-made strategies: plain callables that fill the roles of `canfar_batch.protocols`. You can write your own."""

from canfar_batch.strategies.collect import Files, Json, LastLine, Logs, Returned, Serial, Several, as_collector
from canfar_batch.strategies.launch import Adaptive, AtOnce, Bundle, Chunks, Throttle, Window
from canfar_batch.strategies.monitor import Listing, OneByOne
from canfar_batch.strategies.retry import ANY, Retry, never
from canfar_batch.strategies.roles import check_player

__all__ = [
    "ANY",
    "Adaptive",
    "AtOnce",
    "Bundle",
    "Chunks",
    "Files",
    "Json",
    "LastLine",
    "Listing",
    "Logs",
    "OneByOne",
    "Retry",
    "Returned",
    "Serial",
    "Several",
    "Throttle",
    "Window",
    "as_collector",
    "check_player",
    "never",
]
