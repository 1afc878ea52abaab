"""Fingerprints and the readings they were made of, joined in files: one for each equipment and window.

A file's bytes depend on the log alone: the fingerprint's record, and the readings of its equipment and window that came
into the log before it. So a saver that was killed writes the same files once more.

Readings are buffered in memory until their fingerprint comes. That memory is a cache: readings that it has dropped, or never had,
are read from the topic again when a fingerprint needs them.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from math import inf
from pathlib import Path
from typing import IO

import msgspec
import polars as pl

from headrace._durable import sync, write_fault
from headrace._lock import TakenError, take
from headrace.connectors.forward import Forward
from headrace.connectors.progress import Moved, warn
from headrace.connectors.protocol import JoiningTarget, Record
from headrace.connectors.reading import fresh, offsets_of
from headrace.errors import EnvironmentFault
from headrace.kernels.columnar.intake import Intake
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.reading.batch import Lines
from headrace.kernels.reading.json import JsonReader
from headrace.kernels.reading.record import Malformed, json_object, shown
from headrace.kernels.reading.rules import JsonNumber, read_value
from headrace.plan.operators import Source
from headrace.plan.schema import BIGINT, STRING
from headrace.plan.stream import stream
from headrace.topics.protocol import Log

__all__ = ["SAVER", "Fingerprint", "FingerprintFiles", "FingerprintSaver", "fingerprint_of"]

SAVER = "fingerprint:saver"
FILES_AT_ONCE = 64
MOST_BYTES = 256 << 20
GRACE_MS = 120_000
WINDOWS_KEPT = 3
MAX_AHEAD_MS = 3_600_000

_BUCKET_MS = 60_000
_READING_COST = 400  # bytes that a reading takes besides its text, about
_LATEST_MS = 253_402_300_799_999
_PLAIN_NAME = re.compile(r"[0-9A-Za-z-]{1,64}")

_contents = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


# fingerprints


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A fingerprint as its topic has it; `content` is what stands in it, byte for byte."""

    uuid: str
    equip_id: str
    start_ms: int
    end_ms: int
    content: Mapping[str, msgspec.Raw]

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.uuid}_{self.start_ms}_{self.end_ms}.json"

    def document(self, readings: Iterable[str]) -> bytes:
        """Return the file's bytes: the fingerprint, and the readings as they came."""
        texts = [msgspec.Raw(reading) for reading in readings]
        window = {"start_ms": self.start_ms, "end_ms": self.end_ms, "start_time": _iso(self.start_ms), "end_time": _iso(self.end_ms)}
        data = {"equip_id": self.equip_id, "window": window, "readings": texts, "reading_count": len(texts)}
        return msgspec.json.encode({"fingerprint": self.content, "sensor_data": data}) + b"\n"


def fingerprint_of(raw: str | bytes) -> Fingerprint | Malformed:
    """Return the fingerprint that a record holds, or why it holds none.

    Its uuid becomes part of a file's name: letters, digits and hyphens only.
    """
    record = json_object(raw)
    if isinstance(record, Malformed):
        return record
    found = record.get("fingerprint")
    if not isinstance(found, dict):
        return Malformed("no object 'fingerprint'")
    try:
        equip_id = read_value(found.get("equip_id"), STRING)
        start, end = (read_value(found.get(name), BIGINT) for name in ("start_ms", "end_ms"))
    except RecursionError:
        return Malformed("nested too deeply to read")
    uuid = found.get("uuid")
    sound = {
        "uuid": isinstance(uuid, str) and not isinstance(uuid, JsonNumber) and _PLAIN_NAME.fullmatch(uuid) is not None,
        "equip_id": isinstance(equip_id, str),
        "type": isinstance(found.get("type"), str),
        "start_ms": isinstance(start, int) and start >= 0,
        "end_ms": isinstance(start, int) and isinstance(end, int) and start < end <= _LATEST_MS,
        "data": isinstance(found.get("data"), dict),
    }
    for name, fits in sound.items():
        if not fits:
            return Malformed(f"{name} is {shown(found[name])}" if name in found else f"no {name}")
    return Fingerprint(str(uuid), equip_id, start, end, _contents(_contents(raw)["fingerprint"]))


