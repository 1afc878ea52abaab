"""A SELECT while it grows: operators are added to it as long as SQL can say them in one, then it becomes a view."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from headrace.engines.flink.expression import Item
from headrace.engines.flink.words import listed, name

__all__ = ["Block", "named"]


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
        Columns that are not the plan's, such as the event time; they are selected along.
    table
        The table or view that `relation` is, if it is no more than that.
    known
        The columns of `relation`.
    constants
        Columns that are the same in every row; they are not selected but where they are written.
    where, group
        Predicates and keys.
    said
        The operators in it, for a comment.
    """

    relation: str
    items: Mapping[str, Item]
    hidden: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None
    known: frozenset[str] = frozenset()
    constants: Mapping[str, Item] | None = None
    where: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    @property
    def row(self) -> dict[str, Item]:
        """All columns that an expression may name."""
        return {**self.items, **(self.constants or {})}

    def takes(self, columns: Collection[str]) -> bool:
        """Return whether an operator that reads `columns` can be said in this very SELECT."""
        return not self.group and not any(self.items[one].computed for one in columns if one in self.items)

    def and_where(self, predicate: str) -> Block:
        """Return this with one more predicate."""
        return replace(self, where=(*self.where, predicate))

    def saying(self, operator: str) -> Block:
        """Return this with one more operator in its comment."""
        return replace(self, said=(*self.said, operator))

    def view(self, called: str) -> Block:
        """Return the SELECT of a view that this was made."""
        columns = {column: item.column(column) for column, item in self.items.items()}
        hidden = {column: name(column) for column in self.hidden}
        return Block(name(called), columns, hidden, called, frozenset([*columns, *hidden]), self.constants)

    def select(self, *extra: str) -> str:
        """Return the text of this SELECT, `extra` columns at its end."""
        parts = {column: item.sql for column, item in self.items.items()} | dict(self.hidden)
        return self.selecting([*(named(made, column) for column, made in parts.items()), *extra])

    def selecting(self, parts: Collection[str]) -> str:
        """Return the text of a SELECT of these columns instead."""
        lines = [listed(parts, "SELECT {}"), f"FROM {self.relation}"]
        if self.where:
            lines.append("WHERE " + "\n  AND ".join(self.where))
        if self.group:
            lines.append(f"GROUP BY {', '.join(self.group)}")
        return "\n".join(lines)


def named(sql: str, column: str) -> str:
    """Return an expression with the name of a column, unless it is that."""
    return sql if sql == name(column) else f"{sql} AS {name(column)}"
