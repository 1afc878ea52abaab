"""Output files: written aside, made durable with each commit, and put in place by rename when the run is done."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import polars as pl
from arro3.io import read_json, write_ndjson, write_parquet

from headrace._durable import sync, write_fault
from headrace.errors import EnvironmentFault
from headrace.kernels.reading.json import arrow_schema
from headrace.plan.schema import Schema
from headrace.topics.dead_letters import DeadLetter, encode_dead_letter

__all__ = ["SPREAD", "Files", "Output", "Printed", "encode_rows"]

_encode = msgspec.json.Encoder().encode


SPREAD = "@spread"
"""The name of a column whose MAP is written as fields of the row itself."""


def encode_rows(rows: pl.DataFrame) -> bytes:
    """Return rows as compact JSON, one object a line; timestamps in ISO 8601 with Z."""
    if SPREAD in rows.columns:
        return _encode_spread(rows)
    text = io.BytesIO()
    write_ndjson(rows, text, explicit_nulls=True)
    return text.getvalue()


def _encode_spread(rows: pl.DataFrame) -> bytes:
    """Return rows as JSON, the entries of a MAP as fields where its column is; of a repeated name the column counts."""
    place, names = rows.columns.index(SPREAD), {*rows.columns} - {SPREAD}
    parts = [part for part in (rows[:, :place], rows[:, place + 1 :]) if part.width]
    lines = [[line[1:-1] for line in encode_rows(part).splitlines()] for part in parts]
    fields = [
        b"" if entries is None else _encode(entries if names.isdisjoint(entries) else _without(entries, names))[1:-1]
        for entries in rows[SPREAD].to_list()
    ]
    lines.insert(bool(place), fields)
    return b"".join(b"{%b}\n" % b",".join(filter(None, line)) for line in zip(*lines, strict=True))


def _without(entries: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key not in names}


class Output(Protocol):
    """Where a run's rows and dead letters go."""

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None) -> None:
        """Write rows to a topic, with the keys that a log has for them."""

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Write dead letters."""


class Printed:
    """Rows to a stream as they come; dead letters are only counted, in the ledger."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None = None) -> None:  # noqa: ARG002
        """Write rows, one compact JSON object a line."""
        self._stream.write(encode_rows(rows))
        self._stream.flush()

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Do nothing: there is no file for them."""


class Files:
    """Files of one folder, `DIR/.run` while the run lasts.

    A topic's rows go to one file. Dead letters go to a file for each partition, joined in the end, since partitions are
    read by turns.
    """

    def __init__(self, pipeline: str, folder: Path, topics: Iterable[str], partitions: Iterable[tuple[str, int]]) -> None:
        self._pipeline, self._folder = pipeline, folder
        self._rows = {topic: f"{topic}.ndjson" for topic in topics}
        self._dead: dict[str, list[str]] = {}
        for topic, number in partitions:
            self._dead.setdefault(topic, []).append(f"{topic}.dead-letter.{number}.ndjson")
        self._open: dict[str, IO[bytes]] = {}

    @property
    def _names(self) -> list[str]:
        return [*self._rows.values(), *(name for names in self._dead.values() for name in names)]

    def open(self, lengths: Mapping[str, int]) -> None:
        """Open the files, cut back to the lengths of the last commit."""
        for name in self._names:
            with _blaming(self._folder / name):
                file = self._open[name] = (self._folder / name).open("ab")
                length = lengths.get(name, 0)
                if file.seek(0, os.SEEK_END) < length:
                    fix = f"remove {self._folder} to start anew"
                    raise EnvironmentFault(f"is damaged: it has less than the {length} bytes committed", where=str(self._folder / name), fix=fix)
                file.truncate(length)
                file.seek(0, os.SEEK_END)

    def write(self, topic: str, rows: pl.DataFrame, keys: pl.Series | None = None) -> None:  # noqa: ARG002
        """Append rows to a topic's file."""
        self._append(self._rows[topic], encode_rows(rows))

    def set_aside(self, letters: Iterable[DeadLetter]) -> None:
        """Append dead letters to the files of their partitions."""
        for letter in letters:
            self._append(self._dead[letter.topic][letter.partition], encode_dead_letter(self._pipeline, letter))

    def _append(self, name: str, data: bytes) -> None:
        with _blaming(self._folder / name):
            self._open[name].write(data)

    def sync(self) -> dict[str, int]:
        """Make all that was written durable, and return the files' lengths."""
        lengths = {}
        for name, file in self._open.items():
            with _blaming(self._folder / name):
                file.flush()
                os.fsync(file.fileno())
                lengths[name] = file.tell()
        return lengths

    def close(self) -> None:
        """Close the files; what was not synced counts for nothing."""
        for file in self._open.values():
            try:
                file.close()
            except OSError:
                continue
        self._open.clear()

    def publish(self, target: Path, schemas: Mapping[str, Schema], format: str, *, keep: bool = False) -> None:
        """Put the files in place, each whole, rows as `format`. Done again after a kill, it does what was left.

        With `keep` copies are put in place, and the files can be appended to.
        """
        for topic, names in self._dead.items():
            parts = [self._folder / name for name in names]
            joined = self._folder / f"{topic}.dead-letter.ndjson"
            if not parts[0].exists():
                continue
            with _blaming(target):
                with joined.open("wb") as whole:
                    for part in parts:
                        with part.open("rb") as letters:
                            shutil.copyfileobj(letters, whole)
                sync(joined)
                joined.replace(target / joined.name)
                sync(target)
                if not keep:
                    parts[0].unlink()
        for topic, name in self._rows.items():
            written = self._folder / name
            if not written.exists():
                continue
            with _blaming(target):
                if format == "parquet":
                    aside = self._folder / f"{topic}.parquet"
                    write_parquet(read_json(written, arrow_schema(schemas[topic])), aside)
                    sync(aside)
                    aside.replace(target / aside.name)
                    sync(target)
                    if not keep:
                        written.unlink()
                elif keep:
                    aside = self._folder / f"{name}.copy"
                    shutil.copyfile(written, aside)
                    sync(aside)
                    aside.replace(target / name)
                    sync(target)
                else:
                    written.replace(target / name)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Make of an OSError an error that names the file and the fix."""
    try:
        yield
    except OSError as error:
        raise write_fault(path, error) from None