def _iso(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, 1000)
    text = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
    return f"{text}.{ms:03d}Z" if ms else f"{text}Z"


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """A fingerprint that is to be saved, and when it came."""

    order: int
    arrived_ms: int
    found: Fingerprint

    @property
    def is_ahead(self) -> bool:
        """Whether the window ends so far past the fingerprint's arrival that no live pipeline can have made it."""
        return self.found.end_ms > self.arrived_ms + MAX_AHEAD_MS


# readings


@dataclass(frozen=True, slots=True)
class _Reading:
    partition: int
    offset: int
    order: int
    time_ms: int
    text: str

    @property
    def cost(self) -> int:
        return len(self.text) + _READING_COST


class _Judge:
    """Finds the records that the pipeline would read, as the pipeline does, with their equipment and event time."""

    def __init__(self, topic: str) -> None:
        source = stream(
            topic,
            schema={"equip_id": "STRING NOT NULL", "timestamp": "BIGINT", "data": "MAP<STRING, STRING>"},
            event_time="TO_TIMESTAMP_LTZ(timestamp, 3)",
        ).operator
        assert isinstance(source, Source)
        self._intake, self._read = Intake(source), JsonReader(source.declared).read

    def __call__(self, partition: int, lines: Lines, first_ms: int, end_ms: int) -> Iterator[tuple[str, bool, _Reading]]:
        """Give the equipment of each readable record of [first_ms, end_ms), whether it is ahead of the time it came, and itself."""
        stamps = lines.stamps
        assert stamps is not None
        rows = (
            self._intake(self._read(lines)).frame.select("@record", "@time", "equip_id").filter(pl.col("@time").is_between(first_ms, end_ms, "left"))
        )
        records = rows["@record"]
        columns = (
            rows["equip_id"],
            rows["@time"],
            offsets_of(lines).gather(records),
            stamps.order.gather(records),
            stamps.arrived_ms.gather(records),
            lines.text.gather(records),
        )
        for equip_id, time_ms, offset, order, arrived_ms, text in zip(*columns, strict=True):
            yield equip_id, time_ms - arrived_ms > MAX_AHEAD_MS, _Reading(partition, offset, order, time_ms, text.strip())


@dataclass(slots=True)
class _Bucket:
    """The readings of some event times: by equipment, and the lowest offset among them by partition."""

    readings: dict[str, list[_Reading]] = field(default_factory=lambda: defaultdict(list))
    lowest: dict[int, int] = field(default_factory=dict)
    cost: int = 0


