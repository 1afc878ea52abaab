"""Decoders of values by a schema: Avro, Protobuf, JSON Schema. A value becomes one JSON object, with the names of its schema."""

from __future__ import annotations

import asyncio
import errno
import io
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urljoin

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.objects import Unfit
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault

__all__ = ["READERS", "Schema"]

_COMPILE_SECONDS = 60.0
_MOST_DEPTH = 100
_MOST_SCALE = 1000
_DECIMAL = "headrace-decimal"
_BAD_NAMES = frozenset({errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR})


class Schema(NamedTuple):
    """A schema of a registry.

    Attributes
    ----------
    references
        The texts of the schemas that it needs, by name; those needed first come first.
    """

    number: int
    text: str
    references: Mapping[str, str]

    def unusable(self, why: object) -> Unfit:
        """Return that the schema itself is wrong."""
        return Unfit(f"has schema {self.number}, which cannot be used: {' '.join(str(why).split())[:200]}")


def _lacks(package: str) -> EnvironmentFault:
    return EnvironmentFault(f"needs the package {package}", where="the bridge", fix="pip install 'headrace[schema-registry]'")


def _written(value: Any) -> bytes:  # noqa: ANN401  (a value of JSON)
    """Return an object as JSON: bytes as base64, NaN and infinities as null."""
    if not isinstance(value, dict):
        raise Unfit("is not an object: its schema is not that of a record")
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, TypeError, RecursionError, OverflowError) as error:
        raise Unfit(f"cannot be JSON: {error}") from None


# Avro


async def _avro(schema: Schema) -> Callable[[bytes], bytes]:
    """Return what decodes Avro. Times stay the numbers that they are, decimals become texts."""
    try:
        from fastavro import parse_schema, schemaless_reader
        from fastavro._read_py import schemaless_reader as careful_reader
        from fastavro.read import LOGICAL_READERS
    except ModuleNotFoundError:
        raise _lacks("fastavro") from None
    LOGICAL_READERS[f"bytes-{_DECIMAL}"] = LOGICAL_READERS[f"fixed-{_DECIMAL}"] = _decimal
    try:
        named: dict[str, Any] = {}
        for text in schema.references.values():
            parse_schema(_with_decimals(msgspec.json.decode(text)), named)
        parsed = parse_schema(_with_decimals(msgspec.json.decode(schema.text)), named)
        # The compiled reader does not bound its recursion, so that a deep value would end the whole program.
        if _is_recursive(parsed, named, {}):
            schemaless_reader = careful_reader
    except Exception as error:  # noqa: BLE001  (whatever a schema from outside makes the library raise)
        raise schema.unusable(error) from None

    def read(value: bytes) -> bytes:
        stream = io.BytesIO(value)
        try:
            found = schemaless_reader(stream, parsed, None)
        except RecursionError:
            raise Unfit(f"is not what schema {schema.number} says: it is nested too deeply") from None
        except Exception as error:  # noqa: BLE001  (bytes that are no Avro make the library raise many things)
            raise Unfit(f"is not what schema {schema.number} says: {error or type(error).__name__}") from None
        if left := len(value) - stream.tell():
            raise Unfit(f"is not what schema {schema.number} says: {left} bytes are left")
        return _written(found)

    return read


