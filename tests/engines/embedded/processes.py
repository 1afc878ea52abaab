"""A process that does what its records say, and a plain reference that runs it: all records sorted, one heap of timers, no turns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

import headrace as hr
from headrace.plan.pipeline import Plan

START = 1_704_067_200_000
PLAIN = ["", "last", "held", "recent", "all", "seen:p", "seen:q", "unseen:p", "tally:z", "aside:x"]
NEVER = -(2**62)
COLUMNS = {"k": "STRING", "t": "BIGINT", "x": "DOUBLE", "do": "STRING"}
Lines = list[bytes]
Row = dict[str, Any]


class Machine:
    """Does what a record's `do` says: words with arguments behind colons. A timer's name is what it does in its turn."""

    state = {
        "count": hr.Value("BIGINT", 0), "last": hr.Value("DOUBLE", ttl=hr.seconds(5)), "held": hr.Value("STRING"),
        "recent": hr.List("DOUBLE", ttl=hr.seconds(8)), "all": hr.List("BIGINT"),
        "seen": hr.Map("BIGINT", ttl=hr.seconds(6)), "tally": hr.Map("BIGINT"),
    }  # fmt: skip
    shared = {"limit": hr.Value("DOUBLE"), "told": hr.List("STRING"), "by": hr.Map("DOUBLE")}
    output = {"at": "BIGINT NOT NULL", "said": "STRING NOT NULL"}
    side_outputs = {"aside": {"at": "BIGINT NOT NULL", "said": "STRING NOT NULL"}, "bare": {}}

    def on_record(self, row: Row, state: Any) -> Iterator[Any]:
        state.count += 1
        yield from self._do(row["do"] or "", row["x"], state)
        shared = (state.shared.limit, list(state.shared.told), dict(state.shared.by)) if state.shared else None
        yield {"at": state.time, "said": f"{row['do']} {_shown(state)} {shared}"}

    def on_timer(self, name: str, state: Any) -> Iterator[Any]:
        yield {"at": state.time, "said": f"timer {name} {_shown(state)}"}
        if ":then:" in name:
            yield from self._do(name.split(":then:", 1)[1], 1.0, state)

    def _do(self, what: str, x: float | None, state: Any) -> Iterator[Any]:  # noqa: C901
        word, _, rest = what.partition(":")
        match word:
            case "last":
                state.last = x
            case "held":
                state.held = None if x is None else str(x)
            case "recent":
                state.recent.append(x)
            case "all":
                state.all.append(None if x is None else int(x))
                if len(state.all) > 5:
                    del state.all[0]
            case "seen" | "tally":
                kept = getattr(state, word)
                kept[rest] = kept.get(rest, 0) + 1
            case "unseen":
                state.seen.pop(rest, None)
            case "timer":
                after, _, name = rest.partition(":")
                state.set_timer(name, state.time + int(after))
            case "untimer":
                state.clear_timer(rest)
            case "aside":
                yield "aside", {"at": state.time, "said": rest}
                yield "bare", {}
            case "fail":
                yield "aside", {"at": state.time, "said": "lost"}
                state.recent.append(x)
                state.tally["failed"] = 1
                state.set_timer("never", state.time + 1)
                raise ValueError(rest)
            case "off":
                yield {"at": "soon"}

    def on_broadcast(self, row: Row, shared: Any) -> Iterator[Any]:
        shared.told.append(row["do"])
        yield {"k": row["k"], "at": 0, "said": f"rule {row['do']} after {shared.limit}"}
        yield "aside", {"k": "rules", "at": 0, "said": f"rule {row['x']}"}
        shared.by[str(row["k"])] = row["x"]
        if row["x"] is None:
            raise ValueError("no limit")
        shared.limit = row["x"]


class Commands:
    """The methods of two other inputs."""

    def on_command(self, row: Row, state: Any) -> Iterator[Any]:
        state.tally["commands"] = state.tally.get("commands", 0) + 1
        yield from self._do(row["do"] or "", row["x"], state)
        yield {"at": state.time, "said": f"command {row['do']} {_shown(state)}"}

    def on_limit(self, row: Row, state: Any) -> Iterator[Any]:
        state.held = f"limit {row['x']}"
        yield "aside", {"at": state.time, "said": f"limit {_shown(state)}"}


class Commanded(Commands, Machine):
    """The same with two other inputs."""


class Unruled(Machine):
    """The same without a broadcast."""

    shared: dict[str, Any] = {}
    on_broadcast = None


class Told(Commands, Unruled):
    """The same with two other inputs."""


def _shown(state: Any) -> str:
    kept = [state.count, state.last, state.held, list(state.recent), list(state.all), dict(state.seen), dict(state.tally)]
    return json.dumps([*kept, dict(sorted(state.timers.items())), dict(state.key)])


# The reference


class Aged(list):
    """A list whose elements remember when they came."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory, self.stamps = memory, []

    def append(self, value: Any) -> None:
        super().append(value)
        self.stamps.append(self.memory.time)


