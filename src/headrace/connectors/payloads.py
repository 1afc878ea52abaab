"""Messages to records: what an address says of topics and payloads. Sans-IO.

A payload is passed on as it is, one JSON object, or becomes readings. What cannot be a record is returned with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any, NamedTuple

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.address import Address
from headrace.connectors.tagged import Strangers, Units, reading_as, tag_of, tags_of
from headrace.errors import PlanError, near
from headrace.kernels.reading.rules import bigint_of, double_of
from headrace.plant.quality import Quality
from headrace.plant.tags import Tag

__all__ = ["PARAMETERS", "Made", "Path", "Shape", "limit_of", "shape_of", "too_long"]

PARAMETERS = frozenset({"as", "topic_field", "arrival_field", "max_bytes", "tag", "value", "time", "time_unit", "quality", "unit", "tags"})
MAX_BYTES = 1 << 20
_CUT_BYTES = 65_536
_PER_MS = {"ms": 1.0, "s": 0.001, "us": 1e3, "ns": 1e6}
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999
_STEP = re.compile(r"\.(?P<name>[^.\[\]*]+)|\[(?P<index>\d{1,9})\]|\[(?P<quote>['\"])(?P<quoted>.+?)(?P=quote)\]|(?P<each>\.\*|\[\*\])")
_PLACE = re.compile(r"\{([^{}]+)\}")
_MISSING: Any = object()
_EACH: Any = object()

_decode = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Made(NamedTuple):
    """A record made of a message, with its key; or what came, and why it cannot be a record."""

    value: bytes
    key: str | None = None
    malformed: str | None = None


Shape = Callable[[str, bytes, int], Sequence[Made]]
"""Returns what a message becomes, of its topic, its payload and the time of its arrival (ms since the epoch)."""


class Path:
    """A path into a JSON value: `$`, `$.a.b`, `$.a[0]`, `$['a b'].c`; with one `*` it leads to each member of an object or array.

    Raises
    ------
    PlanError
        If it is none.
    """

    def __init__(self, text: str, name: str, where: str) -> None:
        self.text, self._steps, place = text, list[Any](), 1
        while text[:1] == "$" and place < len(text) and (match := _STEP.match(text, place)):
            index, each = match["index"], match["each"]
            self._steps.append(_EACH if each else int(index) if index else match["name"] or match["quoted"])
            place = match.end()
        if text[:1] != "$" or place < len(text) or self._steps.count(_EACH) > 1:
            raise PlanError(f"parameter {name} is {text!r}", where=where, fix="give a path such as $.value, $.data[0].v or $.variables.*.value")

    @property
    def each(self) -> bool:
        """Whether it leads to several values."""
        return _EACH in self._steps

    def steps(self, at: str | int | None = None) -> tuple[Any, ...]:
        """Return its steps; `at` stands for the `*`."""
        return tuple(at if step is _EACH else step for step in self._steps)

    def find(self, value: Any, at: str | int | None = None) -> Any:  # noqa: ANN401  (values of JSON)
        """Return what is there, or `_MISSING`; `at` stands for the `*`."""
        for step in self._steps:
            where = at if step is _EACH else step
            if isinstance(value, dict):
                value = value.get(str(where), _MISSING)
            elif isinstance(value, list) and isinstance(where, int) and where < len(value):
                value = value[where]
            else:
                return _MISSING
        return value

    def lacks(self, value: Any) -> bool:  # noqa: ANN401  (a value of JSON)
        """Return whether nothing is there, not even null."""
        return self.find(value) is _MISSING

    def members(self, value: Any) -> Sequence[str | int] | None:  # noqa: ANN401  (a value of JSON)
        """Return what the `*` may stand for; None if there is no object or array."""
        for step in self._steps:
            if step is _EACH:
                return list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else None
            if isinstance(value, dict):
                value = value.get(str(step))
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
        return None


def shape_of(address: Address, tell: Callable[[str], object], *, texts: bool = False) -> Shape:
    """Return what the parameters of an address say of its messages.

    Parameters
    ----------
    tell
        Is given a line for what is noticed, such as another unit.
    texts
        Whether all values are texts, as the cells of CSV are: then a text that is a number is a number where a reading has one.

    Raises
    ------
    PlanError
        If one of them is wrong, or does nothing beside the others.
    """
    kind = address.choice("as", ["json", "reading"])
    idle = ("tag", "value", "time", "time_unit", "quality", "unit") if kind == "json" else ("topic_field", "arrival_field")
    for name in idle:
        if address.get(name) is not None:
            other = "reading" if kind == "json" else "json"
            raise PlanError(f"parameter {name} is only for as={other}", where=address.where, fix=f"leave it out, or give as={other}")
    limit = limit_of(address)
    make = _Objects(address) if kind == "json" else _Readings(address, tell, texts=texts)

    def shape(topic: str, payload: bytes, at_ms: int) -> Sequence[Made]:
        if len(payload) > limit:
            return [too_long(topic, payload, len(payload), limit)]
        try:
            return make(topic, payload, at_ms)
        except _Unfit as unfit:
            return [Made(payload, None, f"{topic}: {unfit}")]

    return shape


def limit_of(address: Address, default: int = MAX_BYTES) -> int:
    """Return how many bytes a payload may have, by the parameter `max_bytes`."""
    return int(address.number("max_bytes", default, 1, 256 << 20))


def too_long(topic: str, payload: bytes, size: int, limit: int) -> Made:
    """Return what a payload of too many bytes becomes, of which at least the first are there."""
    return Made(payload[: min(_CUT_BYTES, limit)], None, f"{topic}: has {size:,} bytes, more than {limit:,}; the first of them are here")


class _Unfit(Exception):
    """A payload cannot be a record."""


class _Objects:
    """JSON objects as they are, with the topic and the time of arrival as further fields, if these are asked for."""

    def __init__(self, address: Address) -> None:
        self._topic, self._arrival = address.get("topic_field"), address.get("arrival_field")

    def __call__(self, topic: str, payload: bytes, at_ms: int) -> Sequence[Made]:
        try:
            if not payload.isascii():
                payload.decode()
            fields = _decode_object(payload)
        except UnicodeDecodeError:
            raise _Unfit("is not UTF-8") from None
        except msgspec.ValidationError:
            raise _Unfit("is not a JSON object") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise _Unfit(f"is not JSON: {error}") from None
        added: dict[str, Any] = {}
        if self._topic is not None:
            added[self._topic] = topic
        if self._arrival is not None:
            added[self._arrival] = at_ms
        return [Made(_encode({**fields, **added}) if added else payload)]


class _Readings:
    """Values with tag, time, quality and unit."""

    def __init__(self, address: Address, tell: Callable[[str], object], *, texts: bool = False) -> None:
        where, self._units, self._strangers, self._texts = address.where, Units(tell), Strangers(tell), texts

        def path(name: str) -> Path | None:
            text = address.get(name)
            return None if text is None else Path(text, name, where)

        self._value, self._time, self._quality = path("value"), path("time"), path("quality")
        unit = address.get("unit")
        self._unit = None if unit is None or unit[:1] == "$" else unit
        self._unit_path = path("unit") if unit is not None and self._unit is None else None
        each = self._value is not None and self._value.each
        self._tag = _template(address.get("tag") or ("{topic}/{*}" if each else "{topic}"), each=each, where=where)
        for name, one in (("time", self._time), ("quality", self._quality), ("unit", self._unit_path)):
            if one is not None and one.each and not each:
                raise PlanError(f"parameter {name} has a *, and value has none", where=where, fix="give both a *, or none")
        self._each = each
        self._beside = {one.steps() for one in (self._time, self._quality, self._unit_path) if one is not None and not one.each}
        unit_of_time = address.get("time_unit") or "ms"
        if unit_of_time not in {*_PER_MS, "iso"}:
            raise PlanError(f"parameter time_unit is {unit_of_time!r}", where=where, fix=near(unit_of_time, [*_PER_MS, "iso"]))
        self._per_ms = _PER_MS.get(unit_of_time)
        self._tags = tags_of(address.get("tags"))
        self._places: dict[str, list[tuple[Path, Tag]]] = {}
        for tag in self._tags or ():
            topic, hash_, rest = (tag.source or "").partition("#")
            if hash_:
                self._places.setdefault(topic, []).append((Path(rest, f"source of tag {tag.path}", where), tag))

    def __call__(self, topic: str, payload: bytes, at_ms: int) -> Sequence[Made]:
        content = self._content(payload)
        if (places := self._places.get(topic)) is not None:
            return self._of_tags(places, content, at_ms)
        if not self._each:
            return [self._reading(topic, content, None, at_ms)]
        assert self._value is not None
        members = self._value.members(content)
        if members is None:
            raise _Unfit(f"has no object and no array where {self._value.text} has its *")
        found = []
        for member in members:
            if self._value.steps(member) in self._beside:  # the time that all of them have is none of the values
                continue
            try:
                found.append(self._reading(topic, content, member, at_ms))
            except _Unfit as unfit:
                found.append(Made(payload, None, f"{topic}: {member}: {unfit}"))
        return found

    def _of_tags(self, places: Sequence[tuple[Path, Tag]], content: Any, at_ms: int) -> Sequence[Made]:  # noqa: ANN401  (a value of JSON)
        """Return the readings of the tags that have their place in this topic's messages. A message need not have all of them."""
        there = [(path, tag, path.find(content)) for path, tag in places]
        found = [self._made(tag.path, tag, value, content, None, at_ms) for _, tag, value in there if value is not _MISSING]
        if not found:
            raise _Unfit(f"has nothing where the tag list looks in this topic: {', '.join(path.text for path, _ in places[:5])}")
        return found

    def _content(self, payload: bytes) -> Any:  # noqa: ANN401  (a value of JSON)
        """Return the payload as a value of JSON; as a text if it is none, and no path leads into it."""
        try:
            return _decode(payload)
        except NOT_JSON as error:
            why = f"is not JSON: {error}"
        if self._value is not None or payload[:1] in {b"{", b"["}:
            raise _Unfit(why)
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise _Unfit("is not UTF-8") from None

    def _reading(self, topic: str, content: Any, member: str | int | None, at_ms: int) -> Made:  # noqa: ANN401  (a value of JSON)
        value = content if self._value is None else self._value.find(content, member)
        name = self._tag(topic, content, member)
        tag = tag_of(self._tags, name)
        if tag is None and self._tags is not None:
            self._strangers.note(name)
        return self._made(name, tag, value, content, member, at_ms)

    def _made(self, name: str, tag: Tag | None, value: Any, content: Any, member: str | int | None, at_ms: int) -> Made:  # noqa: ANN401
        """Return the reading of a value, with what else the payload says of it."""
        if self._texts:
            value = _number_of(value)
        if isinstance(value, dict | list):
            fix = "" if self._value is not None else "; value=$.… says where the value is"
            raise _Unfit(f"the value is an {'object' if isinstance(value, dict) else 'array'}{fix}")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            value = _float_of(value)
        unit = self._unit
        if self._unit_path is not None and isinstance(given := self._unit_path.find(content, member), str):
            unit = given
        unit = self._units.known(tag, name, unit)
        reading = reading_as(tag, name)(
            None if value is _MISSING else value,
            at_ms,
            source_time=self._time_of(content, member),
            quality=self._quality_of(content, member),
            unit=unit,
        )
        return Made(reading.encode(), reading.tag)

    def _time_of(self, content: Any, member: str | int | None) -> int | None:  # noqa: ANN401  (a value of JSON)
        """Return the source's time; None if it gives none."""
        if self._time is None or (given := self._time.find(content, member)) is _MISSING or given is None:
            return None
        found: float = float("nan")
        if self._texts and self._per_ms is not None:
            given = _number_of(given)
        if isinstance(given, str):
            try:
                moment = datetime.fromisoformat(given)
            except ValueError:
                raise _Unfit(f"the time {given[:40]!r} is not ISO 8601") from None
            found = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
        elif isinstance(given, int | float) and not isinstance(given, bool) and self._per_ms is not None:
            found = _float_of(given) / self._per_ms
        if not _FIRST_MS <= found <= _LAST_MS:
            raise _Unfit(f"the time {str(given)[:40]} is not a time from the year 1 to 9999; time_unit= says what it is counted in")
        return round(found)

    def _quality_of(self, content: Any, member: str | int | None) -> int:  # noqa: ANN401  (a value of JSON)
        if self._quality is None or (given := self._quality.find(content, member)) is _MISSING or given is None:
            return Quality.GOOD
        if self._texts:
            given = {"true": True, "false": False}.get(str(given).lower(), _number_of(given))
        if isinstance(given, bool):
            return Quality.GOOD if given else Quality.BAD
        if isinstance(given, int) and 0 <= given < 1 << 32:
            return given
        if isinstance(given, str) and (name := re.sub(r"[\s_-]", "", given).upper()) in _QUALITIES:
            return _QUALITIES[name]
        raise _Unfit(f"the quality {str(given)[:40]!r} is none")


