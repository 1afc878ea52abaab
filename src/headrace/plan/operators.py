"""What nodes of a plan do: small frozen classes. Each says what it makes of its inputs, and knows nothing of where these come from.

An operator gives, for the schemas and traits of its inputs, its own; the columns that it needs of each input; which columns it hands
on as they were; and its text in `headrace plan`. Engines know how it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

from headrace.plan.expression import Column, Expression, columns_of
from headrace.plan.process import Declaration
from headrace.plan.schema import BIGINT, STRING, TIMESTAMP, Field, Schema, Type, map_of
from headrace.plan.window import Window

__all__ = [
    "METADATA",
    "WINDOW_COLUMNS",
    "Aggregate",
    "Derive",
    "Operator",
    "Process",
    "Regroup",
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
    """What is true of a node's rows, whatever is in them.

    Attributes
    ----------
    time
        What has given the rows their time: the record that they are of, the window, or the process.
    origins
        The topics whose records they are made of.
    keys
        Columns that no two rows of one window have in common; of rows of a process those that tell its keys apart. None: there are none.
    rows
        `insert`: each row is final. `revised`: a row replaces that of the same keys and window with a lower revision.
    ordered
        Whether rows come in the order of event time once the watermark has passed them; not those of a process by arrival.
    windowed
        Whether a window stands anywhere before.
    bounds
        The columns that are the bounds of the rows' window.
    """

    time: Literal["record", "window", "process"]
    origins: tuple[Source, ...]
    keys: frozenset[str] | None = None
    rows: Literal["insert", "revised"] = "insert"
    ordered: bool = True
    windowed: bool = False
    bounds: frozenset[str] = frozenset()

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the origins."""
        return frozenset(source.topic for source in self.origins)

    @property
    def made(self) -> bool:
        """Whether windows or processes have made the rows: then none of them is late."""
        return self.time != "record"

    def handing_on(self, hands_on: Callable[[str], tuple[str, ...]]) -> Traits:
        """Return the traits of rows that hand on only such columns, each under the names that `hands_on` gives."""
        keys = None if self.keys is None else [next(iter(hands_on(key)), None) for key in self.keys]
        kept = None if keys is None or None in keys else frozenset(key for key in keys if key)
        return replace(self, keys=kept, bounds=frozenset(bound for bound in self.bounds if bound in hands_on(bound)))

    @staticmethod
    def of_all(given: tuple[Traits, ...]) -> Traits:
        """Return the traits of rows of several inputs."""
        first = given[0]
        return Traits(
            first.time,
            tuple(dict.fromkeys(source for one in given for source in one.origins)),
            rows="revised" if any(one.rows == "revised" for one in given) else "insert",
            ordered=all(one.ordered for one in given),
            windowed=any(one.windowed for one in given),
            bounds=first.bounds.intersection(*(one.bounds for one in given)),
        )