class AgedMap(dict):
    """A dict whose entries remember when they were set."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory, self.stamps = memory, {}

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.stamps[name] = self.memory.time


class Memory:
    """What a Machine keeps for a key, as plain Python."""

    def __init__(self, key: Row) -> None:
        self.key, self.time, self.now, self.timers, self.shared = key, 0, 0, {}, None
        self.count, self.held, self.all, self.tally = 0, None, [], {}
        self.recent, self.seen, self._last = Aged(self), AgedMap(self), None

    def set_timer(self, name: str, at: int) -> None:
        self.timers[name] = at

    def clear_timer(self, name: str) -> None:
        self.timers.pop(name, None)

    @property
    def last(self) -> float | None:
        return self._last and self._last[1]

    @last.setter
    def last(self, value: float | None) -> None:
        self._last = None if value is None else (self.time, value)

    def forget(self, now: int) -> None:
        if self._last and self._last[0] + 5_000 <= now:
            self._last = None
        left = [(value, at) for value, at in zip(self.recent, self.recent.stamps, strict=True) if at + 8_000 > now]
        self.recent[:], self.recent.stamps = [value for value, _ in left], [at for _, at in left]
        for name in [name for name in self.seen if self.seen.stamps[name] + 6_000 <= now]:
            del self.seen[name]

    def copy(self) -> Memory:
        copied = Memory(self.key)
        copied.__dict__ |= {name: value for name, value in self.__dict__.items() if name not in ("recent", "seen")}
        copied.timers, copied.all, copied.tally = dict(self.timers), list(self.all), dict(self.tally)
        list.extend(copied.recent, self.recent)
        copied.recent.stamps = list(self.recent.stamps)
        dict.update(copied.seen, self.seen)
        copied.seen.stamps = dict(self.seen.stamps)
        return copied


@dataclass
class Shared:
    """What a Machine keeps of its broadcast."""

    limit: float | None = None
    told: list[str] = field(default_factory=list)
    by: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Read:
    """A well-formed record, where it stood, and what its partition's watermark was before it."""

    topic: str
    partition: int
    rank: int
    offset: int
    row: Row
    mark: int
    shown: int

    @property
    def time(self) -> int:
        return int(self.row["t"])


@dataclass
class Answers:
    """What the reference gives: rows by output with the key, failures, and the ledger by topic."""

    rows: list[tuple[str, Row]] = field(default_factory=list)
    failed: list[tuple[str | None, int | None, int | None, str]] = field(default_factory=list)
    ledger: dict[str, dict[str, int]] = field(default_factory=dict)

    def of(self, output: str) -> list[Row]:
        return [row for name, row in self.rows if name == output]


