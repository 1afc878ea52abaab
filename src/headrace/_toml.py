"""TOML with the line and column of every key and element, for errors that name the place."""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from headrace.errors import PlanError

__all__ = ["Place", "Places", "parse_toml", "read_text"]

Place = tuple[str | int, ...]
"""Keys and, for elements of arrays, numbers from 0."""


class Places:
    """Where in a text each key and each element of an array begins."""

    def __init__(self, file: str, found: dict[Place, tuple[int, int]]) -> None:
        self.file, self._found = file, found

    def __contains__(self, place: Place) -> bool:
        return place in self._found

    def line_and_column(self, place: Place) -> tuple[int, int]:
        """Return the line and column, from 1, of a place; of the nearest one around it if it has none of its own."""
        while place and place not in self._found:
            place = place[:-1]
        return self._found.get(place, (1, 1))

    def where(self, place: Place) -> str:
        """Return the place as an error names it."""
        line, column = self.line_and_column(place)
        return f"{self.file} line {line}, column {column}"


def read_text(path: Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises
    ------
    PlanError
        If it cannot be read, or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise PlanError(f"cannot be read: {what}", where=str(path), fix="does the file exist, and may this user read it?") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise PlanError("is not UTF-8", where=f"{path} line {line}, column {column}", fix="save the file as UTF-8") from None


def parse_toml(text: str, file: str) -> tuple[dict[str, Any], Places]:
    """Return the document and the places of its keys.

    Raises
    ------
    PlanError
        If the text is not TOML. It names the line and column.
    """
    try:
        return tomllib.loads(text), Places(file, _Scanner(text.replace("\r\n", "\n")).scan())
    except RecursionError:
        raise PlanError("is nested too deeply", where=file, fix="write it flatter") from None
    except ValueError as error:
        what, at, place = str(error).rpartition(" (at ")
        where = f"{file} {place.rstrip(')')}" if at and place.startswith("line") else file
        raise PlanError(f"is not TOML: {what if at else error}", where=where, fix="fix this line") from None


class _Scanner:
    """Finds keys in a text that is known to be TOML."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._found: dict[Place, tuple[int, int]] = {}
        self._lines = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]  # where each begins
        self._sizes: dict[Place, int] = {}  # how many elements an array of tables has so far

    def scan(self) -> dict[Place, tuple[int, int]]:
        """Return the places of the whole text."""
        table: Place = ()
        while self._skip(" \t\n"):
            start = self._at
            if self._take("[["):
                *outer, last = self._keys()
                place = (*self._table(outer, start), last)
                self._note(place, start)
                number = self._sizes[place] = self._sizes.get(place, 0) + 1
                table = (*place, number - 1)
                self._note(table, start)
                self._at += 2
            elif self._take("["):
                table = self._table(self._keys(), start)
                self._at += 1
            else:
                self._pair(table)
        return self._found

    def _table(self, keys: Sequence[str], at: int) -> Place:
        """Return the place that the keys of a header name: of an array of tables, its last table."""
        place: Place = ()
        for key in keys:
            place = (*place, key)
            self._note(place, at)
            if place in self._sizes:
                place = (*place, self._sizes[place] - 1)
        return place

    def _pair(self, table: Place) -> None:
        start = self._at
        for key in self._keys():
            table = (*table, key)
            self._note(table, start)
        self._at += 1  # =
        self._skip(" \t")
        self._value(table)

    def _keys(self) -> list[str]:
        """Take a key, whose parts dots join, and the blanks after it."""
        parts: list[str] = []
        while not parts or self._take("."):
            self._skip(" \t")
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                parts += tomllib.loads(f"{self._text[start : self._at]}=0")
            else:
                while self._text[self._at] not in " \t.=]":
                    self._at += 1
                parts.append(self._text[start : self._at])
            self._skip(" \t")
        return parts

    def _value(self, place: Place) -> None:
        if self._text[self._at] in "\"'":
            self._string()
        elif self._take("["):
            number = 0
            while self._skip(" \t\n,") and not self._take("]"):
                self._note((*place, number), self._at)
                self._value((*place, number))
                number += 1
        elif self._take("{"):
            while self._skip(" \t\n,") and not self._take("}"):
                self._pair(place)
        else:
            while self._at < len(self._text) and self._text[self._at] not in ",]}#\n":
                self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        end = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(end)
        while not self._text.startswith(end, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(end)
        if len(end) == 3:  # a quote or two may stand before the three that end it
            while self._text.startswith(quote, self._at):
                self._at += 1

    def _skip(self, characters: str) -> bool:
        """Skip these characters and, where lines are skipped, comments; return whether anything is left."""
        text = self._text
        while self._at < len(text):
            if text[self._at] in characters:
                self._at += 1
            elif text[self._at] == "#" and "\n" in characters:
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            else:
                return True
        return False

    def _take(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        self._at += len(token) if found else 0
        return found

    def _note(self, place: Place, at: int) -> None:
        line = bisect_right(self._lines, at)
        self._found.setdefault(place, (line, at - self._lines[line - 1] + 1))
