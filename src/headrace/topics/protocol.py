"""What an engine asks of a topic's partition, be it a file or a log."""

from __future__ import annotations

from typing import Any, Protocol

from headrace.kernels.reading.batch import Records

__all__ = ["PartitionReader"]


class PartitionReader(Protocol):
    """Reads one partition from front to back.

    Attributes
    ----------
    name
        What errors call it.
    columns
        The columns it says it has, or None where each record is a JSON object with keys of its own.
    separator
        What stands between the cells of a record, where records are text and have cells.
    finished
        Whether nothing more will come.
    """

    name: str

    @property
    def columns(self) -> list[str] | None:
        """See above."""

    @property
    def separator(self) -> str | None:
        """See above."""

    @property
    def finished(self) -> bool:
        """See above."""

    @property
    def position(self) -> dict[str, Any]:
        """Where the next record stands; `seek` takes it."""

    def seek(self, position: dict[str, Any]) -> None:
        """Go on reading at a position."""

    def read(self) -> Records:
        """Return the next records, few when few are there; none at the end, or where there were blank lines only."""

    def close(self) -> None:
        """Let go of what is open."""
