"""Which tag a name of an outside system is: the parameter `tags=FILE` of an address."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from headrace.plant.reading import Reading, reading_of
from headrace.plant.tags import Tag, Tags, load

__all__ = ["reading_as", "tag_of", "tags_of"]


def tags_of(path: str | None) -> Tags | None:
    """Return the tags of a list, if an address names one. Raises PlanError if it has mistakes."""
    return None if path is None else load(path)


def tag_of(tags: Tags | None, source: str) -> Tag | None:
    """Return the tag whose address in the source, path or spelling is this one."""
    return None if tags is None else tags.by_source(source) or tags.named(source)


def reading_as(tag: Tag | None, source: str) -> Callable[..., Reading]:
    """Return what makes readings of a tag as `Tag.reading` does; without a tag they have the name of the outside system."""
    return partial(reading_of, source) if tag is None else tag.reading
