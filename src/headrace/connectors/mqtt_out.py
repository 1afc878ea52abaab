"""Records of a topic as messages: each is sent again until the broker has it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.mqtt_client import ANSWER_SECONDS, Connected, Connection, connect
from headrace.connectors.mqtt_server import Server
from headrace.connectors.payload_paths import Path
from headrace.connectors.protocol import Record, Refused, Target, Unavailable
from headrace.errors import PlanError

__all__ = ["FIELD", "Published"]

FIELD = re.compile(r"\{([^{}]+)\}")
_REFUSALS = {0x87: "not authorised", 0x90: "the topic is invalid", 0x99: "the payload is invalid"}


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
            for number, part in enumerate(FIELD.split(topic))
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
