"""Lines of a file to records: sans-IO."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from headrace.connectors.payload_records import Made, Shape
from headrace.errors import DataError
from headrace.topics.files import csv_header, csv_object

__all__ = ["Csv", "Ndjson"]


class Ndjson:
    """One JSON object a line."""

    header: bytes | None = None

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def records(self, path: str, line: bytes, at_ms: int, *, first: bool) -> Sequence[Made]:
        """Return what a line becomes: records, or what is wrong with it; nothing of a blank line.

        Parameters
        ----------
        path
            The file, for what is said of a line.
        first
            Whether it is the first line of the file.
        """
        line = line.removeprefix(codecs.BOM_UTF8) if first else line
        return self._shape(path, line, at_ms) if line and not line.isspace() else ()


class Csv:
    """Cells below a header line, which is the first that is not blank.

    Parameters
    ----------
    header
        The header line; None before it has come.
    before
        The header line of the log's file before: a log that was truncated goes on without one. So the first line is a header unless it has
        as many cells as that one and shares no name with it.
    """

    def __init__(self, shape: Shape, header: bytes | None = None, before: bytes | None = None) -> None:
        self._shape, self.header = shape, header
        self._before = [] if before is None else self._columns_of(before)[0]
        self._fault: str | None = None
        if header is not None:
            self._take(header)
        self._earlier = before

    def records(self, path: str, line: bytes, at_ms: int, *, first: bool) -> Sequence[Made]:
        """Return what a line becomes, as that of `Ndjson`. Below a header that is wrong, no line can be a record."""
        line = line.removeprefix(codecs.BOM_UTF8) if first else line
        if not line or line.isspace():
            return ()
        if self.header is None and self._is_header(line):
            self._take(line)
            return (Made(line, None, f"{path}: {self._fault}"),) if self._fault else ()
        if self._fault is not None:
            return (Made(line, None, f"{path}: {self._fault}"),)
        try:
            made = csv_object(line.decode(), self._columns, self._separator)
        except UnicodeDecodeError:
            made = "not UTF-8"
        return (Made(line, None, f"{path}: {made}"),) if isinstance(made, str) else self._shape(path, made, at_ms)

    def _is_header(self, line: bytes) -> bool:
        """Return whether a first line is the header, and take the one from before the truncation if it is not."""
        if self._earlier is None:
            return True
        columns, _ = self._columns_of(line)
        if len(columns) != len(self._before) or set(columns) & set(self._before):
            return True
        self._take(self._earlier)
        return False

    @staticmethod
    def _columns_of(line: bytes) -> tuple[list[str], str]:
        try:
            return csv_header(line, "")
        except DataError:
            return [], ","

    def _take(self, line: bytes) -> None:
        self.header, self._fault = line, None
        try:
            self._columns, self._separator = csv_header(line, "")
        except DataError as error:
            self._fault = error.what
            self._columns, self._separator = [], ","
