"""From SQL text to bound expressions: sqlglot parses with our small Flink dialect, the binder gives the tree its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlglot.errors import ParseError, TokenError

from headrace.errors import PlanError
from headrace.plan.binder import Binder
from headrace.plan.expression import Call, Expression, walk
from headrace.plan.schema import Schema
from headrace.plan.sql_dialect import Headrace, first_line, quoted, tokens_of, tree_of

__all__ = ["parse_expression"]

# Words that shape an expression: a column of such a name stands unquoted only where the text has no other reading.
_SYNTAX = frozenset({
    "AND", "AS", "BETWEEN", "CASE", "CAST", "DISTINCT", "ELSE", "END", "FALSE", "FILTER", "FROM", "IN", "INTERVAL", "IS", "LIKE", "NOT", "NULL",
    "OR", "THEN", "TRUE", "TRY_CAST", "WHEN", "WHERE",
})  # fmt: skip


def parse_expression(
    text: str,
    schema: Schema,
    settings: Mapping[str, Any] | None = None,
    *,
    where: str = "expression",
    aggregates: bool = False,
) -> Expression:
    """Read the SQL `text` over the columns of `schema`; `:name` stands for a setting.

    Raises
    ------
    PlanError
        If the text cannot be parsed, or names a column, function or setting that there is not, or the types do not fit.
        The error names `where`, the text, and what was probably meant.
    """
    place = f"{where}: {' '.join(text.split())!r}"
    try:
        return _bind(text, schema, Binder(schema, settings or {}, aggregates=aggregates))
    except PlanError as error:
        raise PlanError(error.what, where=place, fix=error.fix) from None
    except (ParseError, TokenError) as error:
        raise PlanError(f"cannot be parsed: {first_line(error)}", where=place) from None
    except RecursionError:
        raise PlanError("is nested too deeply", where=place) from None


def _bind(text: str, schema: Schema, binder: Binder) -> Expression:
    """Return what the text means, words of syntax taken as columns of that name only if it has no meaning otherwise."""
    dialect, names = Headrace(), set(schema.names)
    text, found = tokens_of(dialect, text)
    try:
        return binder.bind(tree_of(dialect, quoted(found, names, _SYNTAX), text))
    except (ParseError, PlanError) as first:
        if not any(name.upper() in _SYNTAX for name in names):
            raise
        try:
            return binder.bind(tree_of(dialect, quoted(found, names, frozenset()), text))
        except PlanError as second:
            raise (second if isinstance(first, ParseError) else first) from None
        except ParseError:
            raise first from None


def has_aggregate(expression: Expression) -> bool:
    """Return whether an aggregate function is called anywhere inside."""
    return any(isinstance(node, Call) and node.aggregate for node in walk(expression))
