"""Messages to readings: values, times and qualities by their paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.address import Address
from headrace.connectors.payload_names import template_of
from headrace.connectors.payload_paths import MISSING, Path
from headrace.connectors.payload_records import Made, UnfitError
from headrace.connectors.tagged import Strangers, Units, reading_as, tag_of, tags_of
from headrace.errors import PlanError, near
from headrace.kernels.reading.rules import bigint_of, double_of
from headrace.plant.quality import Quality
from headrace.plant.tags import Tag

__all__ = ["Readings"]

_PER_MS = {"ms": 1.0, "s": 0.001, "us": 1e3, "ns": 1e6}
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999

_decode = msgspec.json.Decoder().decode


class Readings:
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
        self._tag = template_of(address.get("tag") or ("{topic}/{*}" if each else "{topic}"), each=each, where=where)
        for name, one in (("time", self._time), ("quality", self._quality), ("unit", self._unit_path)):
            if one is not None and one.each and not each:
                raise PlanError(f"parameter {name} has a *, and value has none", where=where, fix="give both a *, or none")
        self._each = each
        self._beside = {one.steps() for one in (self._time, self._quality, self._unit_path) if one is not None and not one.each}
        self._per_ms = _per_ms(address)
        self._tags = tags_of(address.get("tags"))
        self._places = _places_of(self._tags or (), where)

    def __call__(self, topic: str, payload: bytes, at_ms: int) -> Sequence[Made]:
        """Return the readings of a message."""
        content = self._content(payload)
        if (places := self._places.get(topic)) is not None:
            return self._of_tags(places, content, at_ms)
        if not self._each:
            return [self._reading(topic, content, None, at_ms)]
        assert self._value is not None
        members = self._value.members(content)
        if members is None:
            raise UnfitError(f"has no object and no array where {self._value.text} has its *")
        found = []
        for member in members:
            if self._value.steps(member) in self._beside:  # the time that all of them have is none of the values
                continue
            try:
                found.append(self._reading(topic, content, member, at_ms))
            except UnfitError as unfit:
                found.append(Made(payload, None, f"{topic}: {member}: {unfit}"))
        return found

    def _of_tags(self, places: Sequence[tuple[Path, Tag]], content: Any, at_ms: int) -> Sequence[Made]:  # noqa: ANN401  (a value of JSON)
        """Return the readings of the tags that have their place in this topic's messages. A message need not have all of them."""
        there = [(path, tag, path.find(content)) for path, tag in places]
        found = [self._made(tag.path, tag, value, content, None, at_ms) for _, tag, value in there if value is not MISSING]
        if not found:
            raise UnfitError(f"has nothing where the tag list looks in this topic: {', '.join(path.text for path, _ in places[:5])}")
        return found

    def _content(self, payload: bytes) -> Any:  # noqa: ANN401  (a value of JSON)
        """Return the payload as a value of JSON; as a text if it is none, and no path leads into it."""
        try:
            return _decode(payload)
        except NOT_JSON as error:
            why = f"is not JSON: {error}"
        if self._value is not None or payload[:1] in {b"{", b"["}:
            raise UnfitError(why)
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise UnfitError("is not UTF-8") from None

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
            raise UnfitError(f"the value is an {'object' if isinstance(value, dict) else 'array'}{fix}")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            value = _float_of(value)
        unit = self._unit
        if self._unit_path is not None and isinstance(given := self._unit_path.find(content, member), str):
            unit = given
        unit = self._units.known(tag, name, unit)
        reading = reading_as(tag, name)(
            None if value is MISSING else value,
            at_ms,
            source_time=self._time_of(content, member),
            quality=self._quality_of(content, member),
            unit=unit,
        )
        return Made(reading.encode(), reading.tag)

    def _time_of(self, content: Any, member: str | int | None) -> int | None:  # noqa: ANN401  (a value of JSON)
        """Return the source's time; None if it gives none."""
        if self._time is None or (given := self._time.find(content, member)) is MISSING or given is None:
            return None
        found: float = float("nan")
        if self._texts and self._per_ms is not None:
            given = _number_of(given)
        if isinstance(given, str):
            try:
                moment = datetime.fromisoformat(given)
            except ValueError:
                raise UnfitError(f"the time {given[:40]!r} is not ISO 8601") from None
            found = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000
        elif isinstance(given, int | float) and not isinstance(given, bool) and self._per_ms is not None:
            found = _float_of(given) / self._per_ms
        if not _FIRST_MS <= found <= _LAST_MS:
            raise UnfitError(f"the time {str(given)[:40]} is not a time from the year 1 to 9999; time_unit= says what it is counted in")
        return round(found)

    def _quality_of(self, content: Any, member: str | int | None) -> int:  # noqa: ANN401  (a value of JSON)
        if self._quality is None or (given := self._quality.find(content, member)) is MISSING or given is None:
            return Quality.GOOD
        if self._texts:
            given = {"true": True, "false": False}.get(str(given).lower(), _number_of(given))
        if isinstance(given, bool):
            return Quality.GOOD if given else Quality.BAD
        if isinstance(given, int) and 0 <= given < 1 << 32:
            return given
        if isinstance(given, str) and (name := re.sub(r"[\s_-]", "", given).upper()) in _QUALITIES:
            return _QUALITIES[name]
        raise UnfitError(f"the quality {str(given)[:40]!r} is none")


def _per_ms(address: Address) -> float | None:
    """Return how many units of a message's time a ms has; None where times are texts."""
    unit = address.get("time_unit") or "ms"
    if unit not in {*_PER_MS, "iso"}:
        raise PlanError(f"parameter time_unit is {unit!r}", where=address.where, fix=near(unit, [*_PER_MS, "iso"]))
    return _PER_MS.get(unit)


def _places_of(tags: Iterable[Tag], where: str) -> dict[str, list[tuple[Path, Tag]]]:
    """Return by topic where in a message the values of tags are, as their sources say it: `topic#path`."""
    places: dict[str, list[tuple[Path, Tag]]] = {}
    for tag in tags:
        topic, hash_, rest = (tag.source or "").partition("#")
        if hash_:
            places.setdefault(topic, []).append((Path(rest, f"source of tag {tag.path}", where), tag))
    return places


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
