"""The smallest pieces of a Spark SQL text: names, constants, types."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.engines.words import bare_or, listed_within, quoted_name
from headrace.plan.expression import Literal
from headrace.plan.schema import DOUBLE, NULL, Type

__all__ = ["bare", "listed", "literal", "name", "text", "type_name"]

_WIDTH = 130
_TYPES = {"TIMESTAMP_LTZ(3)": "TIMESTAMP", "NULL": "STRING"}


def name(identifier: str) -> str:
    """Return an identifier in backticks."""
    return quoted_name(identifier, "Spark")


def text(value: str) -> str:
    """Return a constant text; what Spark would take for an escape and what does not print is escaped, so that it stays on its line."""
    return "'" + "".join(map(_letter, value)) + "'"


def _letter(letter: str) -> str:
    if letter in "\\'":
        return "\\" + letter
    return letter if letter.isprintable() or ord(letter) > 0xFFFF else f"\\u{ord(letter):04X}"


def literal(constant: Literal) -> str:
    """Return a constant that has its type also in Spark, where `1` is an INT and `1.5` a DECIMAL."""
    match constant.value:
        case None:
            return f"CAST(NULL AS {type_name(constant.type)})"
        case bool(value):
            return str(value).upper()
        case int(value):
            return f"{float(value)!r}D" if constant.type == DOUBLE else f"{value}L" if value > -(2**63) else f"({value + 1}L - 1L)"
        case float(value):
            return f"{value!r}D"
        case str(value):
            return text(value)


def bare(constant: Literal) -> str:
    """Return a constant as one writes it where Spark itself sees to its type."""
    return bare_or(constant, literal)


def type_name(kind: Type) -> str:
    """Return a type as Spark writes it; what is only ever NULL is a STRING."""
    match kind.kind:
        case "ROW":
            return f"STRUCT<{', '.join(f'{name(field)}: {type_name(inner)}' for field, inner in kind.fields())}>"
        case "MAP" | "ARRAY":
            return f"{kind.kind}<{', '.join(map(type_name, kind.arguments))}>"
    return _TYPES.get(kind.kind, kind.kind) if kind != NULL else "STRING"


def listed(parts: Iterable[str], around: str = "{}") -> str:
    """Return parts with commas between them, within `around`: on its line if they fit, else one a line."""
    return listed_within(parts, around, _WIDTH)
