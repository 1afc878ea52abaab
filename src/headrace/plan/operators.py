"""The operators of a plan: small frozen classes that do not know where their inputs come from.

An operator derives its schema and its traits from those of its inputs. It also states which columns it reads of each input, which
columns it leaves unchanged, and its line in `headrace plan`. How it is executed is the engines' matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, ClassVar, Literal, Self

from headrace.errors import PlanError
from headrace.plan.expression import Call, Column, Expression, columns_of, rebuild
from headrace.plan.expression import Literal as Constant
from headrace.plan.process import Declaration
from headrace.plan.schema import BIGINT, STRING, TIMESTAMP, Field, Schema, Type, map_of
from headrace.plan.window import Window

__all__ = [
    "METADATA",
    "WINDOW_COLUMNS",
    "Aggregate",
    "Derive",
    "KeyedInput",
    "Operator",
    "Over",
    "Process",
    "Regroup",
    "RowOperator",
    "Select",
    "Side",
    "Sink",
    "Source",
    "TopN",
    "Traits",
    "Union",
    "Unnest",
    "Where",
]  # fmt: skip

TEXTS = map_of(STRING, STRING)

# What a topic knows of a record besides its value, and whether it may be unknown.
METADATA: dict[str, tuple[Type, bool]] = {
    "key": (STRING, True), "headers": (TEXTS, True), "partition": (BIGINT, False), "offset": (BIGINT, False), "arrival_time": (TIMESTAMP, True),
}  # fmt: skip
Named = tuple[tuple[str, Expression], ...]

WINDOW_COLUMNS = (
    Field("window_start", TIMESTAMP, nullable=False),
    Field("window_end", TIMESTAMP, nullable=False),
    Field("revision", BIGINT, nullable=False),
)
_BOUNDS = frozenset(["window_start", "window_end"])


def metadata_fields(metadata: Iterable[tuple[str, str]]) -> tuple[Field, ...]:
    """Return the columns that hold what a topic knows of its records, by column name and kind."""
    return tuple(Field(name, *METADATA[kind]) for name, kind in metadata)


def _fields(named: Named) -> tuple[Field, ...]:
    return tuple(Field(name, expression.type) for name, expression in named)


def _read_by(named: Named, needed: Collection[str]) -> set[str]:
    return set().union(*(columns_of(expression) for name, expression in named if name in needed))


def _changed(named: Named, change: Callable[[Expression], Expression]) -> Named:
    return tuple((name, change(expression)) for name, expression in named)


@dataclass(frozen=True, slots=True)
class Traits:
    """Properties of a node's rows that do not depend on their values.

    Attributes
    ----------
    time
        Where the rows' time comes from: their source record, a window, or a process. Rows of several windows or processes that are
        joined by a union have each its own time, as rows of a process do.
    origins
        The sources upstream.
    holding
        The topics among those of the origins whose watermarks hold the rows back, even while these topics are silent.
    keys
        The columns that identify a row within its window. For rows of a process, the columns of its keys. None if these are not known.
    rows
        `insert`: each row is final. `revised`: a row replaces the one with the same keys and window and a lower revision.
    ordered
        Whether rows are emitted in event-time order. Rows of a process with `order="arrival"` are not.
    windowed
        Whether there is a window upstream.
    bounds
        The columns that hold the bounds of the rows' window.
    passed
        Whether a derived row may be emitted only when the watermark is past its time, because there is a process upstream. Rows of
        windows alone are emitted as soon as the watermark reaches their time.
    """

    time: Literal["record", "window", "process"]
    origins: tuple[Source, ...]
    keys: frozenset[str] | None = None
    rows: Literal["insert", "revised"] = "insert"
    ordered: bool = True
    windowed: bool = False
    bounds: frozenset[str] = frozenset()
    holding: frozenset[str] = frozenset()
    passed: bool = False

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the origins."""
        return frozenset(source.topic for source in self.origins)

    @property
    def derived(self) -> bool:
        """Whether the rows come from a window or a process. No such row is late."""
        return self.time != "record"

    def through(self, unchanged: Callable[[str], tuple[str, ...]]) -> Traits:
        """Return the traits behind an operator; `unchanged` gives the names under which it emits a column of its input unchanged."""
        keys = None if self.keys is None else [next(iter(unchanged(key)), None) for key in self.keys]
        kept = None if keys is None or None in keys else frozenset(key for key in keys if key)
        return replace(self, keys=kept, bounds=frozenset(bound for bound in self.bounds if bound in unchanged(bound)))

    @staticmethod
    def of_all(given: tuple[Traits, ...]) -> Traits:
        """Return the traits of the rows of several inputs together."""
        first, several = given[0], len(given) > 1
        return Traits(
            "process" if several and first.derived else first.time,
            tuple(dict.fromkeys(source for one in given for source in one.origins)),
            rows="revised" if any(one.rows == "revised" for one in given) else "insert",
            ordered=all(one.ordered for one in given),
            windowed=any(one.windowed for one in given),
            bounds=frozenset() if several else first.bounds,
            holding=frozenset[str]().union(*(one.holding for one in given)),
            passed=any(one.passed for one in given),
        )


