"""Completion in the shell: names of batches, and keys of their jobs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

from canfar_batch.batch import Batch
from canfar_batch.errors import CanfarBatchError
from canfar_batch.store.home import batches


def add_completer(argument: argparse.Action, completer: Callable[..., Iterator[str]]) -> None:
    """Let the shell complete an argument."""
    argument.completer = completer  # type: ignore[attr-defined] # argcomplete reads it


def complete_names(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterator[str]:
    """Yield the batches whose names begin so."""
    return (name for name in batches(parsed_args.home) if name.startswith(prefix))


def complete_keys(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> Iterator[str]:
    """Yield the keys that begin so, of the batch named before."""
    try:
        with Batch.open(parsed_args.name, parsed_args.home) as batch:
            yield from (job.key for job in batch if job.key.startswith(prefix))
    except CanfarBatchError:  # no such batch: there is nothing to complete
        return


def answer_shell(made: argparse.ArgumentParser) -> None:
    """Answer the shell if it asks for completions: `eval "$(register-python-argcomplete canfar-batch)"` sets it up."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(made)
