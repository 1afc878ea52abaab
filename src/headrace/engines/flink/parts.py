"""Parts of a job between its SQL statements: an author's processes, and streams that all of it shares."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["DUPLICATES", "FAILURES", "Hosted", "Once", "Part"]

FAILURES, DUPLICATES = -1, -2  # stand for the numbers of outputs


@dataclass(frozen=True)
class Once:
    """A view that is computed once, whoever reads it: `time` is its rowtime, `now` a column that is made anew."""

    view: str
    time: str
    now: str


@dataclass(frozen=True)
class Hosted:
    """A process: the view of what it gives, as JSON; the views of its rows and of what it is told; and itself, packed.

    `topics` are the sources by the numbers that rows have. `live` says that there is a clock on the wall, `broadcast` that
    it is told records and not the end of the input alone. If `time` is named, the view has that column, by which rows are in time, and `order`
    among those of one. `aside` is the view of records that hold no watermark back. If they are `numbered`, records tell of which input they are.
    """

    view: str
    rows: str
    told: str
    code: str
    topics: tuple[str, ...]
    live: bool = False
    broadcast: bool = False
    time: str = ""
    aside: str = ""
    numbered: bool = False

    def __repr__(self) -> str:
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in {"aside", "numbered"} or getattr(self, one.name)}
        return f"Hosted({', '.join(f'{name}={value!r}' for name, value in given.items())})"


Part = str | Once | Hosted
