"""Whether rows may go where an author sends them: their order, whether they are final, the columns that they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.errors import PlanError
from headrace.plan.graph import Node
from headrace.plan.operators import WINDOW_COLUMNS, Operator, Over, Source
from headrace.plan.schema import FIRST_MS, LAST_MS
from headrace.plan.window import Window
from headrace.plan.zone import DAY_MS

if TYPE_CHECKING:
    from headrace.plan.stream import Stream

__all__ = ["check_bounds", "check_final", "check_in_time", "check_joined", "check_order", "keys_of"]

_ORDERS = ("event_time", "arrival")


def check_bounds(window: Window, origins: Sequence[Source], where: str) -> None:
    """Raise PlanError if a window of a record could begin before the year 1 or end after 9999: no timestamp says so."""
    for source in origins:
        first, last = source.range_ms
        reach = window.size_ms + 2 * DAY_MS
        if FIRST_MS + reach <= first and last <= LAST_MS - reach:
            continue  # far from both, so that no clocks need be looked up for all the years between
        if window.start_of(window.first_end(first)) < FIRST_MS or window.last_end(last) > LAST_MS:
            what = f"windows {window} at the ends of the event_time_range of {source.topic!r} would lie outside the years 1 to 9999"
            raise PlanError(what, where=where, fix="narrow event_time_range, or take a shorter window")


def check_order(given: Sequence[Node[Operator]], order: str, where: str) -> None:
    """Raise PlanError if a process cannot take the rows of its inputs in an order."""
    if order not in _ORDERS:
        raise PlanError(f"order {order!r} is none", where=where, fix="it is 'event_time' or 'arrival'")
    for rows in given:
        check_in_time(rows, where)
        if rows.traits.derived and order == "arrival":
            raise PlanError("rows of windows and processes come in the order of event time", where=where, fix="leave order= out")


def check_in_time(given: Node[Operator], where: str) -> None:
    """Raise PlanError if a process gave the rows that takes its records as they arrive."""
    if not given.traits.ordered:
        maker = next(one.operator for one in given.upstream() if not one.traits.ordered)
        fix = f"let {maker.label} take its records in the order of event time"
        if isinstance(maker, Over):
            fix = "its rows wait for later ones: take LAG in the later row instead of LEAD"
        raise PlanError(f"the rows of {maker.label} come in no order of time", where=where, fix=fix)


def check_final(given: Node[Operator], where: str) -> None:
    """Raise PlanError if windows with allowed lateness replace rows that they have emitted."""
    if given.traits.rows == "revised":
        raise PlanError(
            "allowed_lateness upstream revises the rows of windows, and these must be final",
            where=where,
            fix="leave allowed_lateness out, or take the rows in a process",
        )


def check_joined(joined: Sequence[Node[Operator]], where: str) -> None:
    """Raise PlanError unless all rows are records, or all are derived rows that come in the order of time and by one watermark."""
    traits = [one.traits for one in joined]
    if not any(one.derived for one in traits):
        return
    if not all(one.derived and one.ordered for one in traits) or len({(one.topics, one.holding) for one in traits}) > 1:
        what = "derived rows are joined only with others that come from the same sources, in the order of event time"
        raise PlanError(what, where=where, fix="write them to topics of their own")
    for one in joined:
        check_final(one, where)


def keys_of(by: Sequence[str], stream: Stream, step: str) -> tuple[str, ...]:
    """Return the columns that a key is made of. Raises PlanError if a column cannot be part of one."""
    keys = (by,) if isinstance(by, str) else tuple(by)
    for key in keys:
        stream._field(key, step)
        if keys.count(key) > 1:
            raise PlanError(f"{key!r} is named twice", where=f"{stream._path}.{step}", fix="name each key once")
        kind = stream.schema[key].type
        if kind.kind in ("MAP", "ARRAY", "ROW", "DOUBLE"):
            raise PlanError(f"{key!r} is a {kind}", where=f"{stream._path}.{step}", fix="group by text, whole numbers, booleans or timestamps")
        if key in {f.name for f in WINDOW_COLUMNS} and step == "window":
            raise PlanError(f"{key!r} is the window's own column", where=f"{stream._path}.{step}", fix="rename it with select()")
    return keys
