"""Functions compiled for what a process declares, where a loop over its columns or slots would cost a call for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.plan.schema import Type

__all__ = ["row_maker", "type_check"]

# When a value is of its type for sure; whatever is not, None among it, is looked at more closely.
_SURE = {
    "BOOLEAN": "value is True or value is False",
    "BIGINT": f"type(value) is int and {-(2**63)} <= value < {2**63}",
    "DOUBLE": "type(value) is float and value - value == 0.0",
    "STRING": "type(value) is str and value.isascii()",
}


def row_maker(names: Sequence[str]) -> Callable[..., dict[str, Any]]:
    """Return the function that makes a row of its values, which stand in the order of the names."""
    values = [f"v{place}" for place in range(len(names))]
    items = ", ".join(f"{name!r}: {value}" for name, value in zip(names, values, strict=True))
    made: Callable[..., dict[str, Any]] = eval(f"lambda {', '.join(values)}: {{{items}}}")  # noqa: S307 (names are quoted, and nothing else is the author's)
    return made


def type_check(slots: Sequence[tuple[str, Type]], look: Callable[[Any, str], None]) -> Callable[[Any], None]:
    """Return the function that looks at the values of a state, and calls `look` with the state and each name whose value may be off its type."""
    lines = ["def check(state, look=look):", " pass"]
    for name, kind in slots:  # names are identifiers
        sure = _SURE.get(kind.kind)
        lines += [f" value = state.{name}", f" if not ({sure}): look(state, {name!r})"] if sure else [f" look(state, {name!r})"]
    scope: dict[str, Any] = {"look": look}
    exec(compile("\n".join(lines), __file__, "exec"), scope)  # noqa: S102
    check: Callable[[Any], None] = scope["check"]
    return check
