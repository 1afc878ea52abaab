"""The requests to one host, and the values in its answers. Sans-IO: time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from headrace.connectors.modbus.blocks import Block, blocks_of, halves
from headrace.connectors.modbus.registers import Register
from headrace.connectors.modbus.values import Value, bytes_of, reader
from headrace.connectors.protocol import Event
from headrace.connectors.retries import Retries
from headrace.connectors.tagged import Units, reading_as, tag_of
from headrace.plant.quality import Quality
from headrace.plant.reading import Reading
from headrace.plant.tags import Tags

__all__ = ["Found", "Poll", "Reports"]

REFUSED_SECONDS = 60.0  # how long a register that does not exist is not asked for
BUSY_TRIES = 3

_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3
_BUSY: Final = frozenset({5, 6, 7})
_GATEWAY: Final = frozenset({10, 11})


class Found(NamedTuple):
    """The result of reading a register.

    Attributes
    ----------
    read
        Whether the device answered with a value. If not, `value` is None, and the quality says why.
    """

    register: Register
    value: float | int | str | bool | None
    quality: int
    read: bool


class Poll:
    """The requests of each poll of one host.

    A block that the device refuses is halved until the registers that do not exist are found; they are asked for again a minute later.
    A unit that does not answer is asked again ever more rarely, so that it does not delay the others.
    """

    def __init__(self, registers: Iterable[Register], *, gap: int, words: int) -> None:
        self._blocks = blocks_of(registers, gap=gap, words=words)
        self._registers = [one for block in self._blocks for one in block.registers]
        self._readers: dict[Block, list[tuple[Register, Callable[[bytes, int], Value], int]]] = {}
        self._refused: dict[Block, float] = {}
        self._silent: dict[int, Retries] = {}
        self._asleep: dict[int, float] = {}
        self._busy: dict[Block, int] = {}
        self._queue: deque[Block] = deque()

    def begin(self, now: float) -> None:
        """Begin a poll."""
        again = [block for block, at in self._refused.items() if at <= now]
        self._busy.clear()
        self._queue = deque([*self._blocks, *again])

    def next(self, now: float) -> Block | None:
        """Return what is asked next; None at the end of the poll."""
        while self._queue:
            block = self._queue.popleft()
            if self._asleep.get(block.unit_id, now) <= now:
                return block
        return None

    def answered(self, block: Block, words: Sequence[int]) -> list[Found]:
        """Take the registers or bits of a block."""
        self._wake(block.unit_id)
        if self._refused.pop(block, None) is not None:
            self._blocks.append(block)
        if block.table in {"coil", "discrete"}:
            return [Found(one, bool(words[one.address - block.address]), Quality.GOOD, True) for one in block.registers]
        readers = self._readers.get(block)
        if readers is None:
            readers = self._readers[block] = [(one, reader(one), 2 * (one.address - block.address)) for one in block.registers]
        data = bytes_of(words)
        return [Found(one, *read(data, at), True) for one, read, at in readers]

    def excepted(self, block: Block, code: int, now: float) -> list[Found]:
        """Take the exception with which the device answered."""
        if code in _GATEWAY:
            return self.silent(block, now)
        self._wake(block.unit_id)
        if code in {_ILLEGAL_ADDRESS, _ILLEGAL_VALUE} and (parts := halves(block)):
            if block in self._blocks:
                self._blocks.remove(block)
                self._blocks += parts
            self._refused.pop(block, None)
            self._readers.pop(block, None)
            self._queue.extendleft(reversed(parts))
            return []
        if code in {_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE}:
            if block in self._blocks:
                self._blocks.remove(block)
            self._refused[block] = now + REFUSED_SECONDS
            return _failed(block.registers, Quality.BAD_CONFIGURATION_ERROR)
        if code in _BUSY:
            self._busy[block] = self._busy.get(block, 0) + 1
            if self._busy[block] < BUSY_TRIES:
                self._queue.append(block)
                return []
            return _failed(block.registers, Quality.BAD_NO_COMMUNICATION)
        return _failed(block.registers, Quality.BAD_DEVICE_FAILURE)

    @property
    def busy(self) -> bool:
        """Whether a device asked to be left alone for a moment."""
        return bool(self._busy)

    def silent(self, block: Block, now: float) -> list[Found]:
        """Note that a unit did not answer: nothing more is asked of it for a time."""
        wait = self._silent.setdefault(block.unit_id, Retries()).failed(now)
        self._asleep[block.unit_id] = now + (wait or 0)
        return _failed((one for one in self._registers if one.unit_id == block.unit_id), Quality.BAD_NO_COMMUNICATION)

    def lost(self) -> list[Found]:
        """Note that the connection is lost."""
        self._queue.clear()
        self._silent.clear()
        self._asleep.clear()
        return _failed(self._registers, Quality.BAD_NO_COMMUNICATION)

    def _wake(self, unit_id: int) -> None:
        self._silent.pop(unit_id, None)
        self._asleep.pop(unit_id, None)


def _failed(registers: Iterable[Register], quality: int) -> list[Found]:
    return [Found(one, None, quality, False) for one in registers]


class Reports:
    """Which findings become readings.

    A failure is reported when its quality is another than before: once. A value is reported always, or when it has changed.

    Parameters
    ----------
    changes
        Whether only values that have changed are reported.
    deadband
        How far a number must be from the last one reported, where neither the register nor its tag says.
    tags
        The list of tags, if there is one.
    tell
        Is given a line for what is noticed, such as another unit.
    """

    def __init__(self, *, changes: bool, deadband: float, tags: Tags | None = None, tell: Callable[[str], object] = lambda _: None) -> None:
        self._changes, self._deadband, self._tags, self._units = changes, deadband, tags, Units(tell)
        self._readings: dict[str, tuple[Callable[..., Reading], float]] = {}
        self.forget()

    def forget(self) -> None:
        """Forget what was reported: everything is reported again."""
        self._last: dict[str, Value] = {}

    def events(self, found: Iterable[Found], arrival_time: int) -> list[Event]:
        """Return the readings of findings, of which those that are not to be reported are left out."""
        events = []
        for one in found:
            if one.read and not self._changes:
                self._last.pop(one.register.tag, None)
            elif not self._changed(one):
                continue
            reading_of, _ = self._of(one.register)
            reading = reading_of(one.value, arrival_time, quality=one.quality, unit=one.register.unit)
            events.append(Event(reading.encode()))
        return events

    def _of(self, register: Register) -> tuple[Callable[..., Reading], float]:
        """Return what makes a register's readings, and its deadband."""
        found = self._readings.get(register.tag)
        if found is None:
            tag = tag_of(self._tags, register.tag)
            self._units.known(tag, register.tag, register.unit)
            bands = (register.deadband, tag.deadband if tag else None, self._deadband)
            found = self._readings[register.tag] = reading_as(tag, register.tag), next(one for one in bands if one is not None)
        return found

    def _changed(self, found: Found) -> bool:
        """Return whether a finding is another than the last one reported, and note it."""
        register, value, quality, _ = found
        value = None if value != value else value  # noqa: PLR0124  (NaN is the same as the last NaN)
        last = self._last.get(register.tag)
        _, deadband = self._of(register)
        if last is not None and last[1] == quality and not _differs(value, last[0], deadband):
            return False
        self._last[register.tag] = value, quality
        return True


def _differs(value: object, last: object, deadband: float) -> bool:
    if isinstance(value, (int, float)) and isinstance(last, (int, float)):
        return abs(value - last) > deadband
    return value != last
