"""Pieces of SQL texts that Flink and Spark write alike: names in backticks, lists over several lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from textwrap import indent

from headrace.errors import PlanError
from headrace.plan.expression import Literal
from headrace.plan.schema import BIGINT

__all__ = ["bare_or", "listed_within", "quoted_name"]


def quoted_name(identifier: str, engine: str) -> str:
    """Return an identifier in backticks. Raises PlanError if it has control characters."""
    if not identifier.isprintable():
        raise PlanError(f"{identifier!r} cannot be a name in {engine} SQL", fix="rename it: a name has no control characters")
    return "`" + identifier.replace("`", "``") + "`"


def bare_or(constant: Literal, literal: Callable[[Literal], str]) -> str:
    """Return a whole number as its digits, another constant as a literal with its type."""
    return str(constant.value) if constant.type == BIGINT and constant.value is not None else literal(constant)


def listed_within(parts: Iterable[str], around: str, width: int) -> str:
    """Return parts with commas between them, within `around`: on its line if they fit, else one a line."""
    parts = list(parts)
    one_line = around.format(", ".join(parts))
    if len(one_line) <= width and "\n" not in one_line:
        return one_line
    inner = "\n" + indent(",\n".join(parts), "  ")
    return around.replace(" {}", "{}").format(f"{inner}\n" if around.endswith(")") else inner)
