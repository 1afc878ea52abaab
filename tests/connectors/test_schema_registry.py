"""Topics of Kafka whose values name their schema in a registry: Avro, Protobuf and JSON Schema become JSON records, or dead letters."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import struct
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote

import fastavro
import pytest
from outside import LIMIT, values_of

from broker import Shared, kafka
from headrace.cli import main
from headrace.connectors import schema_formats, schema_registry
from headrace.connectors.ingest import Ingest
from headrace.connectors.mirror import Mirror
from headrace.connectors.objects import Unfit
from headrace.connectors.protocol import Source, Unavailable
from headrace.connectors.schema_registry import Schemas
from headrace.errors import PlanError
from headrace.topics.sqlite import SqliteLog
from registry import Apicurio, apicurio

__all__ = ["apicurio", "kafka"]

READING = {
    "type": "record", "name": "Reading", "namespace": "plant",
    "fields": [
        {"name": "tag", "type": "string"},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "value", "type": ["null", "double"], "default": None},
        {"name": "raw", "type": "bytes", "default": ""},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OFF", "ON"]}},
        {"name": "limits", "type": {"type": "map", "values": "double"}},
    ],
}  # fmt: skip
LATER = {**READING, "fields": [*READING["fields"][:3], {"name": "unit", "type": "string", "default": "°C"}]}  # type: ignore[index]
PROTO = """
syntax = "proto3";
package plant;
import "google/protobuf/timestamp.proto";
import "plant/unit.proto";
message Other { int32 number = 1; }
message Reading {
  enum State { OFF = 0; ON = 1; }
  message Limit { optional double high = 1; }
  string tag = 1;
  int64 time = 2;
  optional double value = 3;
  bytes raw = 4;
  State state = 5;
  map<string, Limit> limits = 6;
  repeated uint64 counts = 7;
  Unit unit = 8;
  google.protobuf.Timestamp at = 9;
}
"""
UNIT = 'syntax = "proto3"; package plant; message Unit { string code = 1; bool metric = 2; }'
JSON = {
    "$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["tag"],
    "properties": {"tag": {"type": "string"}, "value": {"type": "number"}},
}  # fmt: skip


class Small:
    """A registry as its interface says, in this process."""

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[tuple[str, int], int] = {}
        self.asked: list[str] = []
        self.answers: Callable[[str], tuple[int, bytes] | None] = lambda _: None
        self.url = ""

    def register(self, subject: str, schema: str, kind: str = "AVRO", references: Any = ()) -> int:
        number = len(self.schemas) + 1
        one = {"schema": schema, "references": list(references)} | ({} if kind == "AVRO" else {"schemaType": kind})
        self.schemas[number] = one
        version = 1 + sum(known == subject for known, _ in self.subjects)
        self.subjects[subject, version] = number
        return number

    def answer(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if (given := self.answers(path)) is not None:
            return given
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["schemas", "ids", number] if int(number) in self.schemas:
                return 200, json.dumps(self.schemas[int(number)]).encode()
            case ["subjects", subject, "versions", version] if (subject, int(version)) in self.subjects:
                return 200, json.dumps(self.schemas[self.subjects[subject, int(version)]]).encode()
        return 404, b'{"error_code":40403,"message":"Schema not found"}'


@pytest.fixture
def small() -> Iterator[Small]:
    registry = Small()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = registry.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    registry.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join(LIMIT)
        server.server_close()


@asynccontextmanager
async def schemas_of(registry: Small | Apicurio) -> AsyncIterator[Schemas]:
    one = Schemas(registry.url)
    try:
        yield one
    finally:
        await one.close()


def decoded(registry: Small | Apicurio, *values: bytes) -> list[Any]:
    """Return the objects of values, or why they cannot be."""

    async def run() -> list[Any]:
        found: list[Any] = []
        async with schemas_of(registry) as schemas:
            for value in values:
                try:
                    found.append(json.loads(await schemas.decoded(value)))
                except Unfit as unfit:
                    found.append(str(unfit))
        return found

    return asyncio.run(asyncio.wait_for(run(), LIMIT))


def head(number: int) -> bytes:
    return b"\0" + struct.pack(">I", number)


def avro(number: int, schema: Any, record: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return head(number) + stream.getvalue()


def reading(**fields: Any) -> dict[str, Any]:
    from decimal import Decimal

    return {
        "tag": "TT-1", "time": 1_700_000_000_123, "value": 1.5, "raw": b"\xff\n", "price": Decimal("12.30"), "state": "ON", "limits": {"high": 9.5},
    } | fields  # fmt: skip


SHOWN = {"tag": "TT-1", "time": 1_700_000_000_123, "value": 1.5, "raw": "/wo=", "price": "12.30", "state": "ON", "limits": {"high": 9.5}}


def check_avro(registry: Small | Apicurio) -> None:
    first = registry.register("readings-value", json.dumps(READING))
    second = registry.register("readings-value", json.dumps(LATER))
    values = [avro(first, READING, reading(value=value)) for value in (1.5, None, math.nan, math.inf)]
    values.append(avro(second, LATER, {"tag": "TT-2", "time": 1, "value": 2.0, "unit": "bar"}))
    assert decoded(registry, *values) == [
        SHOWN, *[{**SHOWN, "value": None}] * 3, {"tag": "TT-2", "time": 1, "value": 2.0, "unit": "bar"},
    ]  # fmt: skip


def message(registry: Small | Apicurio) -> tuple[int, bytes]:
    """Return the id of the schema of Protobuf and a message of it, which is the second message of its schema."""
    registry.register("plant/unit.proto", UNIT, "PROTOBUF")
    references = [{"name": "plant/unit.proto", "subject": "plant/unit.proto", "version": 1}]
    number = registry.register("proto-value", PROTO, "PROTOBUF", references)
    limit = b"\x09" + struct.pack("<d", 9.5)
    entry = b"\x0a\x04high\x12" + bytes([len(limit)]) + limit
    counts = b"\x05" + varint(2**63)
    body = (
        b"\x0a\x04TT-1" + b"\x10" + varint(1_700_000_000_123) + b"\x19" + struct.pack("<d", 1.5) + b"\x22\x02\xff\n" + b"\x28\x01"
        + b"\x32" + bytes([len(entry)]) + entry + b"\x3a" + bytes([len(counts)]) + counts + b"\x42\x07\x0a\x03KPA\x10\x01" + b"\x4a\x02\x08\x01"
    )  # fmt: skip
    return number, body


def varint(number: int) -> bytes:
    found = b""
    while number >= 0x80:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def check_protobuf(registry: Small | Apicurio) -> None:
    number, body = message(registry)
    shown = {
        "tag": "TT-1", "time": 1_700_000_000_123, "value": 1.5, "raw": "/wo=", "state": "ON", "limits": {"high": {"high": 9.5}},
        "counts": [5, 2**63], "unit": {"code": "KPA", "metric": True}, "at": "1970-01-01T00:00:01Z",
    }  # fmt: skip
    empty = {"tag": "", "time": 0, "raw": "", "state": "OFF", "limits": {}, "counts": []}
    assert decoded(
        registry,
        head(number) + b"\x02\x02" + body,  # a path of one place: message 1
        head(number) + b"\x02\x02",
        head(number) + b"\x02\x02\x28\x07",  # a state that the schema does not have
        head(number) + b"\x00\x08\x07",  # the first message
        head(number) + b"\x04\x02\x00" + b"\x09" + struct.pack("<d", math.nan),  # a message in a message
    ) == [shown, empty, {**empty, "state": 7}, {"number": 7}, {"high": None}]


def check_json(registry: Small | Apicurio) -> None:
    number = registry.register("json-value", json.dumps(JSON), "JSON")
    assert decoded(registry, *(head(number) + body for body in (b'{"tag": "a", "value": 1}', b'{"value": 1}', b"{", b"[1]"))) == [
        {"tag": "a", "value": 1}, f'is not what schema {number} says: "tag" is a required property', "is not JSON", "is not a JSON object",
    ]  # fmt: skip


@pytest.mark.parametrize("check", [check_avro, check_protobuf, check_json])
def test_values_become_records(small: Small, check: Callable[[Small], None]) -> None:
    check(small)
    assert len(small.asked) == len(set(small.asked)), "each schema is asked for once"


@pytest.mark.long
@pytest.mark.parametrize("check", [check_avro, check_protobuf, check_json])
def test_values_become_records_by_a_real_registry(apicurio: Apicurio, check: Callable[[Apicurio], None]) -> None:
    check(apicurio)


def test_a_value_that_is_nested_too_deeply_is_unfit(small: Small) -> None:
    """The compiled reader of Avro would end the program."""
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", {"type": "array", "items": "Node"}]}]}
    number = small.register("a", json.dumps(node))
    inner = small.register("b", json.dumps({"type": "record", "name": "Outer", "fields": [{"name": "node", "type": node}]}))
    deep = b"\x02\x02" * 200_000
    assert decoded(small, head(number) + b"\x02\x02\x00\x00", head(number) + deep, head(inner) + deep) == [
        {"next": [{"next": None}]}, *[f"is not what schema {one} says: it is nested too deeply" for one in (number, inner)],
    ]  # fmt: skip


def test_decimals_have_all_their_digits_and_no_exponent(small: Small) -> None:
    shown = {
        (0, 10): "0.0000000000", (1, 10): "0.0000000001", (-5, 2): "-0.05", (1234567, 2): "12345.67", (-7, 0): "-7", (10**30, 3): f"{10**27}.000",
    }  # fmt: skip
    values = []
    for (unscaled, scale), fixed in product(shown, (False, True)):
        kind = {"type": "fixed", "name": "F", "size": 16} if fixed else {"type": "bytes"}
        schema = {"type": "record", "name": "R", "fields": [{"name": "p", "type": kind | {"logicalType": "decimal", "precision": 4, "scale": scale}}]}
        values.append(head(small.register("a", json.dumps(schema))) + (b"" if fixed else b"\x20") + unscaled.to_bytes(16, "big", signed=True))
    assert decoded(small, *values) == [{"p": text} for text in shown.values() for _ in range(2)]


def test_wrappers_of_protobuf_are_their_values(small: Small) -> None:
    text = """syntax = "proto3"; import "google/protobuf/wrappers.proto"; message A {
      google.protobuf.Int64Value whole = 1; google.protobuf.DoubleValue real = 2; google.protobuf.BytesValue raw = 3;
      oneof one { int32 number = 4; google.protobuf.StringValue text = 5; } }"""
    number = small.register("a", text, "PROTOBUF")
    real = [b"\x12\x09\x09" + struct.pack("<d", one) for one in (0.5, math.nan)]
    bodies = [b"", b"\x0a\x02\x08\x05", b"\x0a\x00", *real, b"\x1a\x03\x0a\x01\xff", b"\x20\x00", b"\x2a\x00", b"\x20\x01\x2a\x00"]
    assert decoded(small, *(head(number) + b"\0" + body for body in bodies)) == [
        {}, {"whole": 5}, {"whole": 0}, {"real": 0.5}, {"real": None}, {"raw": "/w=="}, {"number": 0}, {"text": ""}, {"text": ""},
    ]  # fmt: skip


def test_references_of_json_schema_are_relative_to_its_id(small: Small) -> None:
    small.register("low", '{"type": "integer"}', "JSON")
    small.register("mid", '{"$id": "http://plant/parts/mid.json", "properties": {"low": {"$ref": "low.json"}}}', "JSON")
    references = [{"name": f"{name}.json", "subject": name, "version": 1} for name in ("low", "mid")]
    for more in ({}, {"$id": "http://plant/schemas/top.json"}):
        text = json.dumps({**more, "properties": {"mid": {"$ref": "mid.json"}, "low": {"$ref": "low.json#"}}})
        number = small.register("top", text, "JSON", references)
        good, bad = b'{"mid": {"low": 1}, "low": 2}', b'{"mid": {"low": "1"}}'
        assert decoded(small, head(number) + good, head(number) + bad) == [
            json.loads(good), f'is not what schema {number} says: "1" is not of type "integer"',
        ]  # fmt: skip


def test_a_reference_that_cannot_be_a_file_is_unfit(small: Small) -> None:
    small.register("a", 'syntax = "proto3";', "PROTOBUF")
    names = ["", "a.proto/b.proto", "x" * 300, "../a", "/a"]
    numbers = []
    for name in names:
        references = [{"name": one, "subject": "a", "version": 1} for one in ("a.proto", name)]
        numbers.append(small.register("b", 'syntax = "proto3"; message A {}', "PROTOBUF", references))
    for number, name, found in zip(numbers, names, decoded(small, *(head(number) + b"\0" for number in numbers)), strict=True):
        assert found.startswith(f"has schema {number}, which cannot be used: a reference has the name {name[:99]!r}"[:-1])


def test_a_compiler_that_takes_too_long_is_asked_again(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    number, body = message(small)
    monkeypatch.setattr(schema_formats, "_COMPILE_SECONDS", 0.0)
    with pytest.raises(Unavailable, match=f"the compiler of Protobuf needs more than 0 s for schema {number}"):
        decoded(small, head(number) + b"\x02\x02" + body)


def test_ids_without_a_schema_are_remembered_up_to_a_bound(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "_MOST_UNFIT", 3)

    async def run() -> None:
        async with schemas_of(small) as schemas:
            for number in (1, 2, 2, 3, 4, 4):
                with pytest.raises(Unfit, match=f"has schema {number}, which the registry does not know"):
                    await schemas.decoded(head(number))
                assert len(schemas._unfit) <= 3

    asyncio.run(asyncio.wait_for(run(), LIMIT))
    assert len(small.asked) == 4


def test_what_cannot_be_decoded_says_why(small: Small) -> None:
    known = small.register("a", json.dumps(READING))
    text = small.register("b", '"string"')
    bad = small.register("c", '{"type": "record"')
    other = small.register("d", "x", "XML")
    proto, body = message(small)
    broken = small.register("e", "syntax = 'proto3'; message A { Nothing a = 1; }", "PROTOBUF")
    remote = small.register("f", '{"$ref": "http://127.0.0.1:1/other.json"}', "JSON")
    whole = avro(known, READING, reading())
    cases = {
        b"": "does not begin with the byte 0 and the id of a schema",
        b'{"tag": 1}': "does not begin with the byte 0 and the id of a schema",
        head(999) + b"x": "has schema 999, which the registry does not know",
        whole[:-3]: f"is not what schema {known} says: ",
        whole + b"x": f"is not what schema {known} says: 1 bytes are left",
        head(text) + b"\x02a": "is not an object: its schema is not that of a record",
        head(bad): f"has schema {bad}, which cannot be used: ",
        head(other): f"has schema {other}, of type 'XML', which headrace does not read",
        head(proto): "has no place of a message",
        head(proto) + b"\x02\x20" + body: f"has the message [16], which schema {proto} does not have",
        head(proto) + b"\x01": "has no place of a message",
        head(proto) + b"\x02\x02" + body[:-1]: f"is not what schema {proto} says: ",
        head(broken) + b"\x00": f"has schema {broken}, which cannot be used: ",
        head(remote) + b"{}": f"has schema {remote}, which cannot be used: ",
    }
    for (value, says), found in zip(cases.items(), decoded(small, *cases), strict=True):
        assert isinstance(found, str), value
        assert found.startswith(says)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 12))])
def test_corrupt_values_raise_nothing_else(small: Small, seed: int) -> None:
    dice = Random(seed)
    first, (second, body) = small.register("a", json.dumps(READING)), message(small)
    third = small.register("c", json.dumps(JSON), "JSON")
    whole = [avro(first, READING, reading()), head(second) + b"\x02\x02" + body, head(third) + b'{"tag": "a", "value": 1}']
    values = []
    for _ in range(400):
        value = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 4)):
            value[dice.randrange(5, len(value))] = dice.randrange(256)
        values.append(bytes(value[: dice.randrange(5, len(value) + 1)] if dice.random() < 0.3 else value))
    assert all(isinstance(one, str | dict) for one in decoded(small, *values))


def test_a_registry_that_is_wrong_ends_and_one_that_is_away_does_not(small: Small) -> None:
    async def ask(url: str) -> None:
        schemas = Schemas(url)
        try:
            await schemas.decoded(head(1))
        finally:
            await schemas.close()

    for status, body, error, says in (
        (401, b'{"error_code":401,"message":"who?"}', PlanError, "answers 401 Unauthorized for schema 1: who?"),
        (404, b'{"error_code":404,"message":"HTTP 404 Not Found"}', PlanError, "answers 404 Not Found for schema 1: HTTP 404 Not Found; is it"),
        (404, b'{"error_code":0,"message":"No such path"}', PlanError, "answers 404 Not Found for schema 1: No such path; is it"),
        (404, b"<html>", PlanError, "answers 404 Not Found for schema 1; is it the address of a schema registry"),
        (200, b"[]", PlanError, "answers 200 OK for schema 1"),
        (500, b"<html>", Unavailable, "answers 500 Internal Server Error"),
        (503, b"", Unavailable, "answers 503 Service Unavailable"),
        (429, b"", Unavailable, "answers 429 Too Many Requests"),
    ):
        small.answers = lambda _, status=status, body=body: (status, body)  # type: ignore[misc]
        with pytest.raises(error, match=says.replace("?", r"\?")):
            asyncio.run(ask(small.url.replace("//", "//user:geheim@")))
    with pytest.raises(Unavailable, match="connection refused"):
        asyncio.run(ask("http://127.0.0.1:1"))
    for url in ("", "ftp://a", "http://", "http://a?b=c"):
        with pytest.raises(PlanError, match="is not the address of a schema registry"):
            Schemas(url)


def test_an_answer_that_does_not_end_is_asked_for_again(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_registry, "_MOST_SECONDS", 0.1)
    number, ended = small.register("a", json.dumps(READING)), Event()
    small.answers = lambda _: None if ended.wait(LIMIT) else (500, b"")
    try:
        with pytest.raises(Unavailable, match="no whole answer within"):
            decoded(small, avro(number, READING, reading()))
    finally:
        ended.set()


@pytest.mark.usefixtures("quick")
def test_while_the_registry_is_away_nothing_is_lost(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mirror, "pause_seconds", 0.001)
    monkeypatch.setattr(Source, "batch_seconds", 0.004)
    monkeypatch.setattr(schema_registry, "_AGAIN_SECONDS", 0.0)
    first = small.register("a", json.dumps(READING))
    second = small.register("a", json.dumps(LATER))
    later = {"tag": "TT-2", "value": 2.0, "unit": "bar"}
    values = [avro(first, READING, reading(time=number)) for number in range(20)]
    values += [b"junk", *(avro(second, LATER, {**later, "time": number}) for number in range(20, 40))]
    away = iter([(503, b"")] * 3)
    small.answers = lambda path: next(away, None) if path.endswith(f"/{second}") else None
    told: list[str] = []
    with closing(SqliteLog(tmp_path / "site" / "log.db")) as site, closing(SqliteLog(tmp_path / "centre" / "log.db")) as centre:
        site.create("in", 1)
        site.append("in", values)

        async def run() -> None:
            async with schemas_of(small) as schemas:
                source = Mirror("topic:in", "in", lambda: SqliteLog(site.path), decoded=schemas.decoded, closed=schemas.close)
                source.latest = True
                with closing(Ingest(centre, source, "out", told=told.append)) as one:
                    await one.run()

        asyncio.run(asyncio.wait_for(run(), LIMIT))
        assert [json.loads(one)["time"] for one in values_of(centre, "out")] == list(range(40))
        (letter,) = map(json.loads, values_of(centre, "out.dead-letter"))
    assert (letter["raw"], letter["detail"]) == ("junk", "partition 0 offset 20: does not begin with the byte 0 and the id of a schema")
    assert any("answers 503 Service Unavailable" in line for line in told)


def test_the_command_decodes_a_topic_of_kafka(
    small: Small, kafka: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from headrace.topics.kafka import KafkaLog

    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REGISTRY", small.url)
    topic = f"readings-{uuid.uuid4().hex}"
    number = small.register(f"{topic}-value", json.dumps(READING))
    dice = Random(1)
    junk = [b"\0", *(head(999) + dice.randbytes(20) + dice.choice([b"\n", b"\r", b"\r\n", b" "]) for _ in range(59))]
    with closing(KafkaLog(kafka.servers, tmp_path)) as log:
        log.create(topic, 1)
        log.append(topic, [avro(number, READING, reading()), *junk, avro(number, READING, reading(value=None))], [b"a", *[None] * 60, b"b"])
    command = ["bridge", f"kafka://{kafka.servers}/{topic}?registry=${{REGISTRY}}", "topic:readings", "--until", "latest"]
    assert main(command) == 0
    assert f"kafka://{kafka.servers}/{topic} → topic:readings, from the first event" in capfd.readouterr().out
    with closing(SqliteLog(tmp_path / "home" / "log.db")) as log:
        assert [(one.key, json.loads(one.value)) for one in log.entries("readings", 0, 0, 10)] == [(b"a", SHOWN), (b"b", {**SHOWN, "value": None})]
        letters = list(map(json.loads, values_of(log, "readings.dead-letter")))
        assert [base64.b64decode(one["raw_base64"]) if "raw_base64" in one else one["raw"].encode() for one in letters] == junk
        assert letters[0]["detail"] == "partition 0 offset 1: does not begin with the byte 0 and the id of a schema"
