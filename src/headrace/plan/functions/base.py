"""The entries of the function table, and types that they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace._lazy import lazy_import
from headrace.errors import PlanError
from headrace.plan.functions.regex import regex
from headrace.plan.schema import BIGINT, DOUBLE, NULL, STRING, Type, parse_type

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["Aggregate", "Function", "Signature", "constant", "elementwise", "finite", "signatures", "sql_call"]

ANY, SCALAR, TEXT = Type("T"), Type("S"), Type("TEXT")
_VARIABLES = {"T": ANY, "S": SCALAR, "TEXT": TEXT}


@dataclass(frozen=True, slots=True)
class Signature:
    """The types one form of a function takes and gives: `"STRING, BIGINT -> STRING"`.

    `T` stands for any one type, the same wherever it stands, and `S` for any one that is no MAP, ARRAY or ROW. `TEXT` takes a STRING or a
    BIGINT and makes a STRING of it: the types whose text is the same on every engine. `…` behind the last one means one or more of it.
    """

    takes: tuple[Type, ...]
    gives: Type
    variadic: bool = False

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read a signature from its text."""
        left, right = text.split("->")
        parts = re.split(r",\s*(?![^<]*>)", left.replace("…", "").strip()) if left.strip() else []
        return cls(tuple(map(_type, parts)), _type(right), variadic="…" in left)

    def match(self, given: Sequence[Type]) -> tuple[tuple[Type, ...], Type] | None:
        """Return the types that arguments of the types `given` are cast to, and the result's, or None if they do not fit."""
        takes = self.takes + self.takes[-1:] * (len(given) - len(self.takes)) if self.variadic else self.takes
        if len(takes) != len(given):
            return None
        pairs = list(zip(takes, given, strict=True))
        bound = _meet([g for t, g in pairs if t in (ANY, SCALAR)] + [g.element for t, g in pairs if ANY in t.arguments and g.arguments])
        if SCALAR in takes and bound.arguments:
            return None
        wanted = tuple(_substitute(t, bound) for t in takes)
        if any(not _accepts(t, w, g) for (t, g), w in zip(pairs, wanted, strict=True)):
            return None
        return wanted, _substitute(self.gives, bound)


def signatures(text: str) -> tuple[Signature, ...]:
    """Read the forms of a function, parted by semicolons."""
    return tuple(map(Signature.parse, text.split(";")))


def _type(text: str) -> Type:
    text = text.strip()
    container = re.fullmatch(r"(?:MAP<STRING, |ARRAY<)T>", text)
    if container:
        return Type("MAP", (STRING, ANY)) if text.startswith("MAP") else Type("ARRAY", (ANY,))
    return _VARIABLES.get(text) or parse_type(text)


def _substitute(kind: Type, bound: Type) -> Type:
    if kind in (ANY, SCALAR):
        return bound
    if kind == TEXT:
        return STRING
    if ANY in kind.arguments:
        return Type(kind.kind, (*kind.arguments[:-1], bound))
    return kind


def _meet(types: Sequence[Type]) -> Type:
    """Return the one type that all of `types` can be read as, NULL if there is none; NULL fits any, BIGINT fits DOUBLE."""
    distinct = {kind for kind in types if kind != NULL}
    if distinct == {BIGINT, DOUBLE}:
        return DOUBLE
    return distinct.pop() if len(distinct) == 1 else NULL


def _accepts(takes: Type, wanted: Type, given: Type) -> bool:
    return given in (wanted, NULL) or (given == BIGINT and (wanted == DOUBLE or takes == TEXT))


