"""Fingerprints and the readings they were made of, joined in files: one for each equipment and window.

A file's bytes depend on the log alone: the fingerprint's record, and the readings of its equipment and window that came
into the log before it. So a saver that was killed writes the same files once more.

Readings wait in memory for their fingerprint. That memory is a cache: what it has let go, or never took, is read from the
topic again when a fingerprint asks for it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec
import polars as pl

from headrace._durable import sync
from headrace._lock import TakenError, take
from headrace.engines.embedded.output import write_fault
from headrace.errors import EnvironmentFault
from headrace.kernels.columnar.intake import Intake
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.reading.batch import Lines, Stamps
from headrace.kernels.reading.json import JsonReader
from headrace.kernels.reading.record import Malformed, json_object, shown
from headrace.kernels.reading.rules import JsonNumber, read_value
from headrace.plan.operators import Source
from headrace.plan.schema import BIGINT, STRING
from headrace.plan.stream import stream
from headrace.topics.protocol import Commit, Log, PartitionReader

__all__ = ["SAVER", "Fingerprint", "FingerprintSaver", "fingerprint_of"]

SAVER = "fingerprint:saver"
FILES_AT_ONCE = 64
MOST_BYTES = 256 << 20
GRACE_MS = 120_000
WINDOWS_KEPT = 3
MAX_AHEAD_MS = 3_600_000

_BUCKET_MS = 60_000
_READING_COST = 400  # bytes that a reading takes besides its text, about
_MOST_WARNINGS = 5
_LATEST_MS = 253_402_300_799_999
_PLAIN_NAME = re.compile(r"[0-9A-Za-z-]{1,64}")

_contents = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _warn(text: str) -> None:
    print(f"headrace: {text}", file=sys.stderr, flush=True)


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
class _Arrived:
    """A record of the fingerprints' topic that waits to be saved or reported."""

    order: int
    partition: int
    offset: int
    arrived_ms: int
    found: Fingerprint | Malformed

    @property
    def place(self) -> tuple[int, int, int]:
        return self.order, self.partition, self.offset


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
            _offsets(lines).gather(records),
            stamps.order.gather(records),
            stamps.arrived_ms.gather(records),
            lines.text.gather(records),
        )
        for equip_id, time_ms, offset, order, arrived_ms, text in zip(*columns, strict=True):
            yield equip_id, time_ms - arrived_ms > MAX_AHEAD_MS, _Reading(partition, offset, order, time_ms, text.strip())


def _offsets(lines: Lines) -> pl.Series:
    """Return the records' offsets; where a log counts the records that retention took before them too, less those."""
    assert lines.stamps is not None
    return lines.stamps.offsets.tail(len(lines))


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


# the saver


