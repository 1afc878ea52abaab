"""The lines that the fast JSON decoder can be trusted with, as a regular expression.

No fast decoder keeps the rules of `headrace.kernels.reading.rules` by itself: arrow-rs takes `01` and `1.5` for integers,
lets control characters through, and reads two objects on a line as two rows. So a line is given to it only if the line
belongs to a regular language in which it cannot go wrong: one flat object of known keys, each value of the one JSON kind
chosen for its column, strings without escapes, numbers within bounds. The language is a part of JSON; any other line,
good or bad, is read by the rule itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Type, map_of

__all__ = ["KINDS", "even_pattern", "is_plain_name", "kind_of_sample", "line_pattern", "text_pattern"]

_TEXT = r'"[^"\\\x00-\x1f]*"'
_INTEGER = r"(?:0|-?[1-9][0-9]{0,17})"
_NUMBER = rf"(?:-?(?:0|[1-9][0-9]{{0,17}})\.[0-9]{{1,18}}|{_INTEGER})(?:[eE][-+]?[0-9]{{1,2}})?"
_SCALAR = rf"(?:{_TEXT}|{_NUMBER}|true|false|null)"


# A time that is one in every calendar year; the others are left to the rule.
_DAY = r"(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
_HOUR = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf'"[12][0-9]{{3}}-{_DAY}[T ]{_HOUR}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+-]{_HOUR})?"'
_NAME = re.compile(r'[^"\\\x00-\x1f]{0,100}')


def _object(member: str) -> str:
    return rf"\{{ *(?:{member}(?: *, *{member})*)? *\}}"


def _entries(colon_and_value: str) -> str:
    return rf"(?:{_object(f'{_TEXT} *:{colon_and_value}')}|null)"


_ANY = rf"(?:{_SCALAR}|{_object(f'{_TEXT} *: *{_SCALAR}')}|\[ *(?:{_SCALAR}(?: *, *{_SCALAR})*)? *\])"

# For each type, the JSON kinds its values may be taken as, and the language of each.
KINDS: dict[Type, dict[str, str]] = {
    STRING: {"text": rf"(?:{_TEXT}|null)", "integer": rf"(?:{_INTEGER}|null)"},
    BIGINT: {"integer": rf'(?:{_INTEGER}|"{_INTEGER}"|null)'},
    DOUBLE: {"number": rf'(?:{_NUMBER}|"{_NUMBER}"|null)'},
    BOOLEAN: {"boolean": "(?:true|false|null)"},
    TIMESTAMP: {"text": rf"(?:{_TIME}|null)"},
    map_of(STRING, STRING): {"text": _entries(rf" *(?:{_TEXT}|null)")},
    map_of(STRING, DOUBLE): {
        "number": _entries(rf'(?: *(?:{_NUMBER}|"{_NUMBER}"|null)| ?"null")'),
        "text": _entries(rf" *(?:{_TEXT}|null)"),
    },
}


def is_plain_name(name: str) -> bool:
    """Return whether a pattern can have the name in it: JSON writes it as it is, and it is not long."""
    return _NAME.fullmatch(name) is not None


def line_pattern(columns: Mapping[str, tuple[Type, str]], others: Iterable[str]) -> str:
    """Return the pattern of lines made of `columns` (type and kind by name) and of undeclared keys `others`."""
    members = [rf"{_key(name)} *: *{KINDS[kind][chosen]}" for name, (kind, chosen) in columns.items()]
    extra = "|".join(map(_key, others))
    if extra or not members:
        members.append(rf"(?:{extra}) *: *{_ANY}")
    alternatives = "|".join(members)
    return rf"^{_object(f'(?:{alternatives})')}$"


def even_pattern(keys: Iterable[str]) -> str:
    """Return the pattern of lines that have just these keys in this order, each with a text."""
    members = " *, *".join(f"{_key(name)} *: *{_TEXT}" for name in keys)
    return rf"^\{{ *{members} *\}}$"


def text_pattern(line: str) -> str:
    """Return the pattern of texts of whose lines each matches the pattern `line`."""
    inner = line.removeprefix("^").removesuffix("$")
    return rf"^{inner}(?:\n{inner})*$"


def _key(name: str) -> str:
    return re.escape(f'"{name}"').replace("/", r"\x2f").replace(r"\ ", " ")


def kind_of_sample(kind: Type, values: Iterable[object]) -> str:
    """Return the JSON kind that most of a column's sampled values have; `values` are as a JSON parser gives them."""
    if len(KINDS[kind]) == 1:
        return next(iter(KINDS[kind]))
    if kind == STRING:
        found = [value for value in values if value is not None]
        return "integer" if 2 * sum(type(value) is int for value in found) > len(found) else "text"
    entries = [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return "text" if all(inner is None or type(inner) is str for inner in entries) else "number"
