"""The payload of Sparkplug B, as Protocol Buffers: the fields that a host application reads, by their numbers. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from headrace.errors import EnvironmentFault
from headrace.plant.quality import Quality

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package protobuf", where="the bridge", fix="pip install 'headrace[mqtt]'") from None

__all__ = ["Metric", "Payload", "Undecodable", "encoded", "metrics_of", "parse", "rebirth_command"]

_MOST_DEPTH = 8
_BOOLEAN, _STRING = 11, 12  # datatypes
_BITS = {1: 8, 2: 16, 3: 32, 4: 64}  # signed integers come in two's complement
_FIELDS = {
    "Payload": "1 timestamp uint64, 2 metrics Metric*, 3 seq uint64",
    "Metric": (
        "1 name string, 2 alias uint64, 3 timestamp uint64, 4 datatype uint32, 5 is_historical bool, 7 is_null bool, 9 properties PropertySet,"
        "10 int_value uint32|, 11 long_value uint64|, 12 float_value float|, 13 double_value double|, 14 boolean_value bool|,"
        "15 string_value string|, 16 bytes_value bytes|, 17 dataset_value bytes|, 18 template_value Template|, 19 extension_value bytes|"
    ),
    "Template": "2 metrics Metric*, 5 is_definition bool",
    "PropertySet": "1 keys string*, 2 values PropertyValue*",
    "PropertyValue": "1 type uint32, 2 is_null bool, 3 int_value uint32|, 4 long_value uint64|, 8 string_value string|",
}
_QUALITIES = {0: Quality.BAD, 192: Quality.GOOD, 500: Quality.BAD_NO_COMMUNICATION}


class Undecodable(Exception):
    """Bytes that are not a payload of Sparkplug B."""


class Metric(NamedTuple):
    """A metric of a payload.

    Attributes
    ----------
    name
        None if it has only an alias.
    value
        A number, a text or a truth value; None if there is none. An instance of Template is no value: its members are metrics.
    quality
        As its property says; bad if it is null.
    unit
        As its property `engUnit` says.
    time
        Its own time, or else the payload's, ms since the epoch.
    kind
        What value it has, if headrace does not read it: a data set, bytes, an array.
    """

    name: str | None
    alias: int | None
    value: float | int | str | bool | None
    quality: int
    unit: str | None
    time: int | None
    kind: str | None = None


class Payload(NamedTuple):
    """A payload: its own time, its sequence number, and its metrics."""

    time: int | None
    seq: int | None
    metrics: list[Metric]


def _built() -> type[Any]:
    """Return the class of a payload."""
    pb: Any = descriptor_pb2  # its members are made when it is imported
    file = pb.FileDescriptorProto(name="headrace/sparkplug_b.proto", package="headrace.sparkplug", syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for text in fields.split(","):
            number, field, kind = text.split()
            label = pb.FieldDescriptorProto.LABEL_REPEATED if kind.endswith("*") else pb.FieldDescriptorProto.LABEL_OPTIONAL
            made = message.field.add(name=field, number=int(number), label=label)
            if kind.endswith("|"):
                if not message.oneof_decl:
                    message.oneof_decl.add(name="value")
                made.oneof_index = 0
            kind = kind.rstrip("*|")
            if kind in _FIELDS:
                made.type, made.type_name = pb.FieldDescriptorProto.TYPE_MESSAGE, f".headrace.sparkplug.{kind}"
            else:
                made.type = pb.FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Any] = message_factory.GetMessageClass(pool.FindMessageTypeByName("headrace.sparkplug.Payload"))
    return found


PAYLOAD = _built()


def parse(data: bytes) -> Payload:
    """Return what a payload says.

    Raises
    ------
    Undecodable
        If it is none.
    """
    try:
        payload = PAYLOAD.FromString(data)
        time = payload.timestamp if payload.HasField("timestamp") else None
        return Payload(time, payload.seq if payload.HasField("seq") else None, [*metrics_of(payload.metrics, time)])
    except (DecodeError, UnicodeDecodeError) as error:
        raise Undecodable(str(error).partition("\n")[0][:100] or "it cannot be decoded") from None


def metrics_of(metrics: Any, time: int | None, above: str = "", depth: int = 0) -> Iterator[Metric]:  # noqa: ANN401  (protobuf's)
    """Yield metrics, and for an instance of a template those that it consists of, under its name."""
    for one in metrics:
        name = above + one.name if one.HasField("name") else None
        alias = one.alias if one.HasField("alias") else None
        at = one.timestamp if one.HasField("timestamp") else time
        field = one.WhichOneof("value")
        if field == "template_value" and name is not None and depth < _MOST_DEPTH:
            if not one.template_value.is_definition:
                yield from metrics_of(one.template_value.metrics, at, f"{name}/", depth + 1)
            continue
        quality, unit = _properties(one.properties)
        if one.is_null or field is None:
            yield Metric(name, alias, None, quality if quality & Quality.BAD else Quality.BAD_NO_DATA, unit, at)
        elif field in {"bytes_value", "dataset_value", "template_value", "extension_value"}:
            yield Metric(name, alias, None, Quality.BAD_NO_DATA, unit, at, field.removesuffix("_value"))
        else:
            value = getattr(one, field)
            if (bits := _BITS.get(one.datatype)) is not None and isinstance(value, int):
                value &= (1 << bits) - 1
                value -= (1 << bits) if value >> (bits - 1) else 0
            if isinstance(value, int) and value >= 1 << 63:
                value = float(value)
            yield Metric(name, alias, value, quality, unit, at)


def _properties(properties: Any) -> tuple[int, str | None]:  # noqa: ANN401  (protobuf's)
    """Return quality and unit."""
    quality, unit = int(Quality.GOOD), None
    for key, value in zip(properties.keys, properties.values, strict=False):
        if key == "Quality" and value.WhichOneof("value") in {"int_value", "long_value"}:
            code = value.int_value or value.long_value
            quality = _QUALITIES.get(code, Quality.UNCERTAIN)
        elif key == "engUnit" and value.WhichOneof("value") == "string_value":
            unit = value.string_value or None
    return quality, unit


def encoded(time: int, seq: int | None, metrics: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a payload: its time, its sequence number, and its metrics as fields by name; `unit` becomes the property `engUnit`."""
    payload = PAYLOAD(timestamp=time) if seq is None else PAYLOAD(timestamp=time, seq=seq)
    for fields in metrics:
        one = payload.metrics.add(**{name: value for name, value in fields.items() if name != "unit"})
        if "unit" in fields:
            one.properties.keys.append("engUnit")
            one.properties.values.add(type=_STRING, string_value=fields["unit"])
    made: bytes = payload.SerializeToString()
    return made


def rebirth_command(now_ms: int) -> bytes:
    """Return the payload of the command that asks an edge node for its births."""
    return encoded(now_ms, None, [{"name": "Node Control/Rebirth", "timestamp": now_ms, "datatype": _BOOLEAN, "boolean_value": True}])