class _Operator:
    """The default of an operator: one input, of which all columns stay unchanged."""

    kind: ClassVar[str]

    @property
    def label(self) -> str:
        """The name of its node, unless another node has it."""
        return self.kind

    def schema(self, given: Schema) -> Schema:
        """Return its schema, for that of its input."""
        return given

    def traits(self, given: Traits) -> Traits:
        """Return its traits, for those of its input."""
        return given.through(self.unchanged)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the columns that it reads of an input with the schema `given`, if only the columns `needed` of its rows are used."""
        return set(needed)

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the names under which it emits a column of its input unchanged."""
        return (name,)

    def definition(self, given: Schema) -> dict[str, Any] | None:  # noqa: ARG002
        """Return the parts of its definition on which its state depends, for the schema of its input; None if it has no state."""
        return None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All its expressions."""
        return ()

    def reading(self, change: Callable[[Expression], Expression]) -> Self:  # noqa: ARG002
        """Return the operator with those expressions changed that read its input."""
        return self


@dataclass(frozen=True)
class Source(_Operator):
    """A topic read under a schema.

    `delay_ms` is the distance of the watermark from the greatest event time; `range_ms` is the range of plausible event times;
    `rest` names a MAP of the fields that the schema does not declare, STRING to STRING unless `rest_type` says otherwise;
    `metadata` are columns and the kinds of `METADATA` that they hold; `decimal` is the decimal sign of numbers in CSV cells.
    """

    kind: ClassVar[str] = "source"

    topic: str
    declared: Schema
    event_time: Expression | None
    delay_ms: int
    range_ms: tuple[int, int]
    rest: str | None = None
    rest_type: Type = TEXTS
    metadata: tuple[tuple[str, str], ...] = ()
    decimal: str = "."

    @property
    def label(self) -> str:
        """The topic."""
        return f"stream:{self.topic}"

    def schema(self) -> Schema:  # type: ignore[override]
        """Return the declared columns, then `rest`, then the metadata."""
        rest = (Field(self.rest, self.rest_type, nullable=False),) if self.rest else ()
        return self.declared.with_fields(*rest, *metadata_fields(self.metadata))

    def traits(self) -> Traits:  # type: ignore[override]
        """Return those of records."""
        return Traits("record", (self,), holding=frozenset([self.topic]))

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The event time, which is over the declared columns and the metadata."""
        return () if self.event_time is None else (self.event_time,)

    def __str__(self) -> str:
        metadata = f", metadata {', '.join(f'{name} = {kind}' for name, kind in self.metadata)}" if self.metadata else ""
        decimal = f", decimal {self.decimal!r}" if self.decimal != "." else ""
        return f"stream {self.topic!r} ({self.declared}){metadata}{decimal}"


@dataclass(frozen=True)
class _Computing(_Operator):
    """What operators that compute columns have in common."""

    columns: Named

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Those of the columns."""
        return tuple(expression for _, expression in self.columns)

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its columns changed."""
        return replace(self, columns=_changed(self.columns, change))


