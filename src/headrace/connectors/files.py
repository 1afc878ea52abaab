"""Files out: the records of a topic in NDJSON, CSV or Parquet files, a new one after so many records, so many bytes or so long."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import IO

from headrace._durable import durable_folder
from headrace._lock import TakenError, take
from headrace.connectors.address import Address, local, seconds
from headrace.connectors.files_formats import Csv, Format, Ndjson, Parquet
from headrace.connectors.files_journal import Journal, Roll
from headrace.connectors.protocol import Record, Target, Unavailable
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["RolledFiles", "target"]

_PARAMETERS = frozenset({"format", "roll", "columns"})
_EXAMPLE = "files:archive?format=csv&roll=1h"
_MOST_RECORDS = 5000
_MOST_PARQUET_BYTES = 128 << 20  # a file of Parquet is made in memory
_UNITS = {"kB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COMMA = re.compile(r",(?![^<]*>)")


def target(address: str) -> RolledFiles:
    """Return what writes records into the files of an address `files:FOLDER?parameters`; `%3F` in the folder is `?`.

    Raises
    ------
    PlanError
        If the address is wrong.
    """
    folder, one = local(address, _PARAMETERS, _EXAMPLE, "TO", "folder")
    form, columns, roll = one.choice("format", ["ndjson", "csv", "parquet"]), one.get("columns"), one.get("roll") or "1h"
    make, most_bytes = _format(one, form, columns), float(_MOST_PARQUET_BYTES) if form == "parquet" else inf
    settings = f"format={form}&roll={roll}" + ("" if columns is None else f"&columns={columns}")
    return RolledFiles(Path(folder).absolute(), settings, _roll(roll, most_bytes), make)


def _format(one: Address, form: str, columns: str | None) -> Callable[[], Format]:
    if form == "ndjson":
        if columns is not None:
            raise PlanError("parameter columns is only for csv and parquet", where=one.where, fix="leave it out")
        return Ndjson
    if form == "csv":
        names = one.names("columns")
        return lambda: Csv(names)
    declared = dict(_declared(one, part) for part in _COMMA.split(columns or ""))
    Parquet(declared)  # its mistakes are reported now
    return lambda: Parquet(declared)


def _declared(one: Address, part: str) -> tuple[str, str]:
    name, _, kind = part.strip().partition(" ")
    if not name or not kind.strip():
        what = f"parameter columns has {part!r}" if part else "names no columns"
        raise PlanError(what, where=one.where, fix="give names with their types, such as columns=tag STRING,value DOUBLE")
    return name, kind.strip()


def _roll(text: str, most_bytes: float) -> Roll:
    """Return the rule of a text such as `1000`, `64MB`, `1h`, or several of them with commas between them."""
    found: dict[str, float] = {}
    for part in text.split(","):
        if re.fullmatch(r"[1-9]\d{0,11}", part, re.ASCII):
            name, value = "records", float(part)
        elif match := re.fullmatch(r"([1-9]\d{0,8})([kMG]i?B|KiB)", part, re.ASCII):
            name, value = "size", float(match[1]) * _UNITS.get(match[2], 1 << 10)
        else:
            name, value = "period", seconds(part) or 0.0
        if not value or name in found:
            raise PlanError(f"parameter roll is {text!r}", where="TO", fix="give records, a size or a duration: 1000, 64MB, 1h or 64MB,1h")
        found[name] = value
    period = max(int(found["period"] * 1000), 1) if "period" in found else None
    return Roll(found.get("records", inf), min(found.get("size", inf), most_bytes), period)


class RolledFiles(Target):
    """Records in files of a folder, each file whole or not there. Names and contents depend on the records' offsets alone.

    Parameters
    ----------
    folder
        It is made if it is not there.
    settings
        The parameters of the address. A folder is for one topic's files of one kind.
    roll
        When a file ends.
    form
        Makes what writes the files of a partition.
    """

    most_records = _MOST_RECORDS

    def __init__(self, folder: Path, settings: str, roll: Roll, form: Callable[[], Format]) -> None:
        self.name = f"files:{folder}?{settings}"
        self._folder, self._settings, self._roll, self._form = folder, settings, roll, form
        self._journals: dict[int, Journal] = {}
        self._lock: IO[bytes] | None = None

    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Write records, and return when they are durable: in a file, or in the journal of the next one.

        Raises
        ------
        Unavailable
            If the folder cannot be written to.
        EnvironmentFault
            If another process writes there, or what is there is not what this target has written.
        """
        return await asyncio.to_thread(self._write, records)

    def _write(self, records: Sequence[Record]) -> dict[int, str]:
        never: dict[int, str] = {}
        places = defaultdict[int, list[int]](list)
        for place, record in enumerate(records):
            places[record.partition].append(place)
        try:
            self._take(records[0].topic)
            for number, mine in places.items():
                refused = self._journal(records[0].topic, number).write([records[place] for place in mine])
                never.update((mine[place], reason) for place, reason in refused.items())
        except OSError as error:
            self._leave()  # what was written in part is found by reading it again
            raise Unavailable(f"cannot be written: {error.strerror or error}") from None
        return never

    def _take(self, topic: str) -> None:
        """Have the folder for this process."""
        if self._lock is not None:
            return
        durable_folder(self._folder)
        try:
            self._lock = take(self._folder / f".{topic}.lock")
        except TakenError as error:
            fix = "end that one first, or name another folder"
            raise EnvironmentFault(f"process {error.owner} writes files of {topic} there", where=str(self._folder), fix=fix) from None

    def _journal(self, topic: str, number: int) -> Journal:
        found = self._journals.get(number)
        if found is None:
            found = self._journals[number] = Journal(self._folder, f"{topic}.{number}", self._settings, self._roll, self._form())
        return found

    def _leave(self) -> None:
        """Close what is open."""
        journals, self._journals = self._journals, {}
        for one in journals.values():
            one.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def close(self) -> None:
        """Release the folder. What the last file lacks stays in its journal."""
        await asyncio.to_thread(self._leave)
