"""Types and schemas, written as Flink SQL writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headrace.errors import PlanError, near

__all__ = [
    "BIGINT", "BOOLEAN", "DOUBLE", "FIRST_MS", "LAST_MS", "NULL", "STRING", "TIMESTAMP",
    "Field", "Schema", "Type", "array_of", "check_name", "map_of", "parse_type", "row_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Type:
    """A SQL type. `arguments` are the key and value of a MAP, the element of an ARRAY or a ROW's fields."""

    kind: str
    arguments: tuple[Type, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == "ROW":
            inner = ", ".join(f"{name if _WORD.fullmatch(name) else f'`{name}`'} {kind}" for name, kind in self.fields())
            return f"ROW<{inner}>"
        if self.arguments:
            return f"{self.kind}<{', '.join(map(str, self.arguments))}>"
        return self.kind

    def fields(self) -> Iterator[tuple[str, Type]]:
        """Yield the name and type of each field of a ROW."""
        return zip(self.names, self.arguments, strict=True)

    @property
    def key(self) -> Type:
        """The type of a MAP's keys."""
        return self.arguments[0]

    @property
    def element(self) -> Type:
        """The type of an ARRAY's elements or a MAP's values."""
        return self.arguments[-1]


BOOLEAN = Type("BOOLEAN")
BIGINT = Type("BIGINT")
DOUBLE = Type("DOUBLE")
STRING = Type("STRING")
TIMESTAMP = Type("TIMESTAMP_LTZ(3)")
NULL = Type("NULL")

# A TIMESTAMP_LTZ(3) lies in the years 1 to 9999, the ones that ISO 8601 writes; ms since the epoch.
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999

_SCALARS = {"BOOLEAN": BOOLEAN, "BIGINT": BIGINT, "DOUBLE": DOUBLE, "STRING": STRING, "TIMESTAMP_LTZ(3)": TIMESTAMP}
_MEANT = {
    "INT": "BIGINT", "INTEGER": "BIGINT", "SMALLINT": "BIGINT", "TINYINT": "BIGINT", "LONG": "BIGINT",
    "FLOAT": "DOUBLE", "REAL": "DOUBLE", "DECIMAL": "DOUBLE", "NUMERIC": "DOUBLE", "NUMBER": "DOUBLE",
    "VARCHAR": "STRING", "CHAR": "STRING", "TEXT": "STRING", "BOOL": "BOOLEAN",
    "TIMESTAMP": "TIMESTAMP_LTZ(3)", "TIMESTAMP_LTZ": "TIMESTAMP_LTZ(3)", "TIMESTAMP(3)": "TIMESTAMP_LTZ(3)", "DATETIME": "TIMESTAMP_LTZ(3)",
}  # fmt: skip


def map_of(key: Type, value: Type) -> Type:
    """Return MAP<key, value>."""
    return Type("MAP", (key, value))


def array_of(element: Type) -> Type:
    """Return ARRAY<element>."""
    return Type("ARRAY", (element,))


def row_of(fields: Mapping[str, Type]) -> Type:
    """Return ROW<name type, …>.

    Raises
    ------
    PlanError
        If a field's name cannot be one.
    """
    for name in fields:
        _refuse_name(name, None)
    return Type("ROW", tuple(fields.values()), tuple(fields))


_SPACE = re.compile(r"\s")
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\s*(\w+\s*\([\s\d,]*\)|`[^`]+`|\w+|[<>,])")


class _TypeText:
    """A type's text, read token by token."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _TOKEN.findall(text)
        if _SPACE.sub("", "".join(self.tokens)) != _SPACE.sub("", text):
            raise self.error("cannot be read as a type")

    def error(self, what: str) -> PlanError:
        return PlanError(f"type {self.text!r} {what}", fix=f"the types are {', '.join(_SCALARS)}, MAP<STRING, …>, ARRAY<…> and ROW<name type, …>")

    def take(self, expected: str | None = None) -> str:
        if not self.tokens or (expected and self.tokens[0] != expected):
            raise self.error(f"lacks {expected!r}" if expected else "ends too early")
        return str(self.tokens.pop(0))

    def type(self) -> Type:
        word = _SPACE.sub("", self.take().upper())
        if word in _SCALARS:
            return _SCALARS[word]
        if word not in {"MAP", "ARRAY", "ROW"}:
            base = re.sub(r"\(.*", "", word)
            meant = _MEANT.get(word) or _MEANT.get(base)
            raise PlanError(f"unknown type {word}", where=self.text, fix=f"use {meant}" if meant else near(word, [*_SCALARS, "MAP", "ARRAY", "ROW"]))
        self.take("<")
        if word == "ROW":
            fields = {}
            while True:
                name = self.take().strip("`")
                if name in fields:
                    raise self.error(f"has two fields {name!r}")
                fields[name] = self.type()
                if self.tokens[:1] == [">"]:
                    self.take()
                    return row_of(fields)
                self.take(",")
        arguments = [self.type()]
        if word == "MAP":
            self.take(",")
            arguments.append(self.type())
            if arguments[0] != STRING:
                raise self.error("has a MAP whose keys are not STRING")
        self.take(">")
        return Type(word, tuple(arguments))


def parse_type(text: str) -> Type:
    """Read a type such as `MAP<STRING, DOUBLE>`.

    Raises
    ------
    PlanError
        If the text is not one of headrace's types; it names the one that was probably meant.
    """
    reader = _TypeText(text)
    kind = reader.type()
    if reader.tokens:
        raise reader.error(f"goes on after {kind}")
    return kind


def check_name(name: str, where: str) -> str:
    """Return the column name, if it can be one.

    Raises
    ------
    PlanError
        If it is no text, empty, one that headrace keeps for itself, or one that cannot be a column's.
    """
    if not isinstance(name, str) or not name or name.startswith("@"):
        raise PlanError(f"column name {name!r} cannot be used", where=where, fix="names are not empty and do not start with '@'")
    _refuse_name(name, where)
    return name


def _refuse_name(name: str, where: str | None) -> None:
    """Raise PlanError for a name that no frame can have.

    Wherever Polars takes a name, `*` and what is between `^` and `$` stand for several columns. Arrow's names end at a NUL.
    """
    if "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise PlanError(f"name {name!r} holds a NUL or half a character", where=where, fix="rename it")
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        fix = "rename it; hr.stream(…, rest='others') gives a field of that name in the input as others['…']"
        raise PlanError(f"name {name!r} is a pattern that stands for other columns", where=where, fix=fix)


@dataclass(frozen=True, slots=True)
class Field:
    """A named column: its type, and whether it may be NULL."""

    name: str
    type: Type
    nullable: bool = True

    def __post_init__(self) -> None:
        _refuse_name(self.name, None)

    def __str__(self) -> str:
        return f"{self.name} {self.type}{'' if self.nullable else ' NOT NULL'}"


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a stream, in order."""

    fields: tuple[Field, ...]

    @classmethod
    def parse(cls, columns: Mapping[str, str], where: str = "schema") -> Schema:
        """Read `{"equip_id": "STRING NOT NULL", …}`, and say `where` it stands if it cannot be read."""
        if not isinstance(columns, Mapping):
            raise PlanError(f"{columns!r} is not a table of columns", where=where, fix='write {"column": "STRING"}')
        fields = []
        for name, text in columns.items():
            check_name(name, where)
            if not isinstance(text, str):
                raise PlanError(f"type {text!r} is not a text", where=f"{where}: column {name!r}", fix='write "DOUBLE", say')
            declared = re.sub(r"\s+NOT\s+NULL\s*$", "", text, flags=re.IGNORECASE)
            try:
                fields.append(Field(name, parse_type(declared), nullable=declared == text))
            except PlanError as error:
                raise PlanError(error.what, where=f"{where}: column {name!r}", fix=error.fix) from None
        return cls(tuple(fields))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(field.name for field in self.fields)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise PlanError(f"unknown column {name!r}", fix=near(name, self.names))

    def __str__(self) -> str:
        return ", ".join(map(str, self.fields))

    def with_fields(self, *fields: Field) -> Schema:
        """Return this schema with `fields` put in place of those of the same name, or at the end."""
        merged = {field.name: field for field in (*self.fields, *fields)}
        return Schema(tuple(merged.values()))

    def without(self, *names: str) -> Schema:
        """Return this schema less the columns named."""
        return Schema(tuple(field for field in self.fields if field.name not in names))
