"""Files that grow (CSV, NDJSON): their lines into a topic."""

from __future__ import annotations

from headrace.connectors.address import local
from headrace.connectors.following.place import FORMATS, Place
from headrace.connectors.following.source import Following
from headrace.connectors.payload_records import MAX_BYTES
from headrace.connectors.payloads import PARAMETERS, shape_of
from headrace.errors import PlanError

__all__ = ["TAKES_TAGS", "source"]

TAKES_TAGS = True  # lines that are records as they are have no use for them

_EXAMPLE = "file:logs/machine.csv?interval=1s"
_PARAMETERS = PARAMETERS | {"format", "interval"}


def source(address: str) -> Following:
    """Return the lines of the files of an address `file:PATH?parameters`. The path may be a folder or a pattern; `%3F` in it is `?`.

    Raises
    ------
    PlanError
        If the address is wrong.
    """
    pattern, given = local(address, _PARAMETERS, _EXAMPLE)
    format = given.choice("format", ["by name", *FORMATS])
    place = Place(pattern, next((one for one in FORMATS if one == format), None))
    if not place.has_format:
        raise PlanError(f"the format of {pattern!r} is not known", where="FROM", fix="add format=csv or format=ndjson")
    shapes = {one: shape_of(given, lambda line: made.tell(line), texts=one == "csv") for one in FORMATS}  # noqa: PLW0108  (what the runner sets later)
    most = int(given.number("max_bytes", MAX_BYTES, 1, 256 << 20))
    made = Following(place, shapes, interval=given.seconds("interval", 1.0, 0.01), most_bytes=most)
    return made
