"""Records to the line protocol of InfluxDB: `measurement,tag=a field=1.5 1700000000000000000`. Sans-IO.

A line is written so that InfluxDB reads back exactly the texts and numbers of the record. The protocol has no escape for a backslash
in names and tags: InfluxDB takes it as it is, unless it stands before a comma, an equals sign or a space. A text in which it stands
there, or at the end, would be read differently, so it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.moments import NS, nanoseconds
from headrace.connectors.objects import Unfit
from headrace.kernels.reading.rules import double_of

__all__ = ["RESERVED", "Lines", "escaped"]

RESERVED = frozenset({"time", "_field", "_measurement"})
_FIRST_NS, _LAST_NS = -(2**63) + 2, 2**63 - 2
_MOST_NAMES, _LONGEST_KNOWN = 10_000, 256
_DOUBLE_BITS = 1024
_NULL = type(None)
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f]|\\[,= \\]|\\\Z")
_SPECIAL = re.compile(r"[,= ]")

_decode = msgspec.json.Decoder().decode


def escaped(text: str) -> str:
    """Return a measurement, a name or the value of a tag as the line protocol writes it. Raises Unfit if it cannot."""
    return _known(text) if len(text) <= _LONGEST_KNOWN else _escaped(text)


def _escaped(text: str) -> str:
    if found := _UNWRITABLE.search(text):
        what = "a backslash where the line protocol cannot have one" if found[0][0] == "\\" else f"the control character {found[0]!r}"
        raise Unfit(f"has {what}: {text[:80]!r}")
    return _SPECIAL.sub(r"\\\g<0>", text)


_known = lru_cache(maxsize=_MOST_NAMES)(_escaped)


@dataclass(frozen=True, slots=True)
class Lines:
    """Makes lines of records.

    Attributes
    ----------
    measurement
        What the lines belong to; None: the name of the record's topic.
    time
        The field that is the time.
    time_unit
        What a number there counts since 1970: a name of `NS`; `iso`: numbers are refused.
    tags
        The fields that are tags, each with how it begins in a line.
    fields
        The fields that are fields; None: all that are neither tags nor the time.
    integers
        The fields that are 64-bit integers; all other numbers are floats.
    numbers
        The fields whose texts are numbers: names, in which `*` stands for any characters. A text there that is no number is left out.
    """

    measurement: str | None
    time: str
    time_unit: str
    tags: Mapping[str, str]
    fields: Sequence[str] | None
    integers: frozenset[str]
    numbers: Sequence[str]
    _prefixes: dict[str, str]
    _numeric: dict[str, bool]

    @classmethod
    def of(
        cls,
        measurement: str | None = None,
        time: str = "time",
        time_unit: str = "ms",
        tags: Sequence[str] = (),
        fields: Sequence[str] | None = None,
        integers: Sequence[str] = (),
        numbers: Sequence[str] = (),
    ) -> Lines:
        """Return what makes such lines. Raises Unfit if a name cannot be written."""
        for name in (*integers, *([] if measurement is None else [measurement])):
            escaped(name)
        begins = {name: f",{escaped(name)}=" for name in sorted(tags)}  # InfluxDB sorts tags that are not
        return cls(measurement, time, time_unit, begins, fields, frozenset(integers), tuple(numbers), {}, {})

    def line(self, topic: str, value: bytes) -> bytes:
        """Return the line of a record, without a line feed.

        Raises
        ------
        Unfit
            If it cannot be one: the reason.
        """
        try:
            content = _decode(value)
            if type(content) is not dict:
                raise Unfit("is not a JSON object")
            if b"[" in value or value.find(b"{", 1) >= 0:
                content = _flat(content)
        except NOT_JSON:
            raise Unfit("is not JSON") from None
        at = self._time(content)
        fields = self._fields(content)
        if not fields:
            raise Unfit("has no field: all of them are null, tags or the time")
        measurement = topic if self.measurement is None else self.measurement
        head = _known(measurement) + self._tags(content)
        if head[0] == "#":
            raise Unfit(f"belongs to the measurement {measurement!r}, and a line with # is a comment")
        try:
            return f"{head} {','.join(fields)} {at}".encode()
        except UnicodeEncodeError:
            raise Unfit("has a character that is none: a lone surrogate") from None

    def _tags(self, content: Mapping[str, Any]) -> str:
        written = ""
        for name, begin in self.tags.items():
            value = content.get(name)
            if type(value) is not str:
                if value is None:
                    continue
                value = repr(value).lower()  # true, false or a number
            if value:  # the protocol has no empty tag: the point is without it
                written += begin + (_known(value) if len(value) <= _LONGEST_KNOWN else _escaped(value))
        return written

    def _fields(self, content: Mapping[str, Any]) -> Sequence[str]:
        known, found = self._prefixes, list[str]()
        if self.fields is not None:
            content = {name: content[name] for name in self.fields if name in content}
        for name, value in content.items():
            prefix = known.get(name)
            if prefix is None:
                prefix = self._prefix(name)
            if prefix:
                kind = type(value)
                if kind is float:  # JSON has no NaN
                    found.append(f"{prefix}{value!r}")
                elif kind is str and self.numbers and self._is_number(name):
                    if (number := double_of(value)) is not None:
                        found.append(f"{prefix}{number!r}")
                elif kind is not _NULL:
                    found.append(prefix + _WRITTEN[kind](name, value))
        found += [f"{escaped(name)}={_integer(name, value)}" for name in self.integers if (value := content.get(name)) is not None]
        return found

    def _is_number(self, name: str) -> bool:
        """Return whether the texts of a field are numbers."""
        known = self._numeric.get(name)
        if known is None:
            if len(self._numeric) >= _MOST_NAMES:
                self._numeric.clear()
            known = self._numeric[name] = any(fnmatchcase(name, pattern) for pattern in self.numbers)
        return known

    def _prefix(self, name: str) -> str:
        """Return how a field begins; nothing if it is none, or an integer."""
        if name == self.time or name in self.tags or name in self.integers:
            prefix = ""
        elif not name or name in RESERVED:
            raise Unfit(f"has a field named {name!r}, which InfluxDB does not take; fields= names those that it gets")
        else:
            prefix = escaped(name) + "="
        if len(self._prefixes) >= _MOST_NAMES:
            self._prefixes.clear()
        if len(name) <= _LONGEST_KNOWN:
            self._prefixes[name] = prefix
        return prefix

    def _time(self, content: Mapping[str, Any]) -> int:
        """Return the time of a record, in ns since 1970."""
        given = content.get(self.time)
        factor = NS[self.time_unit]
        if type(given) is int and factor:
            at = given * factor
        elif given is None:
            raise Unfit(f"has no time: nothing is in {self.time!r}")
        else:
            found = nanoseconds(given, factor)
            if found is None:
                raise Unfit(f"has an unreadable time in {self.time!r}: {str(given)[:40]!r}")
            at = found
        if not _FIRST_NS <= at <= _LAST_NS:
            raise Unfit(f"has a time that InfluxDB does not have, outside 1678 to 2262: {str(given)[:40]!r}; time_unit= says what it is counted in")
        return at


def _number(name: str, value: int) -> str:
    if value.bit_length() >= _DOUBLE_BITS:
        raise Unfit(f"has too large a number in {name[:80]!r}")
    return str(value)


def _text(_name: str, value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


_WRITTEN: Mapping[type, Callable[[str, Any], str]] = {
    int: _number,
    str: _text,
    bool: lambda _, value: "true" if value else "false",
}


def _integer(name: str, value: Any) -> str:  # noqa: ANN401  (a value of JSON)
    whole = int(value) if type(value) is float and value.is_integer() else value
    if type(whole) is not int or not -(2**63) <= whole < 2**63:
        raise Unfit(f"has {str(value)[:40]!r} in {name[:80]!r}, which is no 64-bit integer")
    return f"{whole}i"


def _flat(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object whose members' members are its own, named `outer.inner`, and those of arrays `outer.0`."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:  # noqa: ANN401  (a value of JSON)
        if isinstance(value, dict | list):
            for inner, one in value.items() if isinstance(value, dict) else enumerate(value):
                add(f"{name}.{inner}", one)
        elif name in flat:
            raise Unfit(f"has two values named {name[:80]!r}")
        else:
            flat[name] = value

    for name, value in content.items():
        add(name, value)
    return flat
