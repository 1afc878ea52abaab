"""A SELECT while it grows: operators are added to it as long as SQL can say them in one, then it becomes a view."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from headrace.engines.spark.words import listed, name

__all__ = ["Block"]


@dataclass(frozen=True)
class Block:
    """A SELECT.

    Attributes
    ----------
    relation
        What stands behind FROM.
    items
        The columns, by the names that the plan gives them.
    hidden
        Columns that go along with every row and that no plan knows: which record it comes of, or which window.
    computed
        Columns that are more than a name, so that what uses them needs a view between.
    where
        Predicates.
    said
        The operators in it, for a comment.
    """

    relation: str
    items: Mapping[str, str]
    hidden: Mapping[str, str]
    computed: frozenset[str] = frozenset()
    where: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    def takes(self, columns: Collection[str]) -> bool:
        """Return whether an operator that reads `columns` can be said in this very SELECT."""
        return not self.computed & set(columns)

    def saying(self, operator: str) -> Block:
        """Return this with one more operator in its comment."""
        return replace(self, said=(*self.said, operator))

    def view(self, named: str) -> Block:
        """Return the SELECT of a view that this was made."""
        items, hidden = ({column: name(column) for column in columns} for columns in (self.items, self.hidden))
        return Block(name(named), items, hidden)

    def select(self, *extra: str) -> str:
        """Return the text of this SELECT, `extra` columns at its end."""
        columns = [_named(sql, column) for column, sql in (*self.hidden.items(), *self.items.items())]
        return self.selecting([*columns, *extra])

    def selecting(self, parts: Collection[str]) -> str:
        """Return the text of a SELECT of these columns instead."""
        lines = [listed(parts, "SELECT {}"), f"FROM {self.relation}"]
        if self.where:
            lines.append("WHERE " + "\n  AND ".join(self.where))
        return "\n".join(lines)


def _named(sql: str, column: str) -> str:
    return sql if sql == name(column) else f"{sql} AS {name(column)}"
