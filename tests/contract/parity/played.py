"""The recorded outages, each with the named fault that plays it."""

import json
from pathlib import Path

from canfar_batch.local import faults

ROWS = json.loads((Path(__file__).parent / "outages.json").read_text())
FAULTS = {
    "gms": faults.groups_ill,
    "posix": faults.posix_ill,
    "vospace": faults.storage_ill,
    "oidc": faults.issuer_ill,
    "registry": faults.registry_ill,
    "redis": lambda illness: faults.images_ill(illness.removeprefix("list-")),
}


def name_of(row):
    """Return the name of a row's outage, as `gms-404` or `oidc-down-opaque`."""
    return "-".join((row["service"], row["fault"], *row["as"].split("/")[1:]))


def fault_of(row):
    """Return the action that plays the outage of a recorded row."""
    if row["as"].endswith("/opaque"):
        return faults.issuer_ill(row["fault"], is_opaque=True)
    return FAULTS[row["service"]](row["fault"])
