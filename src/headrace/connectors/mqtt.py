"""MQTT brokers: messages into a topic, acknowledged when they are durable there; records of a topic as messages."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote
from zlib import crc32

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.address import Address, secret_file
from headrace.connectors.browsing import Browse
from headrace.connectors.leaves import leaves, tags_at
from headrace.connectors.mqtt_client import ANSWER_SECONDS, Arrived, Connected, Connection, connect
from headrace.connectors.mqtt_server import Server
from headrace.connectors.payloads import PARAMETERS, Made, Path, Shape, limit_of, shape_of, too_long
from headrace.connectors.protocol import Event, Record, Refused, Source, Target, Unavailable
from headrace.errors import PlanError
from headrace.plant.tags import csv_of_tags

__all__ = ["TAKES_TAGS", "Messages", "Published", "browse", "server_of", "source", "target"]

TAKES_TAGS = True  # messages that are records as they are have no use for them

SERVER_PARAMETERS = frozenset({"version", "client_id", "keepalive", "password_file", "ca", "cert", "key"})
_IN = SERVER_PARAMETERS | PARAMETERS | {"qos", "share", "session", "window", "retained", "repeats"}
_EXAMPLE = "mqtt://user@127.0.0.1:1883/plant/+/data?qos=1"
_BROWSE_EXAMPLE = "mqtt://user@127.0.0.1:1883/plant/#"
_OUT = SERVER_PARAMETERS | {"retain", "value"}
_OUT_EXAMPLE = "mqtt://user@127.0.0.1:1883/plant/{tag}?retain=yes"
_BATCH_SECONDS = 0.02
_FIELD = re.compile(r"\{([^{}]+)\}")
_REFUSALS = {0x87: "not authorised", 0x90: "the topic is invalid", 0x99: "the payload is invalid"}
_WINDOW, _OLD_WINDOW = 1000, 20  # 20 is what many brokers have in flight at most where a client cannot say it


def source(address: str) -> Messages:
    """Return the messages of an address `mqtt://user@host:port/topic/filter?parameters`, or of mqtts: with TLS."""
    one = parsed(address, _IN, _EXAMPLE, "FROM")
    topic = unquote(one.path.removeprefix("/"))
    check_filter(topic)
    share = one.get("share")
    if share is not None and (not share or re.search(r"[/+#]", share)):
        raise PlanError(f"parameter share is {share!r}", where="FROM", fix="give the name of a group, without / + #")
    if share is not None and one.get("client_id") is None:
        raise PlanError("parameter share needs client_id", where="FROM", fix="give client_id=NAME, another to each member of the group")
    qos = int(one.choice("qos", ["1", "0"]))
    v5 = version_of(one)
    window = int(one.number("window", _OLD_WINDOW if v5 is False else _WINDOW, 1, 10_000))
    session = int(one.seconds("session", 7 * 86_400.0, 1.0, 4e9)) if qos else 0
    default = "headrace-" + hashlib.sha256(f"{one.host}:{one.port}/{topic}".encode()).hexdigest()[:14]
    server = server_of(one, "FROM", default, topic, session_seconds=session, window=window, v5=v5, most_bytes=limit_of(one))
    made: Messages = Messages(
        server,
        f"$share/{share}/{topic}" if share else topic,
        shape_of(one, lambda line: made.tell(line)),  # noqa: PLW0108  (what the runner sets later)
        qos=qos,
        retained=one.choice("retained", ["yes", "no"]) == "yes",
        drops_repeats=one.choice("repeats", ["drop", "keep"]) == "drop",
    )
    return made


def target(address: str) -> Published:
    """Return what publishes records to an address `mqtt://user@host:port/topic/{field}?parameters`, or to mqtts: with TLS."""
    one = parsed(address, _OUT, _OUT_EXAMPLE, "TO")
    topic = unquote(one.path.removeprefix("/"))
    fixed = _FIELD.sub("", topic)
    if not topic or re.search(r"[+#{}\0]", fixed):
        raise PlanError(f"has the topic {topic!r}", where="TO", fix=f"give a topic without + and #, such as {_OUT_EXAMPLE}")
    value = one.get("value")
    server = server_of(one, "TO", f"headrace-{secrets.token_hex(7)}", topic, v5=version_of(one))
    path = None if value is None else Path(value, "value", "TO")
    if path is not None and path.each:
        raise PlanError(f"parameter value is {value!r}", where="TO", fix="give a path without *")
    return Published(server, topic, path, retain=one.choice("retain", ["no", "yes"]) == "yes")


def browse(address: str, ranges: Sequence[str]) -> Browse:
    """Return what a broker has: its retained messages and those that are published, by their own session at QoS 0."""
    if ranges:
        raise PlanError("is only for modbus", where="--range", fix="leave it out")
    one = parsed(address, SERVER_PARAMETERS, _BROWSE_EXAMPLE, "ADDRESS")
    topic = unquote(one.path.removeprefix("/")) or "#"
    check_filter(topic, "ADDRESS")
    server = server_of(one, "ADDRESS", f"headrace-{secrets.token_hex(7)}", topic, v5=version_of(one))
    return Browse(Messages(server, topic, leaves, qos=0), lambda found: csv_of_tags(tags_at(found)))


class Messages(Connected, Source):
    """The messages of a topic filter, acknowledged after their commit.

    A message that the broker repeats after an outage has the flag for it, its packet identifier, topic and payload. If all of them are
    those of a message that was committed, it is a repetition.

    Parameters
    ----------
    server
        The broker.
    topic
        The topic filter.
    shape
        What becomes of a message.
    qos
        0 or 1.
    retained
        Whether retained messages are records too.
    drops_repeats
        Whether repetitions are recognised.
    """

    batch_seconds = _BATCH_SECONDS

    def __init__(self, server: Server, topic: str, shape: Shape, *, qos: int = 1, retained: bool = True, drops_repeats: bool = True) -> None:
        self.name, self._server, self._topic, self._shape, self._qos = server.name, server, topic, shape, qos
        self._retained = retained
        # A broker may have more in flight than it was asked for: one of 3.1.1 is not asked, others resume a session over a backlog.
        self.redelivers = 2 * max(server.window, _WINDOW) if qos and drops_repeats else 0
        self.window = server.window if qos else 0
        self._session: str | None = None
        self._count = self._first = 0

    async def open(self, position: Mapping[str, str] | None) -> AsyncGenerator[Event] | None:
        """Connect, resume the session, and subscribe."""
        await self.close()
        connection = await connect(self._server)
        try:
            await connection.subscribe(self._topic, self._qos, retained=self._retained)
        except BaseException:
            connection.close()
            raise
        known = self._session or (position or {}).get("session")
        if known is None or not connection.session_present:
            if known is not None and self._qos:
                self.tell("the broker has forgotten our session; what was published since the connection was lost is lost")
            self._session = secrets.token_hex(4)
        else:
            self._session = known
        self._connection, self._first = connection, self._count
        return self._events(connection, self._session)

    async def _events(self, connection: Connection, session: str) -> AsyncGenerator[Event]:
        position, seed = {"session": session} if self._qos else None, int(session, 16)
        arrived = connection.arrived
        try:
            while True:
                await connection.wait()
                while arrived:
                    for event in self._of_message(arrived.popleft(), position, seed):
                        yield event
        finally:
            connection.close()

    def _of_message(self, one: Arrived, position: Any, seed: int) -> Iterator[Event]:  # noqa: ANN401  (a value of JSON)
        topic, payload, mid, repeated, retained = one.message
        token = None
        if mid:
            self._count += 1
            token = self._count << 16 | mid
        if retained and not self._retained:
            self._acknowledge([mid] if mid else [])
            return
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            yield Event(payload, position, None, None, token, malformed="has a topic that is not UTF-8")
            return
        if one.missing:
            made: Sequence[Made] = [too_long(name, payload, len(payload) + one.missing, self._server.most_bytes)]
        else:
            made = self._shape(name, payload, one.at_ms)
        if not made:  # an object without members has no values
            self._acknowledge([mid] if mid else [])
            return
        id_ = f"{crc32(payload, crc32(topic, seed)):x}-{mid:x}" if mid else None
        if len(made) == 1:
            value, key, malformed = made[0]
            yield Event(value, position, key, id_, token, repeated, malformed)
            return
        for number, (value, key, malformed) in enumerate(made, 1):
            of_value = None if id_ is None else f"{id_}-{number}"
            yield Event(value, position, key, of_value, token if number == len(made) else None, repeated, malformed)

    async def acknowledge(self, events: Sequence[Event]) -> None:
        """Acknowledge messages of this connection, in their order; others come again, and are known then."""
        tokens = [event.token for event in events if event.token is not None]
        first = (self._first + 1) << 16
        self._acknowledge([token & 0xFFFF for token in sorted(tokens) if token >= first])


class Published(Connected, Target):
    """Records as messages at QoS 1, sent when the broker has acknowledged them.

    Parameters
    ----------
    server
        The broker.
    topic
        The messages' topic; `{field}` and `{$.path}` in it are the record's.
    value
        What of a record is the payload; None: all of it.
    retain
        Whether the broker retains the last message of each topic.
    """

    def __init__(self, server: Server, topic: str, value: Path | None = None, *, retain: bool = False) -> None:
        self.name, self._server, self._value, self._retain = server.name, server, value, retain
        self._parts: list[str | Path] = [
            part if number % 2 == 0 else Path(part if part[:1] == "$" else f"$[{part!r}]", "topic", server.where)
            for number, part in enumerate(_FIELD.split(topic))
        ]

    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Publish records, in their order, and wait for the acknowledgements."""
        connection = await self._connected()
        never: dict[int, str] = {}
        messages: list[tuple[int, str, bytes]] = []
        for place, record in enumerate(records):
            try:
                topic, payload = self._message(record.value)
                if (most := connection.limits.packet_bytes) is not None and len(topic.encode()) + len(payload) + 16 > most:
                    raise _Unsendable(f"has more bytes than the {most:,} that the broker takes")  # noqa: TRY301  (as all the others)
            except _Unsendable as error:
                never[place] = str(error)
            else:
                messages.append((place, topic, payload))
        for first in range(0, len(messages), connection.limits.inflight):
            await self._publish(connection, messages[first : first + connection.limits.inflight], never)
        return never

    async def _publish(self, connection: Connection, messages: Sequence[tuple[int, str, bytes]], never: dict[int, str]) -> None:
        """Publish as many messages as the broker takes at once, and note those that it refuses."""
        sent = connection.publishing([(topic, payload) for _, topic, payload in messages], retain=self._retain)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answers = await asyncio.gather(*sent)
        except TimeoutError:
            raise Unavailable("does not acknowledge messages") from None
        finally:
            if [one for one in sent if not one.done() or one.cancelled() or one.exception() is not None]:
                await self.close()
        for (place, topic, _), answer in zip(messages, answers, strict=True):
            if answer in {0x83, 0x97}:  # its own reasons, or a quota: it may take the message later
                what = f"the broker does not take a message of {topic}: reason code {answer:#x}"
                raise Unavailable(what) if never else Refused(what, at=place)
            if answer >= 0x80:
                never[place] = f"the broker refuses a message of {topic}: {_REFUSALS.get(answer, f'reason code {answer:#x}')}"

    def _message(self, record: bytes) -> tuple[str, bytes]:
        """Return topic and payload of a record."""
        try:
            content = msgspec.json.decode(record)
        except NOT_JSON:
            raise _Unsendable("is not JSON") from None
        topic = "".join(part if isinstance(part, str) else _text_at(part, content) for part in self._parts)
        if not topic or re.search(r"[+#\0]", topic) or len(topic.encode()) > 65_535:
            raise _Unsendable(f"makes the topic {topic[:80]!r}, and a topic has no + and #")
        if self._value is None:
            return topic, record
        if self._value.lacks(content):
            raise _Unsendable(f"has nothing at {self._value.text}")
        value = self._value.find(content)
        return topic, value.encode() if isinstance(value, str) else msgspec.json.encode(value)

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.lost:
            self._connection = await connect(self._server)
            if self._retain and not self._connection.limits.retained:
                await self.close()
                raise PlanError("does not retain messages", where=self.name, fix="leave retain out")
        return self._connection