class _Operator:
    """What holds of an operator that does not say otherwise: it has one input, and hands all of it on."""

    kind: ClassVar[str]

    @property
    def label(self) -> str:
        """What a node that does it is called, if no other is called so."""
        return self.kind

    def schema(self, given: Schema) -> Schema:
        """Return the columns of its rows, for those of its input."""
        return given

    def traits(self, given: Traits) -> Traits:
        """Return the traits of its rows, for those of its input."""
        return given.handing_on(self.hands_on)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the columns that it wants of its input, which has the columns `given`, to give the columns `needed`."""
        return set(needed)

    def hands_on(self, name: str) -> tuple[str, ...]:
        """Return the columns that hold an input's column as it was."""
        return (name,)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All expressions in it."""
        return ()

    def reading(self, change: Callable[[Expression], Expression]) -> Self:  # noqa: ARG002
        """Return the operator with each expression changed that reads its input."""
        return self


@dataclass(frozen=True)
class Source(_Operator):
    """A topic read under a schema.

    `delay_ms` is how far the watermark stays behind the greatest event time; `range_ms` what event times are believed;
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
        return Traits("record", (self,))

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The event time, which is over the declared columns and the metadata."""
        return () if self.event_time is None else (self.event_time,)

    def __str__(self) -> str:
        metadata = f", metadata {', '.join(f'{name} = {kind}' for name, kind in self.metadata)}" if self.metadata else ""
        decimal = f", decimal {self.decimal!r}" if self.decimal != "." else ""
        return f"stream {self.topic!r} ({self.declared}){metadata}{decimal}"


@dataclass(frozen=True)
class Derive(_Operator):
    """Adds columns, or replaces those of the same name."""

    kind: ClassVar[str] = "derive"

    columns: Named

    def schema(self, given: Schema) -> Schema:
        """Return the input's columns and the new ones."""
        return given.with_fields(*_fields(self.columns))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return what the wanted new columns read, and the wanted others."""
        return (set(needed) - {name for name, _ in self.columns}) | _read_by(self.columns, needed)

    def hands_on(self, name: str) -> tuple[str, ...]:
        """Return the column if it is not replaced, and the new ones that are nothing but it."""
        return ((name,) if name not in dict(self.columns) else ()) + _named_anew(self.columns, name)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Those of the new columns."""
        return tuple(expression for _, expression in self.columns)

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its columns changed."""
        return replace(self, columns=_changed(self.columns, change))

    def __str__(self) -> str:
        return f"derive {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Select(_Operator):
    """Keeps just the columns named."""

    kind: ClassVar[str] = "select"

    columns: Named

    def schema(self, given: Schema) -> Schema:  # noqa: ARG002
        """Return the columns named."""
        return Schema(_fields(self.columns))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return what the wanted columns read."""
        return _read_by(self.columns, needed)

    def hands_on(self, name: str) -> tuple[str, ...]:
        """Return the columns that are nothing but this one."""
        return _named_anew(self.columns, name)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Those of the columns."""
        return tuple(expression for _, expression in self.columns)

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its columns changed."""
        return replace(self, columns=_changed(self.columns, change))

    def __str__(self) -> str:
        return f"select {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Where(_Operator):
    """Keeps the rows of which the predicate is true."""

    kind: ClassVar[str] = "where"

    predicate: Expression
    text: str = ""

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return what is wanted, and what the predicate reads."""
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
        """Return the input's columns but the one unnested, then the key (of a MAP) and the value."""
        kind = given[self.column].type
        key = (Field(self.key, kind.key, nullable=False),) if self.key else ()
        return given.without(self.column).with_fields(*key, Field(self.value, kind.element))

    def traits(self, given: Traits) -> Traits:
        """Return the input's, but nothing tells the rows of one apart."""
        return replace(given.handing_on(self.hands_on), keys=None)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return what is wanted besides, and the column unnested."""
        return (set(needed) - {self.key, self.value}) | {self.column}

    def hands_on(self, name: str) -> tuple[str, ...]:
        """Return every column but the one unnested."""
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
        """Return what is true of the rows of all inputs."""
        return Traits.of_all(given)

    def __str__(self) -> str:
        return f"union of {self.count}"


@dataclass(frozen=True)
class Aggregate(_Operator):
    """Rows grouped by window and keys, and aggregated.

    `calls` are the distinct aggregate calls that the columns are made of, by hidden name; `name` is the author's, if there is one.
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

    def schema(self, given: Schema) -> Schema:
        """Return the keys, the aggregates, and the window's own columns."""
        return _grouped(given, self.keys, self.columns)

    def traits(self, given: Traits) -> Traits:
        """Return those of rows of a window."""
        rows: Literal["insert", "revised"] = "revised" if self.lateness_ms else given.rows
        return replace(given, time="window", keys=frozenset(self.keys), rows=rows, windowed=True, bounds=_BOUNDS)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the keys and what the calls read; all columns where late rows are written."""
        return set(given.names) if self.late_topic is not None else _grouping(self.keys, self.calls)

    def hands_on(self, name: str) -> tuple[str, ...]:
        """Return the keys."""
        return (name,) if name in self.keys else ()

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The columns, over calls and keys, and the calls."""
        return tuple(expression for _, expression in (*self.columns, *self.calls))

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its calls changed."""
        return replace(self, calls=_changed(self.calls, change))

    def __str__(self) -> str:
        lateness = f", lateness {self.lateness_ms} ms" if self.lateness_ms else ""
        late = f", late to {self.late_topic!r}" if self.late_topic else ""
        return f"window {self.window}{lateness}{late} by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Regroup(_Operator):
    """The rows of each window grouped further, by fewer keys."""

    kind: ClassVar[str] = "aggregate"

    keys: tuple[str, ...]
    columns: Named
    calls: Named

    def schema(self, given: Schema) -> Schema:
        """Return the keys, the aggregates, and the window's own columns."""
        return _grouped(given, self.keys, self.columns)

    def traits(self, given: Traits) -> Traits:
        """Return those of rows of a window."""
        return replace(given, time="window", keys=frozenset(self.keys), bounds=_BOUNDS)

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return the keys and what the calls read."""
        return _grouping(self.keys, self.calls)

    def hands_on(self, name: str) -> tuple[str, ...]:
        """Return the keys."""
        return (name,) if name in self.keys else ()

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The columns, over calls and keys, and the calls."""
        return tuple(expression for _, expression in (*self.columns, *self.calls))

    def reading(self, change: Callable[[Expression], Expression]) -> Self:
        """Return the operator with its calls changed."""
        return replace(self, calls=_changed(self.calls, change))

    def __str__(self) -> str:
        return f"aggregate by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class TopN(_Operator):
    """The first rows of each window and group, by an order: columns, and whether they fall; `ties` are broken by columns that rise."""

    kind: ClassVar[str] = "topn"

    count: int
    order: tuple[tuple[str, bool], ...]
    keys: tuple[str, ...]
    ties: tuple[str, ...]

    def schema(self, given: Schema) -> Schema:
        """Return the input's, and the row's rank from 1."""
        return given.with_fields(Field("rank", BIGINT, nullable=False))

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return what is wanted besides the rank, and what rows are ranked by."""
        return (set(needed) - {"rank"}) | {*self.keys, *self.ties, *(name for name, _ in self.order)}

    def __str__(self) -> str:
        order = ", ".join(f"{name}{' DESC' if falls else ''}" for name, falls in self.order)
        return f"top {self.count} of {order} by {', '.join(self.keys) or '()'}"


@dataclass(frozen=True)
class Process(_Operator):
    """An author's process over the records of each key.

    `code` is the author's object; `takes` are the columns of its records, `told` those of its broadcast, if it has one. `arrival`
    says that records come in the order of the input, not in that of event time; `failed_topic` is where those go at which the
    process raises, None if it then stops. Where it `drops_duplicates`, a record for which it gives nothing is one. `pipeline` is
    the pipeline's name, which dead letters tell.
    """

    kind: ClassVar[str] = "process"

    code: object = field(repr=False, compare=False)
    name: str
    declared: Declaration
    keys: tuple[str, ...]
    takes: Schema = field(repr=False)
    told: Schema | None = None
    arrival: bool = False
    failed_topic: str | None = None
    drops_duplicates: bool = False
    limit_ms: int = field(default=10_000, repr=False)
    pipeline: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        """The process's name."""
        return self.name

    def schema(self, *given: Schema) -> Schema:  # noqa: ARG002
        """Return the keys, then the columns of the main output."""
        return self.output("")

    def output(self, name: str) -> Schema:
        """Return the columns of an output: the keys, then its own."""
        return Schema((*(self.takes[key] for key in self.keys), *self.declared.outputs[name].fields))

    def traits(self, *given: Traits) -> Traits:
        """Return those of rows that a process gives."""
        return replace(
            Traits.of_all(given), time="process", keys=frozenset(self.keys), ordered=not self.arrival and given[0].ordered, bounds=frozenset()
        )

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return all columns: the author's code may read any."""
        return set(given.names)

    def hands_on(self, name: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: a process says itself what it gives."""
        return ()

    def __str__(self) -> str:
        order = ", in order of arrival" if self.arrival else ""
        broadcast = ", with a broadcast" if self.told is not None else ""
        failed = f", failures to {self.failed_topic!r}" if self.failed_topic else ""
        return f"process {self.name} by {', '.join(self.keys)}{order}{broadcast}{failed}"


@dataclass(frozen=True)
class Side(_Operator):
    """The rows of a side output of the process that is its input; `columns` are the output's."""

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
        """Return those of the process's other rows."""
        return given

    def hands_on(self, name: str) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: these are not the rows of the main output."""
        return ()

    def __str__(self) -> str:
        return f"side output {self.name!r} of {self.process}"


@dataclass(frozen=True)
class Sink(_Operator):
    """A topic that rows are written to, one JSON object each."""

    kind: ClassVar[str] = "sink"

    topic: str

    @property
    def label(self) -> str:
        """The topic."""
        return f"sink:{self.topic}"

    def needs(self, needed: Collection[str], given: Schema) -> set[str]:  # noqa: ARG002
        """Return all columns."""
        return set(given.names)

    def __str__(self) -> str:
        return f"sink {self.topic!r}"


Operator = Source | Derive | Select | Where | Unnest | Union | Aggregate | Regroup | TopN | Process | Side | Sink


def _grouped(given: Schema, keys: tuple[str, ...], columns: Named) -> Schema:
    return Schema((*(given[key] for key in keys), *_fields(columns))).with_fields(*WINDOW_COLUMNS)


def _grouping(keys: tuple[str, ...], calls: Named) -> set[str]:
    return {*keys, *(name for _, call in calls for name in columns_of(call))}


def _named_anew(columns: Named, name: str) -> tuple[str, ...]:
    return tuple(new for new, expression in columns if isinstance(expression, Column) and expression.name == name)
