"""Rows of a table, by polling a column that increases: the rule that SQLite and PostgreSQL share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from headrace._clock import now_ms
from headrace.connectors.address import Address, seconds
from headrace.connectors.payload_records import Shape
from headrace.connectors.payloads import PARAMETERS, shape_of
from headrace.connectors.protocol import Event, Source
from headrace.errors import PlanError

__all__ = ["PARAMETERS_IN", "Increasing", "Reads", "Row", "increasing", "reads_of"]

PARAMETERS_IN = PARAMETERS | {"table", "after", "id", "lag", "interval", "remember"}
PAGE_ROWS = 1000
_REMEMBER = 2000


class Row(NamedTuple):
    """A row: its value in the column that increases, those that identify it, all of it as a JSON object, and whether it is no late one.

    `after` is a value of JSON.
    """

    after: Any
    key: tuple[Any, ...]
    value: bytes
    later: bool


class Reads(ABC):
    """How rows are read from one kind of database."""

    @abstractmethod
    async def page(self, begin: Any, last: Row | None, most: int) -> Sequence[Row]:  # noqa: ANN401  (a value of JSON)
        """Return rows, ordered by the column that increases and by their key.

        Parameters
        ----------
        begin
            The value from which on; the lag is taken off it. None: from the first row.
        last
            Read behind this one.
        most
            How many at most.

        Raises
        ------
        Unavailable
            If the database does not answer.
        PlanError
            If it never can.
        """

    @abstractmethod
    async def repeated(self, begin: Any) -> int:  # noqa: ANN401
        """Return how many rows are read again: those up to a value, from the lag before it on."""

    @abstractmethod
    async def close(self) -> None:
        """End the session."""


class What(NamedTuple):
    """The query of a database: its table and columns.

    Attributes
    ----------
    table
        Its name, with its schema if that is given.
    after
        The column that increases.
    key
        The columns that identify a row besides that.
    lag
        How far behind the last value rows may still appear: as a text.
    """

    table: tuple[str, ...]
    after: str
    key: tuple[str, ...]
    lag: str | None


def reads_of(one: Address) -> What:
    """Return what an address says of a table."""
    table, after = one.get("table"), one.get("after")
    if table is None or after is None:
        what, fix = ("table", "give table=NAME") if table is None else ("column that increases", "give after=NAME")
        raise PlanError(f"names no {what}", where=one.where, fix=fix)
    parts, key, lag = tuple(table.split(".")), tuple((one.get("id") or after).split(",")), one.get("lag")
    if "" in parts or len(parts) > 2 or "" in key:
        raise PlanError(f"parameter {'id' if '' in key else 'table'} has an empty name", where=one.where, fix="give names")
    if lag is not None and seconds(lag) is None:
        raise PlanError(f"parameter lag is {lag!r}", where=one.where, fix="give a number such as 100, or a duration such as 10s")
    return What(parts, after, tuple(name for name in key if name != after), lag)


def increasing(one: Address, name: str, reads: Reads, what: What) -> Increasing:
    """Return the source of rows that an address means."""
    remember = int(one.number("remember", _REMEMBER, 1, 1_000_000))
    shape = shape_of(one, lambda line: made.tell(line))  # noqa: PLW0108  (what the runner sets later)
    made = Increasing(name, reads, shape, ".".join(what.table), interval=one.seconds("interval", 1.0, 0.01), remember=remember)
    return made


class Increasing(Source):
    """The rows of a table, each once for each value of the column that increases.

    A row may appear late: a transaction that took its value earlier commits later. So rows are read again from some lag before the last
    value on, and those that are known are told by their keys.

    Parameters
    ----------
    name
        The address without secrets.
    reads
        How rows are read.
    shape
        What becomes of a row.
    topic
        What it is given as the topic: the table.
    interval
        Seconds from one look to the next.
    remember
        How many rows are told apart.
    """

    def __init__(self, name: str, reads: Reads, shape: Shape, topic: str, *, interval: float, remember: int) -> None:
        self.name, self._reads, self._shape, self._topic = name, reads, shape, topic
        self._interval = self.pause_seconds = interval
        self.redelivers, self.window = remember, 10_000

    async def open(self, position: Mapping[str, Any] | None) -> AsyncGenerator[Event] | None:
        """Look at the table for the first time. Raises Unavailable if the database does not answer."""
        after = None if position is None else position["after"]
        return self._events(after, await self._first(after))

    async def _first(self, after: Any) -> Sequence[Row]:  # noqa: ANN401  (a value of JSON)
        """Return the first page. Raises PlanError if more rows come again than can be told apart."""
        if after is not None and (count := await self._reads.repeated(after)) > self.redelivers:
            what = f"{count:,} rows lie within the lag before the last one, more than the {self.redelivers:,} that are told apart"
            raise PlanError(what, where=self.name, fix=f"give remember={2 * count}, or a shorter lag")
        return await self._reads.page(after, None, PAGE_ROWS)

    async def _events(self, after: Any, page: Sequence[Row]) -> AsyncGenerator[Event]:  # noqa: ANN401
        known: dict[str, None] = {}
        while True:
            came, begin, seen = False, after, dict[str, None]()
            while True:
                for row in page:
                    name = _name(row)
                    seen[name] = None
                    if name not in known:
                        came = True
                        after = row.after if row.later else after
                        for event in self._made(row, name, after):
                            yield event
                seen = dict.fromkeys(list(seen)[-max(self.redelivers, PAGE_ROWS) :])
                if len(page) < PAGE_ROWS:
                    break
                page = await self._reads.page(begin, page[-1], PAGE_ROWS)
            known = seen
            if not came:
                await asyncio.sleep(self._interval)
            page = await self._first(after)

    def _made(self, row: Row, name: str, after: Any) -> Iterator[Event]:  # noqa: ANN401
        made = self._shape(self._topic, row.value, now_ms())
        for number, one in enumerate(made):
            yield Event(one.value, {"after": after}, one.key, f"{name}/{number}" if number else name, malformed=one.malformed)

    async def close(self) -> None:
        """End the session."""
        await self._reads.close()


def _name(row: Row) -> str:
    """Return what no other row has, nor this one with another value."""
    return "/".join(str(one).replace("~", "~0").replace("/", "~1") for one in (row.after, *row.key))