def read(inputs: Mapping[str, Sequence[Lines]], delays: Mapping[str, int]) -> tuple[list[Read], dict[str, int]]:
    """Return the well-formed records in the order of topics, partitions and offsets, and how many lines each topic has."""
    found, received, rank = [], {}, -1
    for topic, parts in inputs.items():
        received[topic] = sum(map(len, parts))
        for number, lines in enumerate(parts):
            rank += 1
            shown = NEVER
            for offset, line in enumerate(lines):
                row = _row(line)
                if row is None:
                    continue
                mark, shown = max(shown - delays[topic], NEVER), max(shown, row["t"])
                found.append(Read(topic, number, rank, offset, row, mark, shown))
    return found, received


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or type(row.get("t")) is not int:
        return None
    x = row.get("x")
    return {name: row.get(name) for name in COLUMNS} | {"x": None if x is None else float(x)}


class Reference:
    """Runs a Machine: give it what happens, in its order, and `end`."""

    def __init__(self, *, failing: bool, ruled: bool, arrival: bool = False) -> None:
        self.machine, self.failing, self.arrival = Commanded(), failing, arrival
        self.told, self.keys = Answers(), {}
        self.shared = Shared() if ruled else None

    def fire(self, upto: int) -> None:
        """Call all timers before a time: by time, then key, then name."""
        while due := [(at, code, name) for code, memory in self.keys.items() for name, at in memory.timers.items() if at < upto]:
            at, code, name = min(due)
            self._timer(code, name, at)

    def record(self, one: Read, clock: int = NEVER, at: int | None = None) -> None:
        """Give a record to the method of its topic, where it is another input than the stream itself, at a time."""
        method, time = getattr(self.machine, f"on_{one.topic}", self.machine.on_record), one.time if at is None else at
        key = {"k": one.row["k"]}
        code = msgspec.msgpack.encode([one.row["k"]])
        memory = self.keys.setdefault(code, Memory(key))
        memory.forget(max(memory.time, clock - 1))
        memory.time = memory.now = time
        memory.forget(time)
        self._call(code, method, dict(one.row), one)
        while not self.arrival and (due := [(at, name) for name, at in self.keys[code].timers.items() if at < time]):
            self._timer(code, min(due)[1], min(due)[0])

    def _timer(self, code: bytes, name: str, at: int) -> None:
        memory = self.keys[code]
        del memory.timers[name]
        memory.time = max(at, memory.time)
        memory.forget(memory.time)
        self._call(code, self.machine.on_timer, name, None)

    def _call(self, code: bytes, method: Any, first: Any, one: Read | None) -> None:
        memory = self.keys[code]
        memory.shared, before = self.shared, memory.copy()
        try:
            given = [part if isinstance(part, tuple) else ("", part) for part in method(first, memory)]
            if any(row.get("at") == "soon" for _, row in given):
                raise ValueError("off")  # noqa: TRY301
        except ValueError:
            assert self.failing
            self.keys[code] = before
            self.told.failed.append((one and one.topic, one and one.partition, one and one.offset, json.dumps(before.key, separators=(",", ":"))))
        else:
            self.told.rows += [(name, {**memory.key, **row}) for name, row in given]

    def tell(self, one: Read) -> None:
        """Tell it of a record of the broadcast; one without a limit is kept out."""
        if one.row["x"] is None:
            self.told.failed.append((one.topic, one.partition, one.offset, "{}"))
        else:
            assert self.shared
            self.told.rows.append(("", {"k": one.row["k"], "at": 0, "said": f"rule {one.row['do']} after {self.shared.limit}"}))
            self.told.rows.append(("aside", {"k": "rules", "at": 0, "said": f"rule {one.row['x']}"}))
            self.shared = Shared(one.row["x"], [*self.shared.told, one.row["do"]], self.shared.by | {str(one.row["k"]): one.row["x"]})