def _with_decimals(schema: Any) -> Any:  # noqa: ANN401  (a value of JSON)
    """Return a schema of Avro without logical types, other than decimals, which `_decimal` reads. Raises ValueError for a bad scale."""
    if isinstance(schema, list):
        return [_with_decimals(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _with_decimals(one) for name, one in schema.items() if name != "logicalType"}
    if schema.get("logicalType") == "decimal" and schema.get("type") in ("bytes", "fixed"):
        scale = schema.get("scale", 0)
        if not isinstance(scale, int) or not 0 <= scale <= _MOST_SCALE:
            raise ValueError(f"the scale of a decimal is {scale!r}")
        plain["logicalType"] = _DECIMAL
    return plain


def _decimal(value: bytes, schema: Any, _: Any = None) -> str:  # noqa: ANN401  (a schema of Avro)
    """Return a decimal as a text with all its digits, and no exponent."""
    number, scale = int.from_bytes(value, "big", signed=True), schema.get("scale", 0)
    digits = str(abs(number)).zfill(scale + 1)
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else f"{sign}{digits}"


def _is_recursive(schema: Any, named: Mapping[str, Any], seen: dict[str, bool]) -> bool:  # noqa: ANN401  (a parsed schema)
    """Return whether a value of a schema can have values of the same schema in it. `seen` are the records met, and whether we are in them."""
    if isinstance(schema, str):
        return seen[schema] if schema in seen else schema in named and _is_recursive(named[schema], named, seen)
    if isinstance(schema, list):
        return any(_is_recursive(one, named, seen) for one in schema)
    if schema["type"] not in {"record", "error"}:
        return _is_recursive(schema.get("items", schema.get("values", schema["type"])), named, seen)
    seen[schema["name"]] = True
    found = any(_is_recursive(one["type"], named, seen) for one in schema["fields"])
    seen[schema["name"]] = False
    return found


# Protobuf


async def _protobuf(schema: Schema) -> Callable[[bytes], bytes]:
    """Return what decodes Protobuf: fields by their names in the schema, enums by name, 64-bit integers as numbers."""
    try:
        from google.protobuf import descriptor_pool, message_factory
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError:
        raise _lacks("protobuf") from None
    try:
        pool = descriptor_pool.DescriptorPool()
        for one in (await _compiled(schema)).file:
            pool.Add(one)
        outer = pool.FindFileByName(_MAIN)
        messages = list(outer.message_types_by_name.values())
    except (TypeError, ValueError, KeyError, DecodeError) as error:
        raise schema.unusable(error) from None
    classes: dict[tuple[int, ...], Any] = {}

    def read(value: bytes) -> bytes:
        path, at = _path(value)
        try:
            made = classes.get(path)
            if made is None:
                found = messages[path[0]]
                for place in path[1:]:
                    found = found.nested_types[place]
                made = classes[path] = message_factory.GetMessageClass(found)
            message = made()
            message.ParseFromString(value[at:])
        except IndexError:
            raise Unfit(f"has the message {list(path)}, which schema {schema.number} does not have") from None
        except (DecodeError, RecursionError) as error:
            raise Unfit(f"is not what schema {schema.number} says: {error}") from None
        return _written(_plain(message))

    return read


_MAIN = "the_schema.proto"
_WRAPPERS = frozenset(f"google.protobuf.{kind}Value" for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes"))


async def _compiled(schema: Schema) -> Any:  # noqa: ANN401  (a FileDescriptorSet)
    """Return the descriptors of a schema in Protobuf's own language, as its compiler makes them."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet  # type: ignore[attr-defined]  # the package has no types

    try:
        included = files("grpc_tools") / "_proto"
    except ModuleNotFoundError:
        raise _lacks("grpcio-tools") from None
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (*schema.references.items(), (_MAIN, schema.text)):
            _write(schema, folder, name, text)
        made = Path(folder) / "made"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{included}", "--include_imports", f"--descriptor_set_out={made}",
            _MAIN, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, said = await asyncio.wait_for(process.communicate(), _COMPILE_SECONDS)
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"the compiler of Protobuf needs more than {_COMPILE_SECONDS:g} s for schema {schema.number}") from None
            raise
        if process.returncode:
            raise schema.unusable(said.decode(errors="replace").replace(f"{folder}/", ""))
        return FileDescriptorSet.FromString(made.read_bytes())


def _write(schema: Schema, folder: str, name: str, text: str) -> None:
    """Write a file for the compiler. Raises Unfit if a reference has a name that no file can have."""
    path, wrong = PurePosixPath(name), schema.unusable(f"a reference has the name {name!r}")
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise wrong
    try:
        (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
        (Path(folder) / path).write_text(text, encoding="utf-8")
    except OSError as error:
        if error.errno not in _BAD_NAMES:
            raise
        raise wrong from None


def _path(value: bytes) -> tuple[tuple[int, ...], int]:
    """Return the place of a message in its schema, and where it begins: a count and places as zigzag varints; 0 is the first message."""
    count, at = _varint(value, 0)
    if not count:
        return (0,), at
    if not 0 < count <= _MOST_DEPTH:
        raise Unfit("has no place of a message")
    path = []
    for _ in range(count):
        place, at = _varint(value, at)
        if place < 0:
            raise Unfit("has no place of a message")
        path.append(place)
    return tuple(path), at


def _varint(value: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 35, 7):
        if at >= len(value):
            break
        found |= (value[at] & 0x7F) << shift
        at += 1
        if value[at - 1] < 0x80:
            return (found >> 1) ^ -(found & 1), at
    raise Unfit("has no place of a message")


def _plain(message: Any) -> Any:  # noqa: ANN401  (a message, and a value of JSON)
    """Return a message as JSON has it: fields that are not set are left out where that can be known, else they have their defaults."""
    from google.protobuf.json_format import MessageToDict

    descriptor = message.DESCRIPTOR
    if descriptor.full_name in _WRAPPERS:
        return message.value
    if descriptor.full_name.startswith("google.protobuf."):
        try:
            return MessageToDict(message)  # times, durations
        except Exception as error:  # noqa: BLE001  (an Any of a type that is not there, a time out of range)
            raise Unfit(f"has a google.protobuf.{descriptor.name} that cannot be read: {error}") from None
    found: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            found[field.name] = {_key(key): _value(inner, value[key]) for key in value}
        elif field.is_repeated:
            found[field.name] = [_value(field, one) for one in value]
        else:
            found[field.name] = _value(field, value)
    return found


def _key(key: Any) -> str:  # noqa: ANN401  (a key of a map)
    return str(key).lower() if isinstance(key, bool) else str(key)


def _value(field: Any, value: Any) -> Any:  # noqa: ANN401  (a field's descriptor, and its value)
    if field.message_type is not None:
        return _plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value


# JSON Schema


async def _json(schema: Schema) -> Callable[[bytes], bytes]:
    """Return what checks JSON by a schema, and returns it as it came."""
    try:
        import jsonschema_rs
    except ModuleNotFoundError:
        raise _lacks("jsonschema-rs") from None

    try:
        whole = msgspec.json.decode(schema.text)
        known = {name: msgspec.json.decode(text) for name, text in schema.references.items()}
        validator = jsonschema_rs.validator_for(whole, retriever=partial(_retrieved, whole, known))
    except Exception as error:  # noqa: BLE001  (whatever a schema from outside makes the library raise)
        raise schema.unusable(error) from None

    def read(value: bytes) -> bytes:
        try:
            found = msgspec.json.decode(value)
        except NOT_JSON:
            raise Unfit("is not JSON") from None
        if not isinstance(found, dict):
            raise Unfit("is not a JSON object")
        try:
            validator.validate(found)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            said = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
            raise Unfit(f"is not what schema {schema.number} says: {said[:200]}") from None
        return value

    return read


def _retrieved(whole: Any, known: Mapping[str, Any], uri: str) -> Any:  # noqa: ANN401  (values of JSON)
    """Return the reference of a JSON Schema with an address. Their names may be relative to the address of any of the schemas."""
    bases = [*filter(None, map(_id_of, (whole, *known.values())))]
    for name, one in known.items():
        if uri in {name, f"json-schema:///{name}", *(urljoin(base, name) for base in bases)}:
            return one
    raise ValueError(f"{uri} is not among its references")


def _id_of(schema: Any) -> str | None:  # noqa: ANN401  (a value of JSON)
    """Return the address that a JSON Schema gives itself, if it does; its references are relative to it."""
    found = schema.get("$id", schema.get("id")) if isinstance(schema, dict) else None
    return found if isinstance(found, str) else None


READERS: Mapping[str, Callable[[Schema], Awaitable[Callable[[bytes], bytes]]]] = {"AVRO": _avro, "PROTOBUF": _protobuf, "JSON": _json}
