"""Savepoints: the state and the offsets of a pipeline in one file, from which a run can start. So an upgrade can be undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import msgspec

from headrace._clock import now_ms
from headrace._durable import put, sync
from headrace.engines.embedded.state import Parts
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.topics.protocol import Claim, Commit, Log

__all__ = ["Savepoint", "behind", "put_back", "read", "take"]

_HEAD = b"headrace savepoint 1\n"
_SUM = 4


class Savepoint(msgspec.Struct, frozen=True):
    """The content of a savepoint file: a pipeline's last commit, the parts of its state by name, and its next offsets."""

    pipeline: str
    taken_ms: int
    manifest: bytes
    parts: dict[str, bytes]
    offsets: list[tuple[str, int, int]]


def take(log: Log, pipeline: str, path: Path) -> Savepoint:
    """Write the savepoint of a pipeline to a file.

    Raises
    ------
    PlanError
        If it has committed nothing yet, or the file is there already.
    EnvironmentFault
        If it runs, its state is damaged, or the file cannot be written.
    """
    if path.exists():
        raise PlanError("is there already", where=str(path), fix="name another file, or remove it")
    with _claimed(log, pipeline) as claim:
        manifest = claim.manifest
        if manifest is None:
            raise PlanError("has committed nothing yet", where=f"pipeline {pipeline}", fix="run it first")
        parts = {name: claim.load(name) for name in sorted(Parts().keep(msgspec.json.decode(manifest)))}
        offsets = [(one.topic, one.partition, one.offset) for one in log.cursors() if one.group == pipeline]
    made = Savepoint(pipeline, now_ms(), manifest, parts, offsets)
    body = msgspec.msgpack.encode(made)
    try:
        put(path, _HEAD + crc32(body).to_bytes(_SUM) + body, secret=True)
        sync(path.parent)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix="name a file where this user may write") from None
    return made


def read(path: Path, pipeline: str) -> Savepoint:
    """Return the savepoint of a pipeline that a file holds.

    Raises
    ------
    PlanError
        If it is another pipeline's.
    DataError
        If it is damaged, or no savepoint.
    EnvironmentFault
        If it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=str(path), fix="name a file of headrace savepoint") from None
    if not data.startswith(_HEAD):
        raise DataError("is no savepoint", where=str(path), fix="name a file that headrace savepoint wrote")
    body = data[len(_HEAD) + _SUM :]
    if crc32(body).to_bytes(_SUM) != data[len(_HEAD) : len(_HEAD) + _SUM]:
        raise DataError("is damaged: its checksum is another", where=str(path), fix="take another copy of it")
    found = msgspec.msgpack.decode(body, type=Savepoint)
    if found.pipeline != pipeline:
        raise PlanError(f"is a savepoint of pipeline {found.pipeline}, not of {pipeline}", where=str(path), fix=f"name one of {pipeline}")
    return found


def put_back(log: Log, savepoint: Savepoint) -> None:
    """Make the next run of a pipeline start from a savepoint. Later commits are forgotten.

    Raises
    ------
    EnvironmentFault
        If it runs, or the log cannot take it.
    """
    cursors = {(topic, partition): offset for topic, partition, offset in savepoint.offsets}
    with _claimed(log, savepoint.pipeline) as claim:
        claim.forget()
        claim.commit(Commit(savepoint.manifest, savepoint.parts, list(savepoint.parts), [], cursors))


def behind(log: Log, savepoint: Savepoint) -> dict[str, int]:
    """Return how many records of each topic were read since the savepoint was taken, and will be read again."""
    now = {(one.topic, one.partition): one.offset for one in log.cursors() if one.group == savepoint.pipeline}
    found: dict[str, int] = {}
    for topic, partition, offset in savepoint.offsets:
        again = now.get((topic, partition), offset) - offset
        found[topic] = found.get(topic, 0) + max(again, 0)
    return {topic: count for topic, count in found.items() if count}


@contextmanager
def _claimed(log: Log, pipeline: str) -> Iterator[Claim]:
    claim = log.claim(pipeline)
    try:
        yield claim
    finally:
        claim.release()
