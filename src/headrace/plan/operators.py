"""The operators of a plan: small frozen classes, each of which derives the schema of what it gives.

A plan is a graph of them, from sources to sinks. They say what is computed; engines know how.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from headrace.plan.expression import Expression
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
    "Union",
    "Unnest",
    "Where",
    "inputs_of",
    "upstream",
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


def metadata_fields(metadata: Iterable[tuple[str, str]]) -> tuple[Field, ...]:
    """Return the columns that hold what a topic knows of its records, by column name and kind."""
    return tuple(Field(name, *METADATA[kind]) for name, kind in metadata)


def _fields(named: Named) -> tuple[Field, ...]:
    return tuple(Field(name, expression.type) for name, expression in named)


@dataclass(frozen=True)
class Source:
    """A topic read under a schema.

    `delay_ms` is how far the watermark stays behind the greatest event time; `range_ms` what event times are believed;
    `rest` names a MAP of the fields that the schema does not declare, STRING to STRING unless `rest_type` says otherwise;
    `metadata` are columns and the kinds of `METADATA` that they hold.
    """

    topic: str
    declared: Schema
    event_time: Expression | None
    delay_ms: int
    range_ms: tuple[int, int]
    rest: str | None = None
    rest_type: Type = TEXTS
    # Not in the repr: that is part of the identity of saved state, which plans without metadata keep. The text of a source tells it.
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def schema(self) -> Schema:
        """The declared columns, then `rest`, then the metadata."""
        rest = (Field(self.rest, self.rest_type, nullable=False),) if self.rest else ()
        return self.declared.with_fields(*rest, *metadata_fields(self.metadata))

    def __str__(self) -> str:
        metadata = f", metadata {', '.join(f'{name} = {kind}' for name, kind in self.metadata)}" if self.metadata else ""
        return f"stream {self.topic!r} ({self.declared}){metadata}"


@dataclass(frozen=True)
class Derive:
    """Adds columns, or replaces those of the same name."""

    input: Operator
    columns: Named

    @property
    def schema(self) -> Schema:
        """The input's columns and the new ones."""
        return self.input.schema.with_fields(*_fields(self.columns))

    def __str__(self) -> str:
        return f"derive {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Select:
    """Keeps just the columns named."""

    input: Operator
    columns: Named

    @property
    def schema(self) -> Schema:
        """The columns named."""
        return Schema(_fields(self.columns))

    def __str__(self) -> str:
        return f"select {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Where:
    """Keeps the rows of which the predicate is true."""

    input: Operator
    predicate: Expression
    text: str = ""

    @property
    def schema(self) -> Schema:
        """The input's."""
        return self.input.schema

    def __str__(self) -> str:
        return f"where {self.text}"


@dataclass(frozen=True)
class Unnest:
    """A row for each entry of a MAP or element of an ARRAY, in place of that column."""

    input: Operator
    column: str
    key: str | None
    value: str

    @property
    def schema(self) -> Schema:
        """The input's columns but the one unnested, then the key (of a MAP) and the value."""
        kind = self.input.schema[self.column].type
        key = (Field(self.key, kind.key, nullable=False),) if self.key else ()
        return self.input.schema.without(self.column).with_fields(*key, Field(self.value, kind.element))

    def __str__(self) -> str:
        return f"unnest {self.column} as {', '.join(name for name in (self.key, self.value) if name)}"


@dataclass(frozen=True)
class Union:
    """The rows of several streams of one schema."""

    inputs: tuple[Operator, ...]

    @property
    def schema(self) -> Schema:
        """The first input's; a column may be NULL where it may in any input."""
        first = self.inputs[0].schema
        nullable = {name for one in self.inputs for name in one.schema.names if one.schema[name].nullable}
        return Schema(tuple(Field(f.name, f.type, f.name in nullable) for f in first.fields))

    def __str__(self) -> str:
        return f"union of {len(self.inputs)}"


@dataclass(frozen=True)
class Aggregate:
    """Rows grouped by window and keys, and aggregated.

    `calls` are the distinct aggregate calls that the columns are made of, by hidden name.
    """

    input: Operator
    window: Window
    keys: tuple[str, ...]
    columns: Named
    calls: Named
    lateness_ms: int = 0
    late_topic: str | None = None

    @property
    def schema(self) -> Schema:
        """The keys, the aggregates, and the window's own columns."""
        keys = tuple(self.input.schema[key] for key in self.keys)
        return Schema((*keys, *_fields(self.columns))).with_fields(*WINDOW_COLUMNS)

    def __str__(self) -> str:
        lateness = f", lateness {self.lateness_ms} ms" if self.lateness_ms else ""
        late = f", late to {self.late_topic!r}" if self.late_topic else ""
        return f"window {self.window}{lateness}{late} by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class Regroup:
    """The rows of each window grouped further, by fewer keys."""

    input: Operator
    keys: tuple[str, ...]
    columns: Named
    calls: Named

    @property
    def schema(self) -> Schema:
        """The keys, the aggregates, and the window's own columns."""
        keys = tuple(self.input.schema[key] for key in self.keys)
        return Schema((*keys, *_fields(self.columns))).with_fields(*WINDOW_COLUMNS)

    def __str__(self) -> str:
        return f"aggregate by {', '.join(self.keys) or '()'}: {', '.join(name for name, _ in self.columns)}"


