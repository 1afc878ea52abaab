"""Shared parts of operators: their traits, their defaults, and the source, whose traits are those of all others at first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, ClassVar, Literal, Self

from headrace.plan.expression import Expression, columns_of
from headrace.plan.schema import BIGINT, STRING, TIMESTAMP, Field, Schema, Type, map_of

__all__ = ["METADATA", "TEXTS", "Named", "OperatorBase", "Source", "Traits", "changed", "digest", "fields_of", "metadata_fields", "read_by", "typed"]

TEXTS = map_of(STRING, STRING)

# What a topic knows of a record besides its value, and whether it may be unknown.
METADATA: dict[str, tuple[Type, bool]] = {
    "key": (STRING, True), "headers": (TEXTS, True), "partition": (BIGINT, False), "offset": (BIGINT, False), "arrival_time": (TIMESTAMP, True),
}  # fmt: skip
Named = tuple[tuple[str, Expression], ...]


def metadata_fields(metadata: Iterable[tuple[str, str]]) -> tuple[Field, ...]:
    """Return the columns that hold what a topic knows of its records, by column name and kind."""
    return tuple(Field(name, *METADATA[kind]) for name, kind in metadata)


def fields_of(named: Named) -> tuple[Field, ...]:
    """Return the columns that expressions compute."""
    return tuple(Field(name, expression.type) for name, expression in named)


def read_by(named: Named, needed: Collection[str]) -> set[str]:
    """Return the columns that the expressions of the needed columns read."""
    return set().union(*(columns_of(expression) for name, expression in named if name in needed))


def changed(named: Named, change: Callable[[Expression], Expression]) -> Named:
    """Return the columns with their expressions changed."""
    return tuple((name, change(expression)) for name, expression in named)


def typed(schema: Schema, names: Collection[str]) -> str:
    """Return columns with their types, as a definition has them."""
    return ", ".join(f"{name} {schema[name].type}" for name in names) or "()"


def digest(calls: Named) -> str:
    """Return a digest of aggregate calls, as a definition has it."""
    text = "\n".join(repr(call) for _, call in calls)
    return blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()


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


class OperatorBase:
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
class Source(OperatorBase):
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
