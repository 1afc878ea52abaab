"""The values of a message, each with its place: what `headrace browse` shows of a broker. Sans-IO.

A place is the topic, or `topic#$.path`, as the `source` of a tag has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.payload_paths import Path
from headrace.connectors.payload_records import Made
from headrace.plant.quality import Quality
from headrace.plant.reading import reading_of
from headrace.plant.tags import Tag

__all__ = ["leaves", "tags_at"]

_MOST = 1000
_PLAIN = re.compile(r"[^.\[\]*'\"\s]+")


def leaves(topic: str, payload: bytes, at_ms: int) -> Sequence[Made]:
    """Return a reading for each value of a message, whose tag is its place; at most a thousand.

    A payload that is not JSON is a text. Bytes that are not a text, and JSON without a value, have bad quality.
    """
    try:
        content: Any = msgspec.json.decode(payload)
    except NOT_JSON:
        try:
            content = payload.decode()
        except UnicodeDecodeError:
            content = {}
    found = []
    for path, value in _values(content):
        found.append(Made(reading_of(f"{topic}#{path}" if path != "$" else topic, value, at_ms).encode()))
        if len(found) == _MOST:
            break
    return found or [Made(reading_of(topic, None, at_ms, quality=Quality.BAD_TYPE_MISMATCH).encode())]


def _values(content: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  (a value of JSON)
    """Yield the values that are neither objects nor arrays, with their paths. A member whose name cannot be part of a path is skipped."""
    pending = [("$", content)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [(path + step, one) for name, one in reversed(value.items()) if (step := _step(name)) is not None]
        elif isinstance(value, list):
            pending += [(f"{path}[{place}]", one) for place, one in reversed([*enumerate(value[:_MOST])])]
        else:
            yield path, value


def _step(name: str) -> str | None:
    if _PLAIN.fullmatch(name):
        return f".{name}"
    quote = next((one for one in "'\"" if one not in name), None)
    return None if quote is None or not name or not name.isprintable() else f"[{quote}{name}{quote}]"


def tags_at(places: Mapping[str, Mapping[str, Any]]) -> Iterator[Tag]:
    """Yield a tag for each place, from its last reading. Of places that would have one path, the first has a tag."""
    paths = set[str]()
    for place, reading in sorted(places.items()):
        topic, _, path = place.partition("#")
        steps = Path(path, "source", "browse").steps() if path else ()
        levels = [one for one in (" ".join(part.split()) for part in _levels(topic, steps)) if one]
        name = "/".join(levels)
        if not levels or not name.isprintable() or name in paths or place != place.strip():
            continue
        paths.add(name)
        number = isinstance(reading["value"], int | float) and not isinstance(reading["value"], bool)
        yield Tag(name, source=place, interpolation="sloped" if number else "stepped")


def _levels(topic: str, steps: Iterable[object]) -> Iterator[str]:
    yield from topic.split("/")
    for step in steps:
        yield from str(step).split("/")