class FingerprintSaver:
    """Writes a file for each fingerprint of a log into a folder, whole or not at all.

    Parameters
    ----------
    log
        It has both topics, and keeps how far the saver has come, as the cursor `fingerprint:saver`.
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
    taken, bad
        How many records of the fingerprints' topic have been settled, and how many of them were none.
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
        warn: Callable[[str], object] = _warn,
    ) -> None:
        self._log, self._folder, self._readings, self._fingerprints = log, folder, readings, fingerprints
        self._latest, self._saved, self._warn = latest, saved, warn
        self.taken = self.bad = 0
        self.idle = False
        self._judge, self._buffer = _Judge(readings), _Buffer()
        self._waiting: list[_Arrived] = []
        self._reached: dict[int, int] = {}
        self._faults: list[str] = []
        firsts = {(topic, info.number): info.first for topic in (readings, fingerprints) for info in log.topic(topic).partitions}
        self._lock = _locked(folder)
        try:
            self._claim = log.claim(SAVER)
        except BaseException:
            self._lock.close()
            raise
        try:
            self._feed = log.feed([readings, fingerprints], latest=latest, skip_gone=True)
            self._go_on(firsts)
        except BaseException:
            self._claim.release()
            self._lock.close()
            raise

    def _go_on(self, firsts: Mapping[tuple[str, int], int]) -> None:
        """Start where the last commit left off, or where retention lets it."""
        at = {(cursor.topic, cursor.partition): cursor.offset for cursor in self._log.cursors() if cursor.group == SAVER}
        last = msgspec.json.decode(self._claim.manifest) if self._claim.manifest is not None else None
        self._committed = at
        if last is not None and {(topic, number): offset for topic, number, offset in last["cursors"]} == at:
            self._buffer.let_go(last["floor_ms"])
        else:
            # Someone moved the cursors, or the topics are new: what lies before them may still be asked for.
            at = {place: offset for place, offset in at.items() if place[0] == self._fingerprints}
        for (topic, number), first in firsts.items():
            offset = at.get((topic, number), first)
            if offset < first:
                self._report_gone(topic, number, offset, first)
            reader = self._feed.readers[topic][number]
            reader.seek({**reader.position, "record": max(offset, first)})

    def _report_gone(self, topic: str, number: int, first: int, behind: int) -> None:
        lacking = "files of their windows lack them" if topic == self._readings else "they are not saved"
        self._warn(f"{topic} partition {number}: records {first} to {behind - 1} are gone, by retention: {lacking}")

    @property
    def finished(self) -> bool:
        """Whether all has been saved, and nothing more will come."""
        return not self._waiting and all(reader.finished for readers in self._feed.readers.values() for reader in readers)

    # work

    def step(self, most: int | None = None) -> int:
        """Save what waits, up to `most` and a batch, or else take in what is there first; return how many files were written."""
        fetched, ready = False, self._ready()
        if not ready:
            fetched = self._feed.fetch()
            self._take_in()
            ready = self._ready()
        self.idle = not fetched and not ready
        written = self._settle(ready[: FILES_AT_ONCE if most is None else min(most, FILES_AT_ONCE)]) if ready else 0
        self._buffer.shrink(MOST_BYTES)
        return written

    def _take_in(self) -> None:
        """Take what was fetched: readings into memory, fingerprints to those that wait."""
        for number, reader in enumerate(self._feed.readers[self._readings]):
            for lines, stamps in self._fresh(self._readings, number, reader):
                for equip_id, ahead, reading in self._judge(number, lines, self._buffer.floor_ms, _LATEST_MS):
                    if not ahead:
                        self._buffer.add(equip_id, reading)
                self._reached[number] = stamps.order[-1]
        for number, reader in enumerate(self._feed.readers[self._fingerprints]):
            for lines, stamps in self._fresh(self._fingerprints, number, reader):
                places = zip(stamps.order, _offsets(lines), stamps.arrived_ms, strict=True)
                for place, (order, offset, arrived_ms) in enumerate(places):
                    self._waiting.append(_Arrived(order, number, offset, arrived_ms, fingerprint_of(lines.raw(place))))
        self._waiting.sort(key=lambda one: one.place)

    def _fresh(self, topic: str, number: int, reader: PartitionReader) -> Iterator[tuple[Lines, Stamps]]:
        """Give what was fetched of a partition."""
        while not reader.drained:
            expected = reader.position["record"]
            lines = reader.read()
            assert isinstance(lines, Lines)
            if not len(lines):
                continue
            if _offsets(lines)[0] > expected:
                # Or else offsets were passed over that are no records, such as Kafka's marks of transactions.
                first = next(info.first for info in self._log.topic(topic).partitions if info.number == number)
                if first > expected:
                    self._report_gone(topic, number, expected, first)
            assert lines.stamps is not None
            yield lines, lines.stamps

    def _ready(self) -> list[_Arrived]:
        """Return the first of those that wait, as far as all readings that came before them have been read."""
        if not self._waiting:
            return []
        lag = self._feed.lag()
        open_ones = [
            self._reached.get(number, NEVER)
            for number, reader in enumerate(self._feed.readers[self._readings])
            if not reader.finished and lag[self._readings, number]
        ]
        if not open_ones:
            return list(self._waiting)
        return [one for one in self._waiting if one.order < min(open_ones)]

    def _settle(self, batch: Sequence[_Arrived]) -> int:
        """Save what comes first, make it durable, note it, and return how many files were written."""
        readings = self._readings_of(batch)
        settled: list[_Arrived] = []
        files: list[tuple[Path, int]] = []
        for one in batch:
            if isinstance(one.found, Malformed):
                self.bad += 1
                self._faults.append(f"{self._fingerprints} partition {one.partition} offset {one.offset}: no fingerprint: {one.found.detail}")
            elif one in readings:
                mine = sorted(readings[one], key=lambda reading: (reading.partition, reading.offset))
                if not mine:
                    self._warn(f"{one.found.file_name}: no readings of its equipment and window came before it in {self._readings}")
                files.append((self._write(one.found, [reading.text for reading in mine]), len(mine)))
            else:
                break
            settled.append(one)
        if files:
            _sync(self._folder)
        self._waiting = self._waiting[len(settled) :]
        self.taken += len(settled)
        # A window that has no readings here may lie anywhere in time, even where none will ever be.
        starts = [
            one.found.start_ms - WINDOWS_KEPT * (one.found.end_ms - one.found.start_ms)
            for one in settled
            if readings.get(one) and isinstance(one.found, Fingerprint)
        ]
        if starts:
            self._buffer.let_go(max(starts) - GRACE_MS)
        self._commit()
        for path, count in files:
            self._saved(path, count)
        self._report_faults()
        return len(files)

    def _write(self, fingerprint: Fingerprint, readings: Sequence[str]) -> Path:
        path = self._folder / fingerprint.file_name
        aside = self._folder / f".{path.name}.part"
        try:
            aside.unlink(missing_ok=True)
            with aside.open("xb") as file:
                file.write(fingerprint.document(readings))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise write_fault(path, error) from None
        return path

    def _commit(self) -> None:
        """Note how far the saver has come: up to the first fingerprint that waits, and the first reading that is kept."""
        cursors: dict[tuple[str, int], int] = {}
        for number, reader in enumerate(self._feed.readers[self._fingerprints]):
            waiting = [one.offset for one in self._waiting if one.partition == number]
            cursors[self._fingerprints, number] = min(waiting, default=reader.position["record"])
        for number, reader in enumerate(self._feed.readers[self._readings]):
            kept = self._buffer.lowest(number)
            cursors[self._readings, number] = reader.position["record"] if kept is None else kept
        if cursors == self._committed:
            return
        rows = [[topic, number, offset] for (topic, number), offset in cursors.items()]
        self._claim.commit(Commit(msgspec.json.encode({"floor_ms": self._buffer.floor_ms, "cursors": rows}), {}, (), (), cursors))
        self._committed = cursors

    def _report_faults(self) -> None:
        for fault in self._faults[:_MOST_WARNINGS]:
            self._warn(fault)
        if (more := len(self._faults) - _MOST_WARNINGS) > 0:
            self._warn(f"{self._fingerprints}: {more} more are no fingerprints; {self.bad} so far")
        self._faults.clear()

    # readings

    def _readings_of(self, batch: Sequence[_Arrived]) -> dict[_Arrived, list[_Reading]]:
        """Return the readings of each fingerprint; of the first few at least, if those of all would take too much room."""
        found: dict[_Arrived, list[_Reading]] = {}
        lacking: list[tuple[_Arrived, Fingerprint]] = []
        for one in batch:
            if isinstance(one.found, Malformed):
                continue
            mine: list[_Reading] = []
            if one.found.start_ms >= self._buffer.floor_ms and not _is_ahead(one, one.found):
                mine = [reading for reading in self._buffer.of(one.found) if reading.order < one.order]
            if mine:
                found[one] = mine
            else:
                lacking.append((one, one.found))
        return found | self._read_again(lacking) if lacking else found

    def _read_again(self, wanted: Sequence[tuple[_Arrived, Fingerprint]]) -> dict[_Arrived, list[_Reading]]:
        """Return the readings of fingerprints from the topic; where they take too much room, of the first few only."""
        of_equipment: dict[str, list[tuple[_Arrived, Fingerprint]]] = defaultdict(list)
        for one, fingerprint in wanted:
            of_equipment[fingerprint.equip_id].append((one, fingerprint))
        first_ms, end_ms = min(one.start_ms for _, one in wanted), max(one.end_ms for _, one in wanted)
        found: dict[_Arrived, list[tuple[bool, _Reading]]] = {one: [] for one, _ in wanted}
        cost, gone_ms = 0, NEVER
        for number, lines, began_ms in self._before(max(one.order for one in found)):
            gone_ms = max(gone_ms, began_ms)
            for equip_id, ahead, reading in self._judge(number, lines, first_ms, end_ms):
                for one, fingerprint in of_equipment.get(equip_id, ()):
                    if one in found and reading.order < one.order and fingerprint.start_ms <= reading.time_ms < fingerprint.end_ms:
                        found[one].append((ahead, reading))
                        cost += reading.cost
            while cost > MOST_BYTES and len(found) > 1:
                cost -= sum(reading.cost for _, reading in found.pop(max(found, key=lambda one: one.place)))
        for one, fingerprint in wanted:
            if one in found and fingerprint.start_ms < gone_ms:
                self._warn(f"{fingerprint.file_name}: may lack readings: {self._readings} keeps none that came before {_iso(gone_ms)}")
        return {one: _believed(one, fingerprint, found[one]) for one, fingerprint in wanted if one in found}

    def _before(self, order: int) -> Iterator[tuple[int, Lines, int]]:
        """Give the readings' topic from its first record on, up to a place in the log at least.

        With each batch comes its partition's number, and if retention took records before it, when what is left begins to arrive.
        """
        feed = self._log.feed([self._readings], latest=True, skip_gone=True)
        try:
            readers = feed.readers[self._readings]
            reached = dict.fromkeys(range(len(readers)), NEVER)
            firsts = {info.number: info.first for info in self._log.topic(self._readings).partitions}
            while feed.fetch():
                for number, reader in enumerate(readers):
                    for lines, stamps in self._fresh(self._readings, number, reader):
                        gone = reached[number] == NEVER and firsts[number] > 0
                        reached[number] = stamps.order[-1]
                        yield number, lines, stamps.arrived_ms[0] if gone else NEVER
                if all(reader.finished or reached[number] > order for number, reader in enumerate(readers)):
                    break
        finally:
            feed.close()

    # running

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
        began, first, written = tick(), self.taken, 0
        while not stop() and not self.finished:
            if duration is not None and tick() - began >= duration:
                break
            left = None if records is None else first + records - self.taken
            if left is not None and left <= 0:
                break
            written += self.step(left)
            if self.idle:
                sleep(poll_seconds)
        return written

    def close(self) -> None:
        """Let the log and the folder go."""
        self._feed.close()
        self._claim.release()
        self._lock.close()


def _believed(one: _Arrived, fingerprint: Fingerprint, found: Sequence[tuple[bool, _Reading]]) -> list[_Reading]:
    """Return the readings less those that are ahead of their time, which a live pipeline sets aside, unless it cannot have been live."""
    on_time = [reading for ahead, reading in found if not ahead]
    return [reading for _, reading in found] if not on_time or _is_ahead(one, fingerprint) else on_time


def _is_ahead(one: _Arrived, fingerprint: Fingerprint) -> bool:
    """Whether a window ends so far past the fingerprint's arrival that no live pipeline can have made it."""
    return fingerprint.end_ms > one.arrived_ms + MAX_AHEAD_MS


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
