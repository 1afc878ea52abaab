"""Windows in Flink SQL: their table function, what their rows are grouped by, and how these are ordered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from headrace.engines.flink.expression import Item
from headrace.engines.flink.words import duration, name, text
from headrace.errors import PlanError
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Operator, Regroup, TopN
from headrace.plan.window import Window

__all__ = ["grouped_at", "grouped_by", "key_text", "nulls_last", "plus", "window_function", "within_window", "zoned"]


def window_function(window: Window, table: str, time: str) -> str:
    """Return the table function that gives each row once for every window that holds it."""
    given = f"TABLE {name(table)}, DESCRIPTOR({name(time)})"
    size, step = duration(window.size_ms), duration(window.step_ms)
    begins = window.offset_ms % (window.step_ms if window.kind == "sliding" else window.size_ms)
    offset = f", {duration(begins)}" if begins else ""
    match window.kind:
        case "tumbling":
            return f"TABLE(TUMBLE({given}, {size}{offset}))"
        case "sliding":
            return f"TABLE(HOP({given}, {step}, {size}{offset}))"
        case "cumulating":
            return f"TABLE(CUMULATE({given}, {step}, {size}{offset}))"
    raise PlanError(f"{window.kind} windows are not written in Flink SQL yet")


def nulls_last(column: str, *, falls: bool) -> list[str]:
    """Return what orders rows by a column, NULLs behind: Flink holds them for the least."""
    return [f"{column} DESC"] if falls else [f"CASE WHEN {column} IS NULL THEN 1 ELSE 0 END", column]


def grouped_by(node: Node[Operator]) -> tuple[str, ...]:
    """Return the keys by which the rows of windows were last grouped."""
    return node.operator.keys if isinstance(node.operator, Aggregate | Regroup) else grouped_by(node.input)


def grouped_at(node: Node[Operator]) -> Node[Operator]:
    """Return the node that makes the rows of windows which this one only has other columns of."""
    return node if node.is_a(Aggregate, Regroup, TopN) else grouped_at(node.input)


def within_window(node: Node[Operator]) -> Iterator[Node[Operator]]:
    """Yield a node of a window's rows, and those upstream, up to the window."""
    yield node
    if not node.is_a(Aggregate):
        yield from within_window(node.input)


def key_text(keys: Iterable[str]) -> str:
    """Return the keys as one text, by which a log chooses the partition."""
    given = ", ".join(f"COALESCE(CAST({key} AS STRING), '')" for key in keys)
    return f"CONCAT_WS({text(chr(0x1F))}, {given})" if given else "''"


def plus(number: int) -> str:
    """Return a number as it is added to another."""
    return f"{'+' if number >= 0 else '-'} {abs(number)}"


def zoned(held: Item) -> Item:
    """Return a time as one of an instant."""
    return Item(f"CAST({held.sql} AS TIMESTAMP_LTZ(3))", computed=True)
