"""Names of tags that are made of a message's topic and payload."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from headrace.connectors.payload_paths import Path
from headrace.connectors.payload_records import UnfitError
from headrace.errors import PlanError

__all__ = ["template_of"]

_PLACE = re.compile(r"\{([^{}]+)\}")


def template_of(text: str, *, each: bool, where: str) -> Callable[[str, Any, str | int | None], str]:
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
                raise UnfitError(f"the topic has no level {part}, which tag= asks for")
            yield levels[part - 1]
        else:
            found = part.find(content, member)
            if not isinstance(found, str | int | float) or isinstance(found, bool):
                raise UnfitError(f"there is no text at {part.text}, which tag= asks for")
            yield str(found)
