"""Fingerprints and the readings they were made of, joined in files: one for each equipment and window.

A file's bytes depend on the log alone: the fingerprint's record, and the readings of its equipment and window that came
into the log before it. So a saver that was killed writes the same files once more.

Readings are buffered in memory until their fingerprint comes. That memory is a cache: readings that it has dropped, or never had,
are read from the topic again when a fingerprint needs them.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from headrace._durable import write_fault
from headrace.connectors.fingerprint_folder import sync_folder
from headrace.connectors.fingerprint_readings import Buffer, Judge, Reading, Wanted, believed
from headrace.connectors.fingerprints import LATEST_MS, Fingerprint, fingerprint_of, iso_of
from headrace.connectors.protocol import JoiningTarget, Record
from headrace.connectors.reading import fresh
from headrace.kernels.columnar.watermark import NEVER
from headrace.kernels.reading.batch import Lines
from headrace.kernels.reading.record import Malformed
from headrace.topics.protocol import Log

__all__ = ["FingerprintFiles"]

FILES_AT_ONCE = 64
MOST_BYTES = 256 << 20
GRACE_MS = 120_000
WINDOWS_KEPT = 3


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
        self.buffer, self._judge = Buffer(), Judge(readings)
        self.written = 0
        self.saved_files: list[tuple[Path, int]] = []

    @property
    def most_records(self) -> int:  # type: ignore[override]
        """How many fingerprints to save at once, at most."""
        return FILES_AT_ONCE

    def observe(self, topic: str, partition: int, lines: Lines) -> None:  # noqa: ARG002  (there is one topic beside)
        """Take readings into memory."""
        for equip_id, ahead, reading in self._judge(partition, lines, self.buffer.floor_ms, LATEST_MS):
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
        self.buffer = Buffer()
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
        wanted: list[Wanted] = []
        for place, record in enumerate(records):
            content = fingerprint_of(record.value)
            if isinstance(content, Malformed):
                never[place] = f"no fingerprint: {content.detail}"
            else:
                wanted.append(Wanted(record.order, record.arrived_ms, content))
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
            sync_folder(self._folder)
        if starts:
            self.buffer.let_go(max(starts) - GRACE_MS)
        self.buffer.shrink(MOST_BYTES)
        return never

    def _write(self, fingerprint: Fingerprint, readings: Sequence[Reading]) -> None:
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

    def _readings_of(self, batch: Sequence[Wanted]) -> dict[Wanted, list[Reading]]:
        """Return the readings of each fingerprint; of the first few at least, if those of all would take too much room."""
        found: dict[Wanted, list[Reading]] = {}
        lacking: list[Wanted] = []
        for one in batch:
            mine: list[Reading] = []
            if one.found.start_ms >= self.buffer.floor_ms and not one.is_ahead:
                mine = [reading for reading in self.buffer.of(one.found) if reading.order < one.order]
            if mine:
                found[one] = mine
            else:
                lacking.append(one)
        return found | self._read_again(lacking) if lacking else found

    def _read_again(self, wanted: Sequence[Wanted]) -> dict[Wanted, list[Reading]]:
        """Return the readings of fingerprints from the topic; where they take too much room, of the first few only."""
        of_equipment: dict[str, list[Wanted]] = defaultdict(list)
        for one in wanted:
            of_equipment[one.found.equip_id].append(one)
        first_ms, end_ms = min(one.found.start_ms for one in wanted), max(one.found.end_ms for one in wanted)
        found: dict[Wanted, list[tuple[bool, Reading]]] = {one: [] for one in wanted}
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
                self._warn(f"{one.found.file_name}: may lack readings: {self._readings} keeps none that came before {iso_of(gone_ms)}")
        return {one: believed(one, readings) for one, readings in found.items()}

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
