"""MQTT brokers: messages into a topic, acknowledged when they are durable there; records of a topic as messages."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote
from zlib import crc32

from headrace.connectors.browsing import Browse
from headrace.connectors.leaves import leaves, tags_at
from headrace.connectors.mqtt_address import MQTT_EXAMPLE, SERVER_PARAMETERS, check_filter, parsed, server_of, version_of
from headrace.connectors.mqtt_client import Arrived, Connected, Connection, connect
from headrace.connectors.mqtt_out import FIELD, Published
from headrace.connectors.mqtt_server import Server
from headrace.connectors.payload_paths import Path
from headrace.connectors.payload_records import Made, Shape, limit_of, too_long
from headrace.connectors.payloads import PARAMETERS, shape_of
from headrace.connectors.protocol import Event, Source
from headrace.errors import PlanError
from headrace.plant.tags import csv_of_tags

__all__ = ["TAKES_TAGS", "Messages", "browse", "source", "target"]

TAKES_TAGS = True  # messages that are records as they are have no use for them
_IN = SERVER_PARAMETERS | PARAMETERS | {"qos", "share", "session", "window", "retained", "repeats"}
_BROWSE_EXAMPLE = "mqtt://user@127.0.0.1:1883/plant/#"
_OUT = SERVER_PARAMETERS | {"retain", "value"}
_OUT_EXAMPLE = "mqtt://user@127.0.0.1:1883/plant/{tag}?retain=yes"
_BATCH_SECONDS = 0.02
_WINDOW, _OLD_WINDOW = 1000, 20  # 20 is what many brokers have in flight at most where a client cannot say it


def source(address: str) -> Messages:
    """Return the messages of an address `mqtt://user@host:port/topic/filter?parameters`, or of mqtts: with TLS."""
    one = parsed(address, _IN, MQTT_EXAMPLE, "FROM")
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
    fixed = FIELD.sub("", topic)
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
