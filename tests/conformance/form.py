"""Cases of the conformance suite, as their JSON form has them (README.md), and the jobs they make."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

import headrace as hr
from conformance import processes
from conformance.engine import FATES, Job, Outcome, Row
from headrace.plan.pipeline import Plan

FOLDER = Path(__file__).parent / "cases"
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class _Strict(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    pass


class Source(_Strict):
    """A topic, as `hr.stream` takes it."""

    schema: dict[str, str]
    event_time: str | None = None
    watermark: str = "0s"
    event_time_range: tuple[str, str] | None = None
    rest: str | None = None


class Input(_Strict, rename={"from_": "from"}):
    """Another input of a process, as `hr.input` takes it."""

    from_: str
    late: Literal["drop", "take", "side"] = "drop"
    holds: bool = True
    by: list[str] | None = None
    late_to: str | None = None


class Operator(_Strict, rename={"from_": "from"}):
    """One operator: the first field that is set says which, the others belong to it."""

    from_: str | None = None
    union: list[list[Operator]] | None = None
    unnest: str | None = None
    derive: dict[str, str] | None = None
    select: list[str] | dict[str, str] | None = None
    where: str | None = None
    window: dict[Literal["tumbling", "sliding", "cumulating"], str | tuple[str, str]] | None = None
    aggregate: dict[str, str] | None = None
    process: str | None = None
    side: str | None = None
    deduplicate: list[str] | None = None
    top_n: int | None = None
    over: dict[str, str] | None = None
    rows: int | None = None
    order: str | list[str] | None = None
    broadcast: str | None = None
    inputs: dict[str, Input] | None = None
    failed_to: str | None = None
    within: str | None = None
    key: str | None = None
    value: str | None = None
    by: list[str] | None = None
    allowed_lateness: str | None = None
    late_to: str | None = None
    offset: str | None = None
    zone: str | None = None

    @property
    def kind(self) -> str:
        """Which operator it is. Raises ValueError if it is none, or if a field is not of that operator."""
        given = {field for field in self.__struct_fields__ if getattr(self, field) is not None}
        for kind, fields in _FIELDS.items():
            if kind in given and given <= {kind, *fields}:
                return kind
        raise ValueError(f"not an operator: {msgspec.to_builtins(self)}")


_FIELDS: dict[str, set[str]] = {
    "from_": set(), "union": set(), "unnest": {"key", "value"}, "derive": set(), "select": set(), "where": set(),
    "window": {"by", "allowed_lateness", "late_to", "offset", "zone"}, "aggregate": {"by"}, "process": {"by", "order", "broadcast", "inputs", "failed_to"}, "side": set(),
    "deduplicate": {"within"}, "top_n": {"by", "order"},
    "over": {"by", "rows", "within"},
}  # fmt: skip


class Pipeline(_Strict):
    """Operators by sink, and by the name of what several sinks share."""

    sinks: dict[str, list[Operator]]
    streams: dict[str, list[Operator]] = {}


class Step(_Strict):
    """Rows that come (by `topic/partition`; a text names a file of `cases/data`), the end of a partition, or a restart."""

    rows: dict[str, list[Row] | str] | None = None
    end: str | None = None
    restart: bool | None = None


class Case(_Strict):
    """A case. `unsupported` and `differs` are by engine."""

    name: str
    origin: str
    sources: dict[str, Source]
    steps: list[Step]
    pipeline: Pipeline
    expected: dict[str, list[Row]]
    verified: Literal["origin", "reference", "hand"]
    ledger: dict[str, dict[str, int]] = {}
    dead: dict[str, list[int]] = {}
    unsupported: dict[str, str] = {}
    differs: dict[str, str] = {}
    note: str = ""

    def plan(self) -> Plan:
        """Return the plan, made as a pipeline's author makes it."""
        return hr.pipeline(self.name, version="1")(lambda: _Streams(self).sinks()).plan()

    def job(self) -> Job:
        """Return the job: the plan, and the rows of all steps by partition."""
        partitions: dict[str, list[list[bytes]]] = {topic: [[]] for topic in self.sources}
        restarts, ended = [], set()
        for step in self.steps:
            if [step.rows, step.end, step.restart].count(None) != 2:
                raise ValueError(f"{self.name}: a step is either rows, an end or a restart")
            if step.restart:
                restarts.append({topic: [len(records) for records in of] for topic, of in partitions.items()})
            if step.end:
                ended.add(step.end)
            for name, rows in (step.rows or {}).items():
                topic, _, number = name.rpartition("/")
                of = partitions[topic]
                of += [[] for _ in range(len(of), int(number) + 1)]
                if name in ended:
                    raise ValueError(f"{self.name}: {name} has ended")
                of[int(number)] += _records(rows)
        for counts in restarts:  # a partition may come later
            for topic, of in partitions.items():
                counts[topic] += [0] * (len(of) - len(counts[topic]))
        return Job(self.plan(), partitions, tuple(restarts))

    def outcome(self, job: Job) -> Outcome:
        """Return what is expected of `job`. Raises ValueError if the facts do not fit each other."""
        if set(self.expected) != set(job.plan.topics):
            raise ValueError(f"{self.name}: writes {job.plan.topics}, not {[*self.expected]}")
        dead: dict[str, list[Row]] = {topic: [] for topic in self.sources}
        for name, offsets in self.dead.items():
            topic, _, number = name.rpartition("/")
            records = job.inputs[topic][int(number)]
            dead[topic] += [letter(topic, int(number), offset, records[offset]) for offset in offsets]
        ledger: dict[str, dict[str, int | None]] = {}
        for topic, counts in self.ledger.items():
            ledger[topic] = {"received": sum(map(len, job.inputs[topic]))} | dict.fromkeys(FATES, 0) | counts
            if sum(counts.values()) != ledger[topic]["received"] or not counts.keys() <= set(FATES) or counts.get("malformed", 0) != len(dead[topic]):
                raise ValueError(f"{self.name}: the ledger of {topic} does not add up")
        return Outcome(self.expected, dead, ledger)