def _float_of(value: float) -> float:
    """Return a number as one of 64 bits; JSON has integers of hundreds of digits, which are infinite then."""
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def _number_of(value: Any) -> Any:  # noqa: ANN401  (a value of JSON)
    """Return the number that a text is; another value as it is."""
    if not isinstance(value, str):
        return value
    number = double_of(value)
    if number is None:
        return value
    whole = bigint_of(value) if value.strip().lstrip("+-").isdigit() else None
    return number if whole is None else whole


_QUALITIES: Mapping[str, Quality] = {quality.name.replace("_", ""): quality for quality in Quality}


def _template(text: str, *, each: bool, where: str) -> Callable[[str, Any, str | int | None], str]:
    """Return what makes the tag of a reading: `{topic}`, `{1}` for a level of the topic, `{$.path}`, and `{*}`."""
    parts: list[str | int | Path] = []
    for number, part in enumerate(_PLACE.split(text)):
        if number % 2 == 0 or part in {"topic", "*"}:
            parts.append(part if number % 2 == 0 else f"{{{part}}}")
        elif part[:1] == "$":
            parts.append(Path(part, "tag", where))
        elif part.isascii() and part.isdigit() and 0 < int(part) < 1000:
            parts.append(int(part))
        else:
            raise PlanError(f"parameter tag has {{{part}}}", where=where, fix="give {topic}, {1} for a level of the topic, {$.path} or {*}")
    if ("{*}" in parts) != each:
        fix = "give tag={topic}/{*}, or the like" if each else "give value= a path with a *"
        raise PlanError("parameter tag needs a {*} exactly if the path of value has a *", where=where, fix=fix)

    def tag(topic: str, content: Any, member: str | int | None) -> str:  # noqa: ANN401  (a value of JSON)
        return "".join(_filled(parts, topic, content, member))

    return (lambda topic, _content, _member: topic) if text == "{topic}" else tag


def _filled(parts: Sequence[str | int | Path], topic: str, content: Any, member: str | int | None) -> Iterator[str]:  # noqa: ANN401
    levels = topic.split("/")
    for part in parts:
        if part == "{topic}":
            yield topic
        elif part == "{*}":
            yield str(member)
        elif isinstance(part, str):
            yield part
        elif isinstance(part, int):
            if part > len(levels):
                raise _Unfit(f"the topic has no level {part}, which tag= asks for")
            yield levels[part - 1]
        else:
            found = part.find(content, member)
            if not isinstance(found, str | int | float) or isinstance(found, bool):
                raise _Unfit(f"there is no text at {part.text}, which tag= asks for")
            yield str(found)