class _Unsendable(Exception):
    """A record cannot be a message."""


def _text_at(path: Path, content: Any) -> str:  # noqa: ANN401  (a value of JSON)
    found = path.find(content)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise _Unsendable(f"has no text at {path.text}, which the topic asks for")
    return str(found)


# addresses


def parsed(address: str, known: frozenset[str], example: str, where: str) -> Address:
    """Return an address whose path may have the # of a topic filter."""
    one = Address(address.replace("#", "%23"), known, example, where)
    if one.host is None or one.scheme not in {"mqtt", "mqtts", "sparkplug", "sparkplugs"}:
        raise one.wrong("is not the address of a broker")
    return one


def version_of(address: Address) -> bool | None:
    """Return whether an address asks for MQTT 5 or for 3.1.1; None: for the newest that the broker speaks."""
    version = address.get("version")
    if version not in {None, "5", "3.1.1"}:
        raise PlanError(f"parameter version is {version!r}", where=address.where, fix="give version=5 or version=3.1.1")
    return None if version is None else version == "5"


def server_of(address: Address, where: str, client_id: str, path: str, **options: Any) -> Server:  # noqa: ANN401  (those of Server)
    """Return the broker of an address."""
    tls = address.scheme.endswith("s")
    for name in ("ca", "cert", "key"):
        if address.get(name) is not None and not tls:
            raise PlanError(f"parameter {name} is only for TLS", where=where, fix=f"give {address.scheme}s://…")
    file = address.get("password_file")
    if file is not None and address.password is not None:
        raise PlanError("has a password, and parameter password_file", where=where, fix="give one of them")
    assert address.host is not None
    port = address.port or (8883 if tls else 1883)
    host = f"[{address.host}]" if ":" in address.host else address.host
    user = f"{address.user}@" if address.user else ""
    server = Server(
        name=f"{address.scheme}://{user}{host}:{port}/{path}",
        where=where,
        host=address.host,
        port=port,
        client_id=address.get("client_id") or client_id,
        user=address.user,
        password=address.password if file is None else secret_file(file),
        tls=tls,
        ca=address.get("ca"),
        certificate=address.get("cert"),
        key=address.get("key"),
        keepalive=int(address.seconds("keepalive", 30.0, 1.0, 65_535.0)),
        **options,
    )
    server.check_files()
    return server


def check_filter(topic: str, where: str = "FROM") -> None:
    """Raise PlanError unless a text is a topic filter: `+` and `#` stand for whole levels, and `#` is the last one."""
    levels = topic.split("/")
    bad = next((level for level in levels if level not in {"+", "#"} and ("+" in level or "#" in level)), None)
    if not topic:
        raise PlanError("has no topic filter", where=where, fix=f"give an address such as {_EXAMPLE}")
    if bad is not None or "#" in levels[:-1] or "\0" in topic or len(topic.encode()) > 65_535:
        what = (
            f"level {bad!r}" if bad is not None else "'#' before its end" if "#" in levels[:-1] else "a character or length that MQTT does not have"
        )
        raise PlanError(f"has a topic filter with {what}", where=where, fix="+ stands for one whole level, # for all further ones at the end")
