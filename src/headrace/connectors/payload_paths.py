"""A path into a JSON value, as addresses name what a message has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from headrace.errors import PlanError

__all__ = ["MISSING", "Path"]

_STEP = re.compile(r"\.(?P<name>[^.\[\]*]+)|\[(?P<index>\d{1,9})\]|\[(?P<quote>['\"])(?P<quoted>.+?)(?P=quote)\]|(?P<each>\.\*|\[\*\])")
MISSING: Any = object()
_EACH: Any = object()


class Path:
    """A path into a JSON value: `$`, `$.a.b`, `$.a[0]`, `$['a b'].c`; with one `*` it leads to each member of an object or array.

    Raises
    ------
    PlanError
        If it is none.
    """

    def __init__(self, text: str, name: str, where: str) -> None:
        self.text, self._steps, place = text, list[Any](), 1
        while text[:1] == "$" and place < len(text) and (match := _STEP.match(text, place)):
            index, each = match["index"], match["each"]
            self._steps.append(_EACH if each else int(index) if index else match["name"] or match["quoted"])
            place = match.end()
        if text[:1] != "$" or place < len(text) or self._steps.count(_EACH) > 1:
            raise PlanError(f"parameter {name} is {text!r}", where=where, fix="give a path such as $.value, $.data[0].v or $.variables.*.value")

    @property
    def each(self) -> bool:
        """Whether it leads to several values."""
        return _EACH in self._steps

    def steps(self, at: str | int | None = None) -> tuple[Any, ...]:
        """Return its steps; `at` stands for the `*`."""
        return tuple(at if step is _EACH else step for step in self._steps)

    def find(self, value: Any, at: str | int | None = None) -> Any:  # noqa: ANN401  (values of JSON)
        """Return what is there, or `_MISSING`; `at` stands for the `*`."""
        for step in self._steps:
            where = at if step is _EACH else step
            if isinstance(value, dict):
                value = value.get(str(where), MISSING)
            elif isinstance(value, list) and isinstance(where, int) and where < len(value):
                value = value[where]
            else:
                return MISSING
        return value

    def lacks(self, value: Any) -> bool:  # noqa: ANN401  (a value of JSON)
        """Return whether nothing is there, not even null."""
        return self.find(value) is MISSING

    def members(self, value: Any) -> Sequence[str | int] | None:  # noqa: ANN401  (a value of JSON)
        """Return what the `*` may stand for; None if there is no object or array."""
        for step in self._steps:
            if step is _EACH:
                return list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else None
            if isinstance(value, dict):
                value = value.get(str(step))
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
        return None
