"""Bring files to the platform and back."""

from __future__ import annotations

import argparse

from canfar_batch.cli.output import FINE, print_result
from canfar_batch.session import Session


def upload(options: argparse.Namespace) -> int:
    """Copy files to the platform."""
    with Session.connect(options.url) as session:
        place = session.upload(options.source, options.target, progress=not options.json)
    print_result(options, {"path": str(place)}, f"uploaded to {place}")
    return FINE


def download(options: argparse.Namespace) -> int:
    """Copy files from the platform."""
    with Session.connect(options.url) as session:
        place = session.download(options.source, options.target, progress=not options.json)
    print_result(options, {"path": str(place)}, f"downloaded to {place}")
    return FINE
