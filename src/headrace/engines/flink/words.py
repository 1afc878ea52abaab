"""The smallest pieces of a Flink SQL text: names, constants, types, durations."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.engines.words import bare_or, listed_within, quoted_name
from headrace.errors import PlanError
from headrace.plan.expression import Literal
from headrace.plan.schema import NULL, Type

__all__ = ["bare", "comment", "duration", "listed", "literal", "name", "text", "type_name"]

_UNITS = (("DAY", 86_400_000), ("HOUR", 3_600_000), ("MINUTE", 60_000), ("SECOND", 1000))
_MOST = 100_000  # Flink counts no more of a unit
_WIDTH = 110


def name(identifier: str) -> str:
    """Return an identifier in backticks."""
    return quoted_name(identifier, "Flink")


def text(value: str) -> str:
    """Return a constant text; control characters are escaped, so that it stays on its line."""
    quoted = value.replace("'", "''")
    if value.isprintable():
        return f"'{quoted}'"
    return "U&'" + "".join(f"\\{ord(c):04X}" if ord(c) < 0x10000 and not c.isprintable() else c for c in quoted.replace("\\", "\\\\")) + "'"


def literal(constant: Literal) -> str:
    """Return a constant that has its type also in Flink, where `1` is an INT and `1.5` a DECIMAL."""
    match constant.value:
        case None:
            return f"CAST(NULL AS {type_name(constant.type)})"
        case bool(value):
            return str(value).upper()
        case int(value):
            return f"CAST({value} AS BIGINT)"
        case float(value):
            return _double(value)
        case str(value):
            return text(value)


def bare(constant: Literal) -> str:
    """Return a constant as one writes it where Flink itself sees to its type."""
    return bare_or(constant, literal)


def comment(*lines: str) -> str:
    """Return comment lines. None ends like a statement, at which Flink's SQL client would cut the script."""
    return "".join(f"-- {' '.join(line.split()).rstrip(';')}".rstrip() + "\n" for line in lines)


def _double(value: float) -> str:
    digits = repr(value).upper().replace("E+", "E")
    return digits if "E" in digits else f"{digits}E0"


def type_name(kind: Type) -> str:
    """Return a type as Flink writes it; what is only ever NULL is a STRING."""
    match kind.kind:
        case "ROW":
            return f"ROW<{', '.join(f'{name(field)} {type_name(inner)}' for field, inner in kind.fields())}>"
        case "MAP" | "ARRAY":
            return f"{kind.kind}<{', '.join(map(type_name, kind.arguments))}>"
    return "STRING" if kind == NULL else str(kind)


def duration(ms: int) -> str:
    """Return an INTERVAL in the largest unit that divides it, or else in all of them."""
    for unit, length in _UNITS:
        count = ms // length
        if ms % length == 0 and count < _MOST:
            return f"INTERVAL '{count}' {unit}{f'({len(str(count))})' if count > 99 else ''}"
    days, rest = divmod(ms, 86_400_000)
    if days >= _MOST:
        raise PlanError(f"a duration of {ms} ms cannot be written in Flink SQL", fix=f"take one of less than {_MOST} days")
    (hours, rest), digits = divmod(rest, 3_600_000), max(len(str(days)), 2)
    clock = f"{hours:02d}:{rest // 60_000:02d}:{rest % 60_000 // 1000:02d}.{rest % 1000:03d}"
    return f"INTERVAL '{days} {clock}' DAY{f'({digits})' if digits > 2 else ''} TO SECOND(3)"


def listed(parts: Iterable[str], around: str = "{}") -> str:
    """Return parts with commas between them, within `around`: on its line if they fit, else one a line."""
    return listed_within(parts, around, _WIDTH)