@dataclass(frozen=True)
class Derive(_Computing):
    """Adds columns, or replaces those of the same name."""

    kind: ClassVar[str] = "derive"

    def schema(self, given: Schema) -> Schema:
        """Return the input's columns and the new ones."""
        return given.with_fields(*_fields(self.columns))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns of the input, and those that the needed new columns read."""
        return (set(needed) - {name for name, _ in self.columns}) | _read_by(self.columns, needed)

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the column if it is not replaced, and its copies."""
        return ((name,) if name not in dict(self.columns) else ()) + _named_anew(self.columns, name)

    def __str__(self) -> str:
        return f"derive {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Select(_Computing):
    """Keeps just the columns named."""

    kind: ClassVar[str] = "select"

    def schema(self, given: Schema) -> Schema:  # noqa: ARG002
        """Return the columns named."""
        return Schema(_fields(self.columns))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the columns that the needed columns read."""
        return _read_by(self.columns, needed)

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the copies of the column."""
        return _named_anew(self.columns, name)

    def __str__(self) -> str:
        return f"select {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Where(_Operator):
    """Keeps the rows for which the predicate is true."""

    kind: ClassVar[str] = "where"

    predicate: Expression
    text: str = ""

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns, and those that the predicate reads."""
        return set(needed) | columns_of(self.predicate)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The predicate."""
        return (self.predicate,)

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its predicate changed."""
        return replace(self, predicate=change(self.predicate))

    def __str__(self) -> str:
        return f"where {self.text}"


@dataclass(frozen=True)
class Unnest(_Operator):
    """A row for each entry of a MAP or element of an ARRAY, in place of that column."""

    kind: ClassVar[str] = "unnest"

    column: str
    key: str | None
    value: str

    def schema(self, given: Schema) -> Schema:
        """Return the input's columns without the unnested one, then the key (of a MAP) and the value."""
        kind = given[self.column].type
        key = (Field(self.key, kind.key, nullable=False),) if self.key else ()
        return given.without(self.column).with_fields(*key, Field(self.value, kind.element))

    def traits(self, given: Traits) -> Traits:
        """Return those of the input, without keys: one row becomes several."""
        return replace(given.through(self.unchanged), keys=None)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns of the input, and the unnested one."""
        return (set(needed) - {self.key, self.value}) | {self.column}

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the column, unless it is the unnested one."""
        return () if name == self.column else (name,)

    def __str__(self) -> str:
        return f"unnest {self.column} as {', '.join(name for name in (self.key, self.value) if name)}"


@dataclass(frozen=True)
class Union(_Operator):
    """The rows of several streams of one schema."""

    kind: ClassVar[str] = "union"

    count: int

    def schema(self, *given: Schema) -> Schema:
        """Return the first input's; a column may be NULL where it may in any input."""
        nullable = {name for one in given for name in one.names if one[name].nullable}
        return Schema(tuple(Field(f.name, f.type, f.name in nullable) for f in given[0].fields))

    def traits(self, *given: Traits) -> Traits:
        """Return what holds for the rows of all inputs."""
        return Traits.of_all(given)

    def __str__(self) -> str:
        return f"union of {self.count}"


