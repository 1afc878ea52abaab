"""Sparkplug B: headrace as a host application of edge nodes, whose metrics become readings."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from headrace._clock import now_ms
from headrace.connectors.browsing import Browse
from headrace.connectors.mqtt_address import SERVER_PARAMETERS, parsed, server_of, version_of
from headrace.connectors.mqtt_client import ANSWER_SECONDS, Arrived, Connected, Connection, connect
from headrace.connectors.mqtt_server import Server, Will
from headrace.connectors.payload_records import limit_of, too_long
from headrace.connectors.protocol import Event, Source, Unavailable
from headrace.connectors.sparkplug_host import NAMESPACE, Host, Outcome, says_offline, state
from headrace.connectors.tagged import tags_of
from headrace.errors import PlanError
from headrace.plant.tags import Tag, csv_of_tags
from headrace.plant.units import UNITS

__all__ = ["TAKES_TAGS", "Sparkplug", "browse", "source"]

TAKES_TAGS = True

_KNOWN = SERVER_PARAMETERS | {"host_id", "rebirth", "tags", "max_bytes"}
_MAX_BYTES = 16 << 20  # a birth has all metrics of an edge node
_EXAMPLE = "sparkplug://user@127.0.0.1:1883/GROUP?host_id=headrace"
_BATCH_SECONDS, _LEAVE_SECONDS = 0.02, 2.0


def source(address: str) -> Sparkplug:
    """Return the metrics of an address `sparkplug://user@host:port/GROUP/EDGE?parameters`, or of sparkplugs: with TLS."""
    one = parsed(address, _KNOWN, _EXAMPLE, "FROM")
    path = unquote(one.path.removeprefix("/"))
    levels = path.split("/")
    if len(levels) > 2 or not all(level == "+" or re.fullmatch(r"[^+#\0]+", level) for level in levels):
        raise PlanError(f"has the path {path!r}", where="FROM", fix="give a group, or a group and an edge node: sparkplug://HOST/GROUP/EDGE")
    host_id = one.get("host_id")
    if host_id is not None and not re.fullmatch(r"[^/+#\0]+", host_id):
        raise PlanError(f"parameter host_id is {host_id!r}", where="FROM", fix="give a name without / + #")
    server = server_of(one, "FROM", f"headrace-{secrets.token_hex(7)}", path, v5=version_of(one), most_bytes=limit_of(one, _MAX_BYTES))
    filters = [f"{NAMESPACE}/{levels[0]}/#" if len(levels) == 1 else f"{NAMESPACE}/{levels[0]}/+/{levels[1]}/#"]
    host = Host(asks=one.choice("rebirth", ["yes", "no"]) == "yes", tags=tags_of(one.get("tags")), tell=lambda line: made.tell(line))  # noqa: PLW0108  (what the runner sets later)
    made = Sparkplug(server, filters, host, host_id)
    return made


def browse(address: str, ranges: Sequence[str]) -> Browse:
    """Return the metrics of edge nodes, which are asked for their births."""
    if ranges:
        raise PlanError("is only for modbus", where="--range", fix="leave it out")

    def listed(found: Mapping[str, Mapping[str, Any]]) -> str:
        return csv_of_tags(Tag(name, unit=one["unit"] if one["unit"] in UNITS else None, source=name) for name, one in sorted(found.items()))

    return Browse(source(address), listed)


class Sparkplug(Connected, Source):
    """The readings of edge nodes.

    Parameters
    ----------
    server
        The broker.
    filters
        The topic filters of the edge nodes.
    host
        What is known of them.
    host_id
        The host's name, under which edge nodes find whether it is online; None: it does not say so.
    """

    batch_seconds = _BATCH_SECONDS

    def __init__(self, server: Server, filters: Sequence[str], host: Host, host_id: str | None = None) -> None:
        self.name, self._server, self._filters, self._host, self._host_id = server.name, server, filters, host, host_id
        self._first = True

    async def open(self, _position: Any) -> AsyncGenerator[Event] | None:  # noqa: ANN401  (there is none)
        """Connect, subscribe, and say that the host is online."""
        await self.close()
        since = now_ms()
        server = self._server
        if self._host_id is not None:
            server = replace(server, will=Will(self._state, state(online=False, since_ms=since)))
        connection = await connect(server)
        try:
            for one in self._filters if self._host_id is None else [self._state, *self._filters]:
                await connection.subscribe(one, 1, retained=True)
            if self._host_id is not None:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._announce(connection, since, online=True)
        except TimeoutError:
            connection.close()
            raise Unavailable("does not acknowledge messages") from None
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return self._events(connection, since)

    @property
    def _state(self) -> str:
        return f"{NAMESPACE}/STATE/{self._host_id}"

    def _announce(self, connection: Connection, since: int, *, online: bool) -> asyncio.Future[int]:
        """Say whether the host is online; return what tells when the broker has it."""
        (sent,) = connection.publishing([(self._state, state(online=online, since_ms=since))], retain=True)
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())
        return sent

    async def _leave(self, connection: Connection) -> None:
        """Say that the host is offline, if that can be said soon, and disconnect; else the broker says it."""
        if not connection.lost and self._host_id is not None:
            with suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._announce(connection, now_ms(), online=False)
        connection.close()

    async def _events(self, connection: Connection, since: int) -> AsyncGenerator[Event]:
        try:
            if not self._first:
                for event in self._of_outcome(connection, self._host.away(now_ms()), b"", None):
                    yield event
            self._first = False
            while True:
                await connection.wait()
                while connection.arrived:
                    one = connection.arrived.popleft()
                    topic = one.message.topic.decode(errors="replace")
                    if self._host_id is not None and topic == self._state:
                        connection.acknowledge([one.message.mid] if one.message.mid else [])
                        if says_offline(one.message.payload):
                            self._announce(connection, since, online=True)
                        continue
                    for event in self._of_message(connection, topic, one):
                        yield event
        finally:
            await self._leave(connection)

    def _of_message(self, connection: Connection, topic: str, one: Arrived) -> Iterator[Event]:
        message = one.message
        token = (connection, message.mid) if message.mid else None
        # No message of an edge node is retained: one that is says how things once were.
        payload, size = message.payload, len(message.payload) + one.missing
        if size > self._server.most_bytes:
            payload, _, why = too_long(topic, payload, size, self._server.most_bytes)
            outcome = Outcome(malformed=why)
        elif message.retained:
            outcome = Outcome(malformed=f"{topic}: is a retained message")
        else:
            outcome = self._host.receive(topic, payload, one.at_ms)
        yield from self._of_outcome(connection, outcome, payload, token)

    @staticmethod
    def _of_outcome(connection: Connection, outcome: Outcome, payload: bytes, token: tuple[Connection, int] | None) -> Iterator[Event]:
        """Send the commands, and yield the readings; the last event of a message has what acknowledges it."""
        for topic, command in outcome.commands:
            connection.send(topic, command)
        events = [Event(reading.encode(), None, reading.tag) for reading in outcome.readings]
        if outcome.malformed is not None:
            events.append(Event(payload, malformed=outcome.malformed))
        if events and token is not None:
            events[-1] = events[-1]._replace(token=token)
        elif token is not None:
            connection.acknowledge([token[1]])
        yield from events

    async def acknowledge(self, events: Sequence[Event]) -> None:
        """Acknowledge the messages of this connection."""
        self._acknowledge([event.token[1] for event in events if event.token is not None and event.token[0] is self._connection])
