"""A kiln plant: each tick, one message of sensor values from each equipment.

    {"equip_id": 110, "timestamp": 1706123456789, "data": {"0001": "45.234", "0003": "null"}}

Only `Random.random` is drawn from, seeded with text: its sequence is the one that Python promises to keep. Each fault
draws from a sequence of its own, so that switching one on changes nothing but what it spoils.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from headrace.errors import PlanError

__all__ = ["Kiln", "Message", "format_ids", "parse_ids", "ticks"]

Message = dict[str, Any]

MOST_IDS = 100_000
_MIXED_UP = 0.1

_encode = msgspec.json.Encoder().encode


def ticks(start_ms: int, interval_ms: float) -> Iterator[int]:
    """Yield without end the times of the ticks, ms since the epoch; an interval need not be whole."""
    return (start_ms + int(tick * interval_ms) for tick in itertools.count())


@dataclass(frozen=True, slots=True)
class Kiln:
    """A kiln plant, which sends the same for the same seed on every machine.

    `null_share` of the values are the text "null"; the others are text, uniform in 0 to 100, with three decimals. The rest
    are faults, which only rendered lines have: timestamps are moved back by up to `disorder_ms`, `number_share` of the
    values are JSON numbers, and `bad_share` of the lines are malformed records.
    """

    seed: int = 0
    equipment: tuple[int | str, ...] = (110, 111, 112, 113, 114)
    sensors: tuple[str, ...] = ("0001", "0002", "0003", "0004", "0005")
    null_share: float = 0.15
    disorder_ms: int = 0
    number_share: float = 0.0
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no plant can be.

        Raises
        ------
        PlanError
            If there is no equipment or no sensor, an id comes twice, a share lies outside 0 to 1 or the disorder is negative.
        """
        for name in ("equipment", "sensors"):
            ids = getattr(self, name)
            if not ids or len(set(map(str, ids))) < len(ids):
                raise PlanError(f"{name} is {format_ids(ids) or 'empty'}", where="kiln plant", fix="give each id once, and at least one")
        for name in ("null_share", "number_share", "bad_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise PlanError(f"{name} is {getattr(self, name)}", where="kiln plant", fix="a share lies between 0 and 1")
        if self.disorder_ms < 0:
            raise PlanError(f"disorder_ms is {self.disorder_ms}", where="kiln plant", fix="a disorder is 0 ms or more")

    def batches(self, start_ms: int, interval_ms: float = 1000) -> Iterator[list[Message]]:
        """Yield without end, for each tick, one message from each equipment; no faults are in them."""
        draw = self._draws("values")
        equipment, sensors, null_share = self.equipment, self.sensors, self.null_share
        for time in ticks(start_ms, interval_ms):
            yield [
                {
                    "equip_id": equip_id,
                    "timestamp": time,
                    "data": {sensor: "null" if draw() < null_share else f"{100 * draw():.3f}" for sensor in sensors},
                }
                for equip_id in equipment
            ]

    def line_batches(self, start_ms: int, interval_ms: float = 1000) -> Iterator[list[bytes]]:
        """Yield without end each tick's messages as compact JSON texts without line ends, with the plant's faults."""
        faults = self._faults()
        spoilt = self._spoilt() if self.bad_share else None
        for batch in self.batches(start_ms, interval_ms):
            for fault in faults:
                for message in batch:
                    fault(message)
            yield [_encode(message) if spoilt is None else spoilt(message) for message in batch]

    def lines(self, start_ms: int, interval_ms: float = 1000) -> Iterator[bytes]:
        """Yield without end the messages of all ticks as `line_batches` renders them."""
        return itertools.chain.from_iterable(self.line_batches(start_ms, interval_ms))

    def limits(self, start_ms: int, interval_ms: float = 60_000) -> Iterator[bytes]:
        """Yield without end, for each tick, new limits of one equipment as JSON: `low` and `high`, now and then the wrong way round."""
        draw = self._draws("limits")
        for number, time in enumerate(ticks(start_ms, interval_ms)):
            low, high = round(30 * draw(), 1), round(70 + 30 * draw(), 1)
            if draw() < _MIXED_UP:
                low, high = high, low
            yield _encode({"equip_id": self.equipment[number % len(self.equipment)], "timestamp": time, "low": low, "high": high})

    def _draws(self, purpose: str) -> Callable[[], float]:
        return Random(f"kiln {purpose} {self.seed}").random

    def _faults(self) -> Sequence[Callable[[Message], None]]:
        """Return the faults that are switched on and change a message in place."""
        delay, loosen = self._draws("disorder"), self._draws("numbers")

        def be_late(message: Message) -> None:
            message["timestamp"] -= int(delay() * (self.disorder_ms + 1))

        def send_numbers(message: Message) -> None:
            data = message["data"]
            for sensor, text in data.items():
                if loosen() < self.number_share and text != "null":
                    data[sensor] = float(text)

        return [be_late] * bool(self.disorder_ms) + [send_numbers] * bool(self.number_share)

    def _spoilt(self) -> Callable[[Message], bytes]:
        """Return a function that renders a message, spoilt if its lot is so."""
        draw = self._draws("bad")

        def render(message: Message) -> bytes:
            if draw() >= self.bad_share:
                return _encode(message)
            return _BAD[int(draw() * len(_BAD))](message, draw())

        return render


def _truncated(message: Message, lot: float) -> bytes:
    line = _encode(message)
    return line[: 1 + int(lot * (len(line) - 1))]


def _not_an_object(message: Message, lot: float) -> bytes:
    return _encode([message] if lot < 0.5 else str(message["equip_id"]))


def _wrong_type(message: Message, lot: float) -> bytes:
    return _encode(message | ({"timestamp": "soon"} if lot < 0.5 else {"data": list(message["data"].values())}))


def _no_equip_id(message: Message, _lot: float) -> bytes:
    return _encode(message | {"equip_id": None})


def _absurd_time(message: Message, lot: float) -> bytes:
    time = message["timestamp"]
    return _encode(message | {"timestamp": time // 1000 if lot < 0.5 else time * 1000})


_BAD = (_truncated, _not_an_object, _wrong_type, _no_equip_id, _absurd_time)


def parse_ids(text: str) -> tuple[int | str, ...]:
    """Return the ids in a list such as `110-114, 120`, `0001-0005` or `[110, "0001"]`.

    In a plain list, digits without a leading zero are a number and all else is text; a JSON list says which is which.

    Raises
    ------
    PlanError
        If there is none, one comes twice, or a range runs backwards, mixes widths or is endless.
    """
    if text.lstrip().startswith("["):
        try:
            ids: list[int | str] = msgspec.json.decode(text, type=list[int | str])
        except msgspec.DecodeError as error:
            raise PlanError(f"{text!r} is no JSON list of ids: {error}", where="ids", fix='write [110, 111] or ["0001"]') from None
    else:
        ids = [id_ for part in text.split(",") if part.strip() for id_ in _ids_of(part.strip())]
    if not ids or len(set(map(str, ids))) < len(ids):
        raise PlanError(f"{text!r} {'names one twice' if ids else 'names none'}", where="ids", fix="write 110-114,120, say")
    return tuple(ids)


def _ids_of(part: str) -> Iterator[int | str]:
    """Return the ids of a range, or the one id that `part` is."""
    match = re.fullmatch(r"([0-9]{1,18})(?:\s*-\s*([0-9]{1,18}))?", part)
    if match is None:
        return iter([part])
    first, last = match[1], match[2] or match[1]
    padded = first != str(int(first)) or last != str(int(last))
    if (padded and len(first) != len(last)) or not 0 <= int(last) - int(first) < MOST_IDS:
        raise PlanError(f"{part!r} is no range of ids", where="ids", fix=f"write 110-114 or 0001-0005, of at most {MOST_IDS} ids")
    return (f"{number:0{len(first)}d}" if padded else number for number in range(int(first), int(last) + 1))


def format_ids(ids: Iterable[int | str]) -> str:
    """Return ids as `parse_ids` reads them, runs of numbers as ranges: `110-114, 120`."""
    runs: list[list[int | str]] = []
    for id_ in ids:
        if runs and _follows(runs[-1][-1], id_):
            runs[-1].append(id_)
        else:
            runs.append([id_])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _follows(one: int | str, other: int | str) -> bool:
    """Whether two ids, of one type and, if text, of one width, are neighbouring numbers."""
    if isinstance(one, str) and isinstance(other, str):
        return len(one) == len(other) <= 18 and (one + other).isdecimal() and int(other) == int(one) + 1
    return isinstance(one, int) and isinstance(other, int) and one >= 0 and other == one + 1
