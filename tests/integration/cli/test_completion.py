"""Completion in the shell."""

from __future__ import annotations

import argparse
import sys
import types

import pytest
from integration.cli.conftest import Command


def test_names_and_keys_are_completed(there: Command, monkeypatch: pytest.MonkeyPatch):
    """argcomplete is played: it gets the parser, and calls the completers of the arguments."""
    found: list[list[str]] = []

    def autocomplete(made: argparse.ArgumentParser) -> None:
        options = argparse.Namespace(home=None, name="count")
        status = made._subparsers._group_actions[0].choices["status"]
        name, key = (action.completer for action in status._actions if hasattr(action, "completer"))
        found.extend(list(one("c", parsed_args=options)) for one in (name, key))
        options.name = "nope"
        found.append(list(key("", parsed_args=options)))

    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", types.SimpleNamespace(autocomplete=autocomplete))
    there("ls")
    assert found == [["count"], ["c"], []]
