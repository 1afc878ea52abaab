"""Messages to records: what an address says of topics and payloads. Sans-IO.

A payload is passed on as it is, one JSON object, or becomes readings. What cannot be a record is returned with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from headrace.connectors.address import Address
from headrace.connectors.payload_readings import Readings
from headrace.connectors.payload_records import Made, Shape, UnfitError, limit_of, too_long
from headrace.errors import PlanError

__all__ = ["PARAMETERS", "shape_of"]

PARAMETERS = frozenset({"as", "topic_field", "arrival_field", "max_bytes", "tag", "value", "time", "time_unit", "quality", "unit", "tags"})
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


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
    make = _Objects(address) if kind == "json" else Readings(address, tell, texts=texts)

    def shape(topic: str, payload: bytes, at_ms: int) -> Sequence[Made]:
        if len(payload) > limit:
            return [too_long(topic, payload, len(payload), limit)]
        try:
            return make(topic, payload, at_ms)
        except UnfitError as unfit:
            return [Made(payload, None, f"{topic}: {unfit}")]

    return shape


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
            raise UnfitError("is not UTF-8") from None
        except msgspec.ValidationError:
            raise UnfitError("is not a JSON object") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise UnfitError(f"is not JSON: {error}") from None
        added: dict[str, Any] = {}
        if self._topic is not None:
            added[self._topic] = topic
        if self._arrival is not None:
            added[self._arrival] = at_ms
        return [Made(_encode({**fields, **added}) if added else payload)]
