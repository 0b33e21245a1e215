"""The keys of jobs that were given none: readable, and the same in every run of a script."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from canfar_batch.fields.keys import folded, job_key, readable_key
from canfar_batch.fields.values import canonical_json
from canfar_batch.records import JobRecord
from canfar_batch.spec import JobSpec


@attrs.define
class FieldIndex:
    """The keys of a batch's jobs by their fields."""

    jobs: Mapping[str, JobRecord] = attrs.field(factory=dict)  #: by key
    _keys: dict[str, list[str]] = attrs.field(factory=dict, init=False)  #: by the fields as canonical JSON
    _indexed: set[str] = attrs.field(factory=set, init=False)
    _stale: bool = attrs.field(default=True, init=False)

    def updated(self, jobs: Mapping[str, JobRecord]) -> FieldIndex:
        """Bring the index up to date with the batch's *jobs*, when it is next asked."""
        self.jobs, self._stale = jobs, True
        return self

    def keys(self, fields: Mapping[str, Any]) -> list[str]:
        """Return the keys of the jobs with these fields, in JSON's types."""
        if self._stale:
            for key in self.jobs:  # a record takes a while to unpack, so only those of new keys are looked at
                if key not in self._indexed:
                    self._indexed.add(key)
                    self._keys.setdefault(canonical_json(dict(self.jobs[key].fields)), []).append(key)
            self._stale = False
        return [key for key in self._keys.get(canonical_json(fields), ()) if key in self.jobs]


@attrs.define
class Naming:
    """Names the rows of one plan.

    A row gets a readable key; with a hash, if another row or job has that key. A job that the batch knows keeps the key
    that it has, also if the order of the fields in the command has changed.
    """

    find: Callable[[str], JobRecord | None] = lambda _: None  #: the known job with a key, whatever the case
    index: FieldIndex = attrs.field(factory=FieldIndex)
    _owners: dict[str, str] = attrs.field(factory=dict, init=False)  #: what identifies the row with a key in lower case
    _times: Counter[str] = attrs.field(factory=Counter, init=False)  #: by what identifies a row

    def key(self, spec: JobSpec, row: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
        """Return the key of a row; equal rows get ``-2``, ``-3``.

        Args:
            spec: What the row's job runs.
            row: The row.
            fields: Its values in JSON's types.

        Raises:
            SpecError: See `plain_fields`.
        """
        identity = canonical_json(fields) if fields else _identity(spec)
        self._times[identity] += 1
        suffix = f"-{self._times[identity]}" if self._times[identity] > 1 else ""

        def is_own(key: str) -> bool:
            known = self.find(key)
            if known is None or known.key != key or bool(known.fields) != bool(fields):
                return False
            return (canonical_json(dict(known.fields)) if fields else _identity(known.spec)) == identity

        def is_free(key: str) -> bool:
            return self.find(key) is None and self._owners.get(folded(key), identity) == identity

        plain = readable_key(row, spec.field_names) if row else label(spec)
        if is_own(plain + suffix) or (not self.index.jobs and is_free(plain + suffix)):
            return self._taken(plain + suffix, identity)
        hashed = job_key(row) if row else f"{plain}-{_digest(identity)}"
        if is_own(hashed + suffix):
            return self._taken(hashed + suffix, identity)
        letters = sorted(plain + suffix)  # a key of the same parts in another order, as an earlier command had them
        reordered = [key for key in self.index.keys(fields) if sorted(key) == letters] if fields else []
        chosen = reordered[0] if reordered else (plain if is_free(plain + suffix) else hashed) + suffix
        return self._taken(chosen, identity)

    def _taken(self, key: str, identity: str) -> str:
        self._owners[folded(key)] = identity
        return key


def label(spec: JobSpec) -> str:
    """Return what to call a job that was given no name: its script, or its program."""
    if spec.function is not None:
        return spec.function.rpartition("-")[0]
    words = spec.words if not spec.shell else ("sh",)
    script = next((word for word in words[1:] if Path(word).suffix in (".py", ".sh", ".pl", ".R", ".jl")), words[0])
    stem = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(script).stem)
    return stem.strip("-")[:40] or "job"


def _identity(spec: JobSpec) -> str:
    """Return the text that distinguishes jobs without fields: what they run."""
    return json.dumps(spec.identity(), sort_keys=True, ensure_ascii=False, default=str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