def letter(topic: str, partition: int, offset: int, raw: bytes) -> Row:
    """Return the dead letter of a malformed record."""
    place = {"topic": topic, "partition": partition, "offset": offset, "reason": "malformed"}
    try:
        return {**place, "raw": raw.decode()}
    except UnicodeDecodeError:
        return {**place, "raw_base64": base64.b64encode(raw).decode()}


def _records(rows: list[Row] | str) -> Iterator[bytes]:
    if isinstance(rows, str):
        yield from (FOLDER / "data" / rows).read_bytes().splitlines()
        return
    for row in rows:
        match row:
            case {"raw": str(raw)} if len(row) == 1:
                yield raw.encode()
            case {"raw_base64": str(raw)} if len(row) == 1:
                yield base64.b64decode(raw)
            case _:
                yield json.dumps(row, ensure_ascii=False).encode()


class _Streams:
    """The streams of one case, each made once."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._made: dict[str, hr.Stream] = {}

    def sinks(self) -> dict[str, hr.Stream]:
        return {topic: self._chain(operators) for topic, operators in self._case.pipeline.sinks.items()}

    def _named(self, name: str) -> hr.Stream:
        if name not in self._made:
            shared = self._case.pipeline.streams.get(name)
            self._made[name] = self._chain(shared) if shared is not None else self._source(name)
        return self._made[name]

    def _source(self, topic: str) -> hr.Stream:
        source = self._case.sources[topic]
        believed = {} if source.event_time_range is None else {"event_time_range": source.event_time_range}
        return hr.stream(
            topic, schema=source.schema, event_time=source.event_time, watermark=duration(source.watermark), rest=source.rest, **believed
        )  # fmt: skip

    def _chain(self, operators: list[Operator]) -> hr.Stream:
        first, *others = operators
        if first.kind != "from_":
            raise ValueError(f"{self._case.name}: operators begin with from")
        stream: Any = self._named(first.from_)
        for one in others:
            stream = self._then(stream, one)
        return stream

    def _then(self, stream: Any, one: Operator) -> Any:
        match one.kind:
            case "union":
                return stream.union(*map(self._chain, one.union))
            case "unnest":
                return stream.unnest(one.unnest, value=one.value, key=one.key)
            case "derive":
                return stream.derive(**one.derive)
            case "select":
                return stream.select(*one.select) if isinstance(one.select, list) else stream.select(**one.select)
            case "where":
                return stream.where(one.where)
            case "window":
                made = stream.window(window(one), by=one.by or (), allowed_lateness=duration(one.allowed_lateness or "0s"))
                return made.late_to(one.late_to) if one.late_to else made
            case "aggregate":
                return stream.aggregate(**one.aggregate) if one.by is None else stream.aggregate(by=one.by, **one.aggregate)
        return self._processed(stream, one)

    def _processed(self, stream: Any, one: Operator) -> Any:
        match one.kind:
            case "process":
                given = {"order": one.order or "event_time", "failed_to": one.failed_to}
                broadcast = None if one.broadcast is None else self._named(one.broadcast)
                inputs = {
                    name: hr.input(self._named(by.from_), late=by.late, holds=by.holds, by=by.by, late_to=by.late_to)
                    for name, by in (one.inputs or {}).items()
                }
                return stream.process(processes.NAMED[one.process], by=one.by, broadcast=broadcast, inputs=inputs, **given)
            case "side":
                return stream.side(one.side)
            case "deduplicate":
                return stream.deduplicate(one.deduplicate, within=duration(one.within))
            case "over":
                within = None if one.within is None else duration(one.within)
                return stream.over(by=one.by, rows=one.rows, time=within, **one.over)
            case "top_n":
                return stream.top_n(one.top_n, order=one.order, by=one.by or ())
        raise ValueError(f"{self._case.name}: {one.kind} is not where it can be")


def milliseconds(text: str) -> int:
    """Return a duration such as `90s` in ms."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text)
    if not found:
        raise ValueError(f"not a duration: {text!r}")
    return int(found[1]) * UNITS[found[2]]


def duration(text: str) -> timedelta:
    """Return a duration such as `90s`."""
    return hr.milliseconds(milliseconds(text))


def window(one: Operator) -> hr.Window:
    """Return the window of a window operator."""
    ((kind, lengths),) = one.window.items()
    given = {} if one.zone is None else {"zone": one.zone}
    given |= {} if one.offset is None else {"offset": duration(one.offset)}
    return getattr(hr, kind)(*map(_length, (lengths,) if isinstance(lengths, str) else lengths), **given)


def _length(text: str) -> Any:
    return hr.months(int(text.removesuffix("mo"))) if text.endswith("mo") else duration(text)


def read(text: bytes | str) -> list[Case]:
    """Return the cases of a file. Raises msgspec.ValidationError where it is not as the form has it."""
    return msgspec.json.decode(text, type=list[Case])


def written(case: Case) -> str:
    """Return a case in the JSON form."""
    return json.dumps(msgspec.to_builtins(case), ensure_ascii=False, indent=1)


def load() -> dict[str, Case]:
    """Return all cases by name."""
    cases: dict[str, Case] = {}
    for path in sorted(FOLDER.glob("*.json")):
        for case in read(path.read_bytes()):
            if case.name in cases:
                raise ValueError(f"{path.name}: {case.name} is there twice")
            cases[case.name] = case
    return cases