class _Grouping(_Operator):
    """What operators that group rows have in common: keys, columns over keys and aggregate calls, and the calls by hidden name."""

    keys: tuple[str, ...]
    columns: Named
    calls: Named

    def schema(self, given: Schema) -> Schema:
        """Return the keys, the aggregates, and the window's own columns."""
        return Schema((*(given[key] for key in self.keys), *_fields(self.columns))).with_fields(*WINDOW_COLUMNS)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the keys and the columns that the calls read."""
        return {*self.keys, *(name for _, call in self.calls for name in columns_of(call))}

    def unchanged(self, name: str) -> tuple[str, ...]:
        """Return the column if it is a key."""
        return (name,) if name in self.keys else ()

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The columns (over calls and keys) and the calls."""
        return tuple(expression for _, expression in (*self.columns, *self.calls))

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its calls changed."""
        return replace(self, calls=_changed(self.calls, change))  # type: ignore[type-var]


@dataclass(frozen=True)
class Aggregate(_Grouping):
    """Rows grouped by window and keys, and aggregated.

    `calls` are the distinct aggregate calls in the columns, by hidden name; `name` is the name that the author gave it, if any.
    """

    kind: ClassVar[str] = "window"

    window: Window
    keys: tuple[str, ...]
    columns: Named
    calls: Named
    lateness_ms: int = 0
    late_topic: str | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """The author's name for it, else its keys."""
        return self.name or f"window:{','.join(self.keys)}"

    def traits(self, given: Traits) -> Traits:
        """Return those of a window's rows."""
        rows: Literal["insert", "revised"] = "revised" if self.lateness_ms else given.rows
        return replace(given, time="window", keys=frozenset(self.keys), rows=rows, windowed=True, bounds=_BOUNDS)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:
        """Return the keys and the columns that the calls read; all columns if late rows are written."""
        return set(given.names) if self.late_topic is not None else super().needs(needed, given)

    def definition(self, given: Schema) -> dict[str, Any]:
        """Return keys, window, lateness and aggregates. The values of constants in the aggregates may change."""
        without = tuple((name, _without_constants(call)) for name, call in self.calls)
        return {
            "kind": self.kind,
            "keys": _typed(given, self.keys),
            "window": str(self.window),
            "allowed lateness": f"{self.lateness_ms} ms",
            "aggregates": f"{', '.join(call.function for _, call in self.calls if isinstance(call, Call))} ({_digest(without)})",
        }

    def __str__(self) -> str:
        lateness = f", lateness {self.lateness_ms} ms" if self.lateness_ms else ""
        late = f", late to {self.late_topic!r}" if self.late_topic else ""
        return f"window {self.window}{lateness}{late} by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Regroup(_Grouping):
    """The rows of each window grouped further, by fewer keys."""

    kind: ClassVar[str] = "aggregate"

    keys: tuple[str, ...]
    columns: Named
    calls: Named

    def traits(self, given: Traits) -> Traits:
        """Return those of a window's rows."""
        return replace(given, time="window", keys=frozenset(self.keys), bounds=_BOUNDS)

    def __str__(self) -> str:
        return f"aggregate by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class TopN(_Operator):
    """The first rows of each window and group. `order` has columns and whether they are descending; `ties` are ascending columns."""

    kind: ClassVar[str] = "topn"

    count: int
    order: tuple[tuple[str, bool], ...]
    keys: tuple[str, ...]
    ties: tuple[str, ...]

    def schema(self, given: Schema) -> Schema:
        """Return the input's columns, and the row's rank from 1."""
        return given.with_fields(Field("rank", BIGINT, nullable=False))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the needed columns of the input, and those that decide the rank."""
        return (set(needed) - {"rank"}) | {*self.keys, *self.ties, *(name for name, _ in self.order)}

    def __str__(self) -> str:
        order = ", ".join(f"{name}{' DESC' if falls else ''}" for name, falls in self.order)
        return f"top {self.count} of {order} by {', '.join(self.keys) or '()'}"


@dataclass(frozen=True)
class KeyedInput:
    """Another input of a process, whose records go to the method `on_NAME`.

    `keys` are the columns that stand for those of the process. A record older than its partition's watermark is dropped, or taken at
    the watermark, or written to `late_topic`. If the input `holds`, its watermark holds that of the process back while it is silent.
    """

    name: str
    schema: Schema
    keys: tuple[str, ...]
    late: Literal["drop", "take", "side"] = "drop"
    holds: bool = True
    late_topic: str | None = None

    def __str__(self) -> str:
        side = f" to {self.late_topic!r}" if self.late_topic else ""
        return f"{self.name} (late: {self.late}{side}{'' if self.holds else ', does not hold'})"


@dataclass(frozen=True)
class Process(_Operator):
    """An author's process over the records of each key.

    `code` is the author's object. `broadcast_schema` is None if there is no broadcast. With `arrival` the process receives records
    in the order of its input, else in event-time order. `failed_topic` receives the records at which the process raises; if it is
    None, the run ends there. If the process `drops_duplicates`, a record without output is a duplicate. `pipeline` is the name of
    the pipeline, which dead letters contain. `named` says whether the name is the author's choice, and so no other process may have it.
    `inputs` are its other inputs.
    """

    kind: ClassVar[str] = "process"

    code: object = field(repr=False, compare=False)
    name: str
    declared: Declaration
    keys: tuple[str, ...]
    record_schema: Schema = field(repr=False)
    broadcast_schema: Schema | None = None
    arrival: bool = False
    failed_topic: str | None = None
    drops_duplicates: bool = False
    limit_ms: int = field(default=10_000, repr=False)
    pipeline: str = field(default="", repr=False)
    named: bool = field(default=True, repr=False)
    inputs: tuple[KeyedInput, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """The process's name."""
        return self.name

    def schema(self, *given: Schema) -> Schema:  # noqa: ARG002
        """Return the keys, then the columns of the main output."""
        return self.output("")

    @property
    def key_schema(self) -> Schema:
        """The columns of the key. One may be NULL where it may in any input."""
        keys = [self.record_schema[key] for key in self.keys]
        if self.inputs:
            nullable = [any(one.schema[one.keys[place]].nullable for one in self.inputs) for place in range(len(keys))]
            keys = [replace(key, nullable=key.nullable or other) for key, other in zip(keys, nullable, strict=True)]
        return Schema(tuple(keys))

    def output(self, name: str) -> Schema:
        """Return the columns of an output: the keys, then its own."""
        return Schema((*self.key_schema.fields, *self.declared.outputs[name].fields))

    def traits(self, *given: Traits) -> Traits:
        """Return those of a process's rows."""
        first = len(given) - len(self.inputs)
        holding = [*given[:first], *(one for one, policy in zip(given[first:], self.inputs, strict=True) if policy.holds)]
        return replace(
            Traits.of_all(given),
            time="process",
            keys=frozenset(self.keys),
            ordered=not self.arrival and given[0].ordered,
            rows="insert",
            bounds=frozenset(),
            holding=Traits.of_all(tuple(holding)).holding,
            passed=True,
        )

    def definition(self, given: Schema) -> dict[str, Any]:  # noqa: ARG002
        """Return keys, order and columns. What the process declares of its state is checked when it is restored."""
        return {
            "kind": self.kind,
            "keys": _typed(self.record_schema, self.keys),
            "order": "arrival" if self.arrival else "event_time",
            "columns": {one.name: str(one.type) for one in self.record_schema.fields},
            "broadcast": None if self.broadcast_schema is None else {one.name: str(one.type) for one in self.broadcast_schema.fields},
            "inputs": {one.name: {column.name: str(column.type) for column in one.schema.fields} for one in self.inputs},
        }

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return all columns: the author's code may read each of them."""
        return set(given.names)

    def unchanged(self, name: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: the process builds its rows itself."""
        return ()

    def __str__(self) -> str:
        order = ", in order of arrival" if self.arrival else ""
        broadcast = ", with a broadcast" if self.broadcast_schema is not None else ""
        inputs = f", with inputs {', '.join(map(str, self.inputs))}" if self.inputs else ""
        failed = f", failures to {self.failed_topic!r}" if self.failed_topic else ""
        return f"process {self.name} by {', '.join(self.keys)}{order}{broadcast}{inputs}{failed}"


@dataclass(frozen=True)
class Over(Process):
    """Records with running aggregates over the rows of their key: the process that computes `calls`, by name, over a frame."""

    calls: Named = ()
    frame: str = ""
    waits: bool = field(default=False, repr=False)

    def traits(self, *given: Traits) -> Traits:
        """Return those of a process's rows. Rows that wait for later ones come in no order of time."""
        return replace(super().traits(*given), ordered=not self.waits and given[0].ordered)

    def definition(self, given: Schema) -> dict[str, Any]:
        """Return those of a process, the frame and the calls."""
        calls = ", ".join(call.function for _, call in self.calls if isinstance(call, Call))
        return {**super().definition(given), "frame": self.frame, "aggregates": f"{calls} ({_digest(self.calls)})"}

    def __str__(self) -> str:
        return f"over {self.name} by {', '.join(self.keys)}, {self.frame}: {', '.join(name for name, _ in self.calls)}"


@dataclass(frozen=True)
class Side(_Operator):
    """The rows of a side output of the process that is its input."""

    kind: ClassVar[str] = "side"

    process: str
    name: str
    columns: Schema = field(repr=False)

    @property
    def label(self) -> str:
        """The process's name and the output's."""
        return f"{self.process}.{self.name}"

    def schema(self, given: Schema) -> Schema:  # noqa: ARG002
        """Return the keys, then the columns of the output."""
        return self.columns

    def traits(self, given: Traits) -> Traits:
        """Return those of the process."""
        return given

    def unchanged(self, name: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: its input's schema is that of the main output."""
        return ()

    def __str__(self) -> str:
        return f"side output {self.name!r} of {self.process}"


@dataclass(frozen=True)
class Sink(_Operator):
    """A topic that rows are written to, one JSON object each. The entries of the MAP `spread` are fields of the object itself."""

    kind: ClassVar[str] = "sink"

    topic: str
    spread: str | None = None

    @property
    def label(self) -> str:
        """The topic."""
        return f"sink:{self.topic}"

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return all columns."""
        return set(given.names)

    def refuse_spread(self) -> None:
        """Raise PlanError if a MAP is spread, for an engine or a format that has fixed columns only."""
        if self.spread is not None:
            what = f"writes the entries of {self.spread!r} as fields"
            raise PlanError(what, where=str(self), fix="declare the fields in the schema, or let the embedded engine write JSON")

    def __str__(self) -> str:
        return f"sink {self.topic!r}" if self.spread is None else f"sink {self.topic!r}, spread {self.spread!r}"


# Operators without state, which engines apply to rows as they come.
RowOperator = Source | Derive | Select | Where | Unnest | Union | TopN
Operator = RowOperator | Aggregate | Regroup | Process | Side | Sink


def _typed(schema: Schema, names: Collection[str]) -> str:
    return ", ".join(f"{name} {schema[name].type}" for name in names) or "()"


def _digest(calls: Named) -> str:
    text = "\n".join(repr(call) for _, call in calls)
    return blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def _without_constants(expression: Expression) -> Expression:
    """Return the expression without the values of its constants."""
    return Constant(None, expression.type) if isinstance(expression, Constant) else rebuild(expression, _without_constants)


def _named_anew(columns: Named, name: str) -> tuple[str, ...]:
    return tuple(new for new, expression in columns if isinstance(expression, Column) and expression.name == name)
