"""The command line: plan, run, watch and inspect batches without writing Python."""

from canfar_batch.cli.arguments import DETACHED, FINE, SOME_FAILED, TROUBLE, main, parser

__all__ = ["DETACHED", "FINE", "SOME_FAILED", "TROUBLE", "main", "parser"]