class _Buffer:
    """Readings that wait for their fingerprint, all that were offered whose event time is not before `floor_ms`."""

    def __init__(self) -> None:
        self.floor_ms = NEVER
        self.cost = 0
        self._buckets: dict[int, _Bucket] = {}

    def add(self, equip_id: str, reading: _Reading) -> None:
        """Keep a reading."""
        bucket = self._buckets.setdefault(reading.time_ms // _BUCKET_MS, _Bucket())
        bucket.readings[equip_id].append(reading)
        bucket.lowest.setdefault(reading.partition, reading.offset)
        bucket.cost += reading.cost
        self.cost += reading.cost

    def of(self, wanted: Fingerprint) -> list[_Reading]:
        """Return the readings of a fingerprint's equipment and window."""
        numbers = range(wanted.start_ms // _BUCKET_MS, (wanted.end_ms - 1) // _BUCKET_MS + 1)
        there = [number for number in numbers if number in self._buckets] if len(numbers) < len(self._buckets) else set(numbers) & {*self._buckets}
        mine = (reading for number in there for reading in self._buckets[number].readings.get(wanted.equip_id, ()))
        return [reading for reading in mine if wanted.start_ms <= reading.time_ms < wanted.end_ms]

    def let_go(self, before_ms: int) -> None:
        """Let go of what lies before a time."""
        floor = before_ms // _BUCKET_MS
        for number in [number for number in self._buckets if number < floor]:
            self.cost -= self._buckets.pop(number).cost
        self.floor_ms = max(self.floor_ms, floor * _BUCKET_MS)

    def shrink(self, most: int) -> None:
        """Let go of the earliest readings until the rest cost at most so many bytes."""
        while self.cost > most:
            self.let_go((min(self._buckets) + 1) * _BUCKET_MS)

    def lowest(self, partition: int) -> int | None:
        """Return the lowest offset of a partition that is kept."""
        return min((bucket.lowest[partition] for bucket in self._buckets.values() if partition in bucket.lowest), default=None)


# files


class FingerprintFiles(JoiningTarget):
    """Files in a folder, one for each fingerprint, whole or not at all.

    A fingerprint is joined with the readings of its equipment and window that came into the log before it.

    Attributes
    ----------
    written
        How many files were written.
    saved_files
        The files written since they were last taken from here, each with the number of its readings.
    """

    name = "files of fingerprints"
    lacking = "files of their windows lack them"

    def __init__(self, log: Log, folder: Path, readings: str, warn: Callable[[str], object]) -> None:
        self._log, self._folder, self._readings, self._warn = log, folder, readings, warn
        self.beside = (readings,)
        self.buffer, self._judge = _Buffer(), _Judge(readings)
        self.written = 0
        self.saved_files: list[tuple[Path, int]] = []

    @property
    def most_records(self) -> int:  # type: ignore[override]
        """How many fingerprints to save at once, at most."""
        return FILES_AT_ONCE

    def observe(self, topic: str, partition: int, lines: Lines) -> None:  # noqa: ARG002  (there is one topic beside)
        """Take readings into memory."""
        for equip_id, ahead, reading in self._judge(partition, lines, self.buffer.floor_ms, _LATEST_MS):
            if not ahead:
                self.buffer.add(equip_id, reading)
        self.buffer.shrink(MOST_BYTES)

    def retained(self, topic: str, partition: int) -> int | None:  # noqa: ARG002
        """Return the offset of the first reading of a partition that is in memory."""
        return self.buffer.lowest(partition)

    def saved(self) -> dict[str, int]:
        """Return since when readings are in memory."""
        return {"floor_ms": self.buffer.floor_ms}

    def restore(self, saved: dict[str, int] | None) -> None:
        """Begin with an empty memory."""
        self.buffer = _Buffer()
        if saved is not None:
            self.buffer.let_go(saved["floor_ms"])

    async def send(self, records: Sequence[Record]) -> dict[int, str]:
        """Save fingerprints, each in its file. A record that is no fingerprint can never be saved.

        Raises
        ------
        EnvironmentFault
            If the folder cannot be written to.
        """
        return await asyncio.to_thread(self._save, records)

    def _save(self, records: Sequence[Record]) -> dict[int, str]:
        never: dict[int, str] = {}
        wanted: list[_Wanted] = []
        for place, record in enumerate(records):
            content = fingerprint_of(record.value)
            if isinstance(content, Malformed):
                never[place] = f"no fingerprint: {content.detail}"
            else:
                wanted.append(_Wanted(record.order, record.arrived_ms, content))
        starts: list[int] = []
        while wanted:
            readings = self._readings_of(wanted)
            found = list(takewhile(readings.__contains__, wanted))
            for one in found:
                self._write(one.found, readings[one])
            # A window that has no readings here may lie anywhere in time, even where none will ever be.
            starts += [one.found.start_ms - WINDOWS_KEPT * (one.found.end_ms - one.found.start_ms) for one in found if readings[one]]
            wanted = wanted[len(found) :]
        if self.saved_files:
            _sync(self._folder)
        if starts:
            self.buffer.let_go(max(starts) - GRACE_MS)
        self.buffer.shrink(MOST_BYTES)
        return never

    def _write(self, fingerprint: Fingerprint, readings: Sequence[_Reading]) -> None:
        mine = sorted(readings, key=lambda reading: (reading.partition, reading.offset))
        if not mine:
            self._warn(f"{fingerprint.file_name}: no readings of its equipment and window came before it in {self._readings}")
        path = self._folder / fingerprint.file_name
        aside = self._folder / f".{path.name}.part"
        try:
            aside.unlink(missing_ok=True)
            with aside.open("xb") as file:
                file.write(fingerprint.document([reading.text for reading in mine]))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise write_fault(path, error) from None
        self.written += 1
        self.saved_files.append((path, len(mine)))

    # readings

    def _readings_of(self, batch: Sequence[_Wanted]) -> dict[_Wanted, list[_Reading]]:
        """Return the readings of each fingerprint; of the first few at least, if those of all would take too much room."""
        found: dict[_Wanted, list[_Reading]] = {}
        lacking: list[_Wanted] = []
        for one in batch:
            mine: list[_Reading] = []
            if one.found.start_ms >= self.buffer.floor_ms and not one.is_ahead:
                mine = [reading for reading in self.buffer.of(one.found) if reading.order < one.order]
            if mine:
                found[one] = mine
            else:
                lacking.append(one)
        return found | self._read_again(lacking) if lacking else found

    def _read_again(self, wanted: Sequence[_Wanted]) -> dict[_Wanted, list[_Reading]]:
        """Return the readings of fingerprints from the topic; where they take too much room, of the first few only."""
        of_equipment: dict[str, list[_Wanted]] = defaultdict(list)
        for one in wanted:
            of_equipment[one.found.equip_id].append(one)
        first_ms, end_ms = min(one.found.start_ms for one in wanted), max(one.found.end_ms for one in wanted)
        found: dict[_Wanted, list[tuple[bool, _Reading]]] = {one: [] for one in wanted}
        cost, gone_ms = 0, NEVER
        for number, lines, began_ms in self._before(max(one.order for one in found)):
            gone_ms = max(gone_ms, began_ms)
            for equip_id, ahead, reading in self._judge(number, lines, first_ms, end_ms):
                for one in of_equipment.get(equip_id, ()):
                    if one in found and reading.order < one.order and one.found.start_ms <= reading.time_ms < one.found.end_ms:
                        found[one].append((ahead, reading))
                        cost += reading.cost
            while cost > MOST_BYTES and len(found) > 1:
                cost -= sum(reading.cost for _, reading in found.popitem()[1])
        for one in found:
            if one.found.start_ms < gone_ms:
                self._warn(f"{one.found.file_name}: may lack readings: {self._readings} keeps none that came before {_iso(gone_ms)}")
        return {one: _believed(one, readings) for one, readings in found.items()}

    def _before(self, order: int) -> Iterator[tuple[int, Lines, int]]:
        """Yield the readings' topic from its first record on, up to a place in the log at least.

        With each batch comes its partition's number, and if retention took records before it, when what is left begins to arrive.
        """
        feed = self._log.feed([self._readings], latest=True, skip_gone=True)
        try:
            readers = feed.readers[self._readings]
            reached = dict.fromkeys(range(len(readers)), NEVER)
            firsts = {info.number: info.first for info in self._log.topic(self._readings).partitions}
            # What is gone is told with the files that lack it.
            while feed.fetch():
                for number, lines in fresh(readers, lambda: firsts, lambda *_: None):
                    assert lines.stamps is not None
                    gone = reached[number] == NEVER and firsts[number] > 0
                    reached[number] = lines.stamps.order[-1]
                    yield number, lines, lines.stamps.arrived_ms[0] if gone else NEVER
                if all(reader.finished or reached[number] > order for number, reader in enumerate(readers)):
                    break
        finally:
            feed.close()


def _believed(one: _Wanted, found: Sequence[tuple[bool, _Reading]]) -> list[_Reading]:
    """Return the readings less those that are ahead of their time, which a live pipeline sets aside, unless it cannot have been live."""
    on_time = [reading for ahead, reading in found if not ahead]
    return [reading for _, reading in found] if not on_time or one.is_ahead else on_time


class FingerprintSaver:
    """Saves the fingerprints of a log in files, as the cursor `fingerprint:saver`.

    Parameters
    ----------
    log
        It has both topics.
    folder
        It is made if it is not there.
    latest
        Whether to end where the topics end now.
    saved
        Told of each file that is durable, and of how many readings it has.
    warn
        Told in one line of what is wrong with the data.

    Attributes
    ----------
    idle
        Whether the last step found nothing to do.

    Raises
    ------
    EnvironmentFault
        If the folder cannot be written to, or another saver works on it or on the log.
    PlanError
        If a topic is not there.
    """

    def __init__(
        self,
        log: Log,
        folder: Path,
        readings: str = "sensor-data",
        fingerprints: str = "fingerprint-output",
        *,
        latest: bool = False,
        saved: Callable[[Path, int], object] = lambda path, count: None,  # noqa: ARG005
        warn: Callable[[str], object] = warn,
    ) -> None:
        for topic in (readings, fingerprints):
            log.topic(topic)
        self._saved, self.idle = saved, False
        self._lock = _locked(folder)
        try:
            self.target = FingerprintFiles(log, folder, readings, warn)
            self.forward = Forward(log, fingerprints, self.target, SAVER, latest=latest, told=warn, committed=self._tell)
        except BaseException:
            self._lock.close()
            raise

    def _tell(self, _: Moved) -> None:
        files, self.target.saved_files = self.target.saved_files, []
        for path, count in files:
            self._saved(path, count)

    @property
    def taken(self) -> int:
        """How many records of the fingerprints' topic have been settled."""
        return self.forward.taken

    @property
    def bad(self) -> int:
        """How many of them were no fingerprints."""
        return self.forward.refused

    @property
    def finished(self) -> bool:
        """Whether all has been saved, and nothing more will come."""
        return self.forward.finished

    def step(self, most: int | None = None) -> int:
        """Save what is pending, up to `most` and a batch, or else read what is there first; return how many files were written."""
        before = self.target.written
        asyncio.run(self._step(most))
        return self.target.written - before

    async def _step(self, most: int | None) -> None:
        await self.forward.step(inf if most is None else most)
        self.idle = self.forward.idle

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        poll_seconds: float = 0.05,
        duration: float | None = None,
        records: int | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
        tick: Callable[[], float] = time.monotonic,
    ) -> int:
        """Save fingerprints as they come, until told to stop, and return how many files were written.

        Parameters
        ----------
        stop
            Asked before each step.
        poll_seconds
            How long to wait before looking for new records again.
        duration
            End after so many seconds.
        records
            End when so many records of the fingerprints' topic have been settled.
        """

        async def pause(seconds: float) -> None:
            sleep(seconds)

        before = self.target.written
        running = self.forward.run(stop, duration=duration, records=records, poll_seconds=poll_seconds, sleep=pause, tick=tick)
        asyncio.run(running)
        return self.target.written - before

    def close(self) -> None:
        """Release the log and the folder."""
        self.forward.close()
        self._lock.close()


def _locked(folder: Path) -> IO[bytes]:
    """Return the folder's lock file, locked for this process, with what a killed saver left half written removed."""
    path = folder / ".saver.lock"
    try:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for one in missing:
            _sync(one.parent)
        lock = take(path)
    except TakenError as error:
        raise EnvironmentFault(
            f"process {error.owner} saves fingerprints there already", where=str(folder), fix="end that one first, or name another folder"
        ) from None
    except OSError as error:
        raise write_fault(folder, error) from None
    try:
        for left in folder.glob(".*.json.part"):
            left.unlink()
    except OSError as error:
        lock.close()
        raise write_fault(folder, error) from None
    return lock


def _sync(folder: Path) -> None:
    """Make a folder's names durable."""
    try:
        sync(folder)
    except OSError as error:
        raise write_fault(folder, error) from None