@dataclass(frozen=True)
class TopN:
    """The first rows of each window and group, by an order: columns, and whether they fall; `ties` are broken by columns that rise."""

    input: Operator
    count: int
    order: tuple[tuple[str, bool], ...]
    keys: tuple[str, ...]
    ties: tuple[str, ...]

    @property
    def schema(self) -> Schema:
        """The input's, and the row's rank from 1."""
        return self.input.schema.with_fields(Field("rank", BIGINT, nullable=False))

    def __str__(self) -> str:
        order = ", ".join(f"{name}{' DESC' if falls else ''}" for name, falls in self.order)
        return f"top {self.count} of {order} by {', '.join(self.keys) or '()'}"


@dataclass(frozen=True)
class Process:
    """An author's process over the records of each key.

    `code` is the author's object. `arrival` says that records come in the order of the input, not in that of event time;
    `failed_topic` is where those go at which the process raises, None if it then stops. Where it `drops_duplicates`, a record
    for which it gives nothing is one. `pipeline` is the pipeline's name, which dead letters tell.
    """

    input: Operator
    code: object = field(repr=False, compare=False)
    name: str
    declared: Declaration
    keys: tuple[str, ...]
    arrival: bool = False
    broadcast: Operator | None = None
    failed_topic: str | None = None
    drops_duplicates: bool = False
    limit_ms: int = field(default=10_000, repr=False)
    pipeline: str = field(default="", repr=False)

    @property
    def schema(self) -> Schema:
        """The keys, then the columns of the main output."""
        return self.output("")

    def output(self, name: str) -> Schema:
        """Return the columns of an output: the keys, then its own."""
        return Schema((*(self.input.schema[key] for key in self.keys), *self.declared.outputs[name].fields))

    def __str__(self) -> str:
        order = ", in order of arrival" if self.arrival else ""
        broadcast = ", with a broadcast" if self.broadcast is not None else ""
        failed = f", failures to {self.failed_topic!r}" if self.failed_topic else ""
        return f"process {self.name} by {', '.join(self.keys)}{order}{broadcast}{failed}"


@dataclass(frozen=True)
class Side:
    """The rows of a process's side output."""

    input: Process
    name: str

    @property
    def schema(self) -> Schema:
        """The keys, then the columns of the output."""
        return self.input.output(self.name)

    def __str__(self) -> str:
        return f"side output {self.name!r} of {self.input.name}"


@dataclass(frozen=True)
class Sink:
    """A topic that rows are written to, one JSON object each."""

    topic: str
    input: Operator = field(repr=False)

    @property
    def schema(self) -> Schema:
        """The input's."""
        return self.input.schema

    def __str__(self) -> str:
        return f"sink {self.topic!r}"


Operator = Source | Derive | Select | Where | Unnest | Union | Aggregate | Regroup | TopN | Process | Side


def inputs_of(operator: Operator | Sink) -> tuple[Operator, ...]:
    """Return the operators whose rows `operator` takes."""
    match operator:
        case Source():
            return ()
        case Union(inputs=inputs):
            return inputs
        case Process(input=given, broadcast=broadcast) if broadcast is not None:
            return given, broadcast
        case _:
            return (operator.input,)


def upstream(operator: Operator | Sink) -> Iterator[Operator | Sink]:
    """Yield all that `operator` stands on, inputs before what takes them, itself last; a shared one as often as it is met."""
    for one in inputs_of(operator):
        yield from upstream(one)
    yield operator


def maker_of(operator: Operator | Sink) -> Operator | Sink:
    """Return the window, process or source that rows come from; of a union's, the first's."""
    return next(makers_of(operator))


def makers_of(operator: Operator | Sink) -> Iterator[Operator | Sink]:
    """Yield the windows, processes and sources that rows come from."""
    inputs = () if isinstance(operator, Aggregate | Process) else inputs_of(operator)
    if not inputs:
        yield operator
    for one in inputs:
        yield from makers_of(one)


def topics_of(operator: Operator | Sink) -> frozenset[str]:
    """Return the topics that rows come from."""
    return frozenset(one.topic for one in upstream(operator) if isinstance(one, Source))