@dataclass(frozen=True, slots=True)
class Function:
    """A scalar function.

    Parameters
    ----------
    name
        As it is written in SQL. Operators have theirs: `+`, `AND`, `LIKE`.
    signatures
        The forms it has; the first that fits without a cast, else the first that fits.
    summary
        One sentence for the docs.
    polars
        Polars expressions in, one out.
    cases
        SQL texts with what they give: nulls, errors, overflow and text among them.
    flink
        How Flink SQL says it: a template for `sql_call`, or one for each signature. None where plain Flink SQL cannot.
    flink_gaps
        The cases that Flink SQL, said so, answers otherwise: it lets a DOUBLE overflow, counts UTF-16 units, or is lenient.
    spark, spark_gaps
        The same of Spark SQL, which is not to be in ANSI mode. Names that begin with `hr_` are SQL functions that a script defines first.
    nulls
        What NULL arguments give.
    literal
        Positions of arguments that must be constants, and not NULL.
    check
        Takes the values of those constants and raises a PlanError if one is not allowed.
    pattern
        The position of the argument that is a regular expression, if there is one.
    group
        The position of the argument that names one of its groups: a call that has it asks what the group matched.
    """

    name: str
    signatures: tuple[Signature, ...]
    summary: str
    polars: Callable[..., pl.Expr]
    cases: tuple[tuple[str, Any], ...]
    flink: str | tuple[str | None, ...] | None = "{name}({*})"
    flink_gaps: tuple[str, ...] = ()
    spark: str | tuple[str | None, ...] | None = "{name}({*})"
    spark_gaps: tuple[str, ...] = ()
    nulls: str = "NULL if any argument is NULL"
    literal: tuple[int, ...] = ()
    check: Callable[..., None] | None = None
    pattern: int | None = None
    group: int | None = None

    def java_pattern(self, pattern: str, arguments: int) -> str:
        """Return the regular expression of a call with so many arguments in Java's words."""
        return regex(pattern, extracting=self.group is not None and self.group < arguments).java


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate function, in the three parts that folding slice by slice needs. What is not said here is as in `Function`.

    Parameters
    ----------
    fold
        Rows to states: the arguments' Polars expressions in, named aggregate expressions out.
    merge
        States of several slices, in time order, to one state: named columns in, named aggregate expressions out.
    result
        One state to the value: named columns in, one elementwise expression out.
    cases
        A call over columns `x` and `y`, rows for them (pairs, or `x` alone), and what the call gives.
    """

    name: str
    signatures: tuple[Signature, ...]
    summary: str
    fold: Callable[..., Mapping[str, pl.Expr]]
    merge: Callable[[Mapping[str, pl.Expr]], Mapping[str, pl.Expr]]
    result: Callable[[Mapping[str, pl.Expr]], pl.Expr]
    cases: tuple[tuple[str, Sequence[Any], Any], ...]
    flink: str | tuple[str | None, ...] | None = "{name}({*})"
    flink_gaps: tuple[str, ...] = ()
    spark: str | tuple[str | None, ...] | None = "{name}({*})"
    spark_gaps: tuple[str, ...] = ()
    nulls: str = "NULL arguments are passed over; NULL if none is left"
    literal: tuple[int, ...] = ()
    check: Callable[..., None] | None = None


_DIALECTS = {"flink": "Flink SQL", "spark": "Spark SQL"}


def sql_call(function: Function | Aggregate, dialect: str, arguments: Sequence[str], types: Sequence[Type], order: str = "") -> str:
    """Return a call in the SQL of `dialect`, flink or spark.

    `arguments` are in SQL already, of the `types` that the function takes; constants it asks for are bare (`3`). `order` is what the rows
    that an aggregate takes come in the order of. In a template `{0}` is the first argument, `{1…}` the second and all after it, `{*}` all
    of them, `{1i}` the second as an INT, `{name}` the function's name and `{order}` the order.

    Raises
    ------
    PlanError
        If the plain SQL of that dialect has no such function.
    """
    template = getattr(function, dialect)
    if isinstance(template, tuple):
        fitting = (m is not None and m[0] == tuple(types) for m in (s.match(types) for s in function.signatures))
        template = template[list(fitting).index(True)]
    if template is None:
        raise PlanError(f"{_DIALECTS[dialect]} has no {function.name}")

    def fill(placeholder: re.Match[str]) -> str:
        which = placeholder[1]
        if which in ("name", "order"):
            return function.name if which == "name" else order
        if which == "*":
            return ", ".join(arguments)
        if which.endswith("i"):
            return _int(arguments[int(which[:-1])], dialect)
        first = int(which.rstrip("…"))
        return ", ".join(arguments[first:]) if which.endswith("…") else arguments[first]

    return re.sub(r"\{(\d+[…i]?|\*|name|order)\}", fill, template)


_MOST = 1_000_000_000  # more characters than any text has
_WHOLE = re.compile(r"CAST\((-?\d+) AS BIGINT\)|(-?\d+)L")


def _int(argument: str, dialect: str) -> str:
    """Return a BIGINT of SQL as an INT that counts characters: cut to what a text may have, where a cast would wrap around."""
    if whole := _WHOLE.fullmatch(argument):
        return str(min(max(int(whole[1] or whole[2]), -_MOST), _MOST))
    return f"CAST(LEAST(GREATEST({argument}, -{_MOST}), {_MOST}) AS INT)" if dialect == "flink" else f"hr_int({argument})"


def constant(argument: pl.Expr) -> Any:  # noqa: ANN401
    """Return the value of an argument that the function says must be a constant."""
    return pl.select(argument).item()


def elementwise(value: pl.Expr, function: Callable[[pl.Series], pl.Series], gives: pl.DataType | None = None) -> pl.Expr:
    """Return `function` of each batch of `value`, of the type `gives` or of its own.

    Written as one expression, a function that names its argument twice would work out a chain of n calls 2^n times.
    """
    return value.map_batches(function, return_dtype=gives, is_elementwise=True)


def finite(value: pl.Expr) -> pl.Expr:
    """Return the value, NULL where it is NaN or infinite."""
    return elementwise(value, _finite)


def _finite(values: pl.Series) -> pl.Series:
    sound = values.is_finite()
    return values if sound.all() else values.set(~sound, None)