def expected(
    inputs: Mapping[str, Sequence[Lines]],
    delays: Mapping[str, int],
    *,
    rules: str | None = None,
    failing: bool = False,
    arrival: bool = False,
    others: Mapping[str, str] | None = None,
) -> Answers:
    """Return what a Machine gives for all topics but `rules`, which is its broadcast; `others` says of other inputs what becomes of late records."""
    others = others or {}
    taking = {*[rules], *(topic for topic, late in others.items() if late == "take")}
    numbers = {topic: number for number, topic in enumerate(others, 2)} | {rules: 0}
    reference = Reference(failing=failing, ruled=rules is not None, arrival=arrival)
    found, received = read(inputs, delays)
    late = [one for one in found if one.topic not in taking and one.time < one.mark and not arrival]
    if arrival:
        _in_arrival(reference, found, delays, rules)
    else:
        accepted = [one for one in found if one not in late]
        happens = [
            (max(one.time, one.mark) if one.topic in taking else one.time, numbers.get(one.topic, 1), one.rank, one.offset, one) for one in accepted
        ]
        for time, number, *_, one in sorted(happens, key=lambda entry: entry[:4]):
            reference.fire(time)
            if number:
                reference.record(one, at=time)
            else:
                reference.tell(one)
    reference.fire(max((one.time for one in found), default=NEVER) + 1)
    for topic, count in received.items():
        mine, too_late = sum(one.topic == topic for one in found), sum(one.topic == topic for one in late)
        reference.told.ledger[topic] = {"received": count, "accepted": mine - too_late, "malformed": count - mine, "late": too_late}
    return reference.told


def _in_arrival(reference: Reference, found: list[Read], delays: Mapping[str, int], rules: str | None) -> None:
    """Merge the partitions on the greatest time of each so far; one that has been read to its end holds nothing back."""
    marks = dict.fromkeys((one.rank for one in found), NEVER)
    last = {one.rank: one.offset for one in found}
    for one in sorted(found, key=lambda one: (one.shown, one.rank, one.offset)):
        clock = min(marks.values())
        reference.fire(clock)
        if one.topic == rules:
            reference.tell(one)
        else:
            reference.record(one, clock)
        marks[one.rank] = 2**62 if one.offset == last[one.rank] else max(one.shown - delays[one.topic], NEVER)


# Plans


def source(topic: str, delay: int) -> hr.Stream:
    return hr.stream(topic, schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.milliseconds(delay))


def plan_of(
    delays: Mapping[str, int],
    *,
    rules: str | None = None,
    failing: bool = False,
    arrival: bool = False,
    others: Mapping[str, str] | None = None,
    holds: bool = True,
    name: str = "machine",
    **more: Any,
) -> Plan:
    """Return the plan of a Machine over all topics but `rules` and the `others`: main and side outputs to topics of their own."""

    def build() -> dict[str, hr.Stream]:
        first, *rest = (source(topic, delay) for topic, delay in delays.items() if topic not in {rules, *(others or {})})
        told = None if rules is None else source(rules, delays[rules])
        inputs: dict[str, hr.InputStream] = {}
        for topic, late in (others or {}).items():
            late_to = f"late-{topic}" if late == "side" else None
            inputs[topic] = hr.input(source(topic, delays[topic]), late=late, late_to=late_to, holds=holds)
        code = (Commanded if others else Machine)() if rules is not None else (Told if others else Unruled)()
        made = (first.union(*rest) if rest else first).process(
            code,
            by=["k"],
            order="arrival" if arrival else "event_time",
            broadcast=told,
            inputs=inputs,
            failed_to="failed" if failing else None,
            name="machine",
        )
        return {"out": made, "aside": made.side("aside"), "bare": made.side("bare"), **{topic: then(made) for topic, then in more.items()}}

    return hr.pipeline(name, version="1")(build).plan()


def line(second: float, key: str | None = "a", do: str = "", x: float | None = 1.0) -> bytes:
    return json.dumps({"k": key, "t": START + round(second * 1000), "x": x, "do": do}).encode()


def rows_of(lines: Iterable[bytes]) -> list[Row]:
    return [json.loads(one) for one in lines]
