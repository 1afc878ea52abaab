"""A connection to an MQTT broker in an asyncio loop.

paho speaks the protocol: CONNECT, SUBSCRIBE, PING and DISCONNECT. asyncio has the socket, and TLS. Messages and their
acknowledgements pass by paho, for speed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace._clock import now_ms
from headrace.connectors import mqtt_wire as wire
from headrace.connectors.mqtt_faults import OnlyOlder, fault_of_reason, fault_of_tls, fix_of_silence, fix_of_tls, why_of
from headrace.connectors.mqtt_paho import Pipe, client_of, subscription
from headrace.connectors.mqtt_server import MOST_INFLIGHT, OLD_INFLIGHT, Limits, Server
from headrace.connectors.mqtt_wire import Malformed, Packets
from headrace.connectors.protocol import Unavailable
from headrace.errors import HeadraceError, PlanError

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["ANSWER_SECONDS", "Arrived", "Connected", "Connection", "connect"]


ANSWER_SECONDS = 10.0
_TICK_SECONDS = 1.0
_MOST_UNREAD_BYTES = 32 << 20
_SPARSE_MS = 2  # where more comes than that, fewer and larger packets cost less
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # where there is none, the system decides
_PINGREQ = b"\xc0\x00"


class Arrived(NamedTuple):
    """A message that came, when, in ms since the epoch, and how many bytes of its payload were not kept."""

    message: wire.Publish
    at_ms: int
    missing: int = 0


class Connection(asyncio.Protocol):
    """One connection. When it is lost, make another one.

    Attributes
    ----------
    arrived
        The messages that came and were not taken yet.
    session_present
        Whether the broker had a session for the client.
    limits
        What the broker takes.
    """

    def __init__(self, server: Server) -> None:
        self._server, self._v5 = server, server.v5 is not False
        self.arrived: deque[Arrived] = deque()
        self.session_present, self.limits = False, Limits()
        self._loop = asyncio.get_running_loop()
        self._came, self._room = asyncio.Event(), asyncio.Event()
        self._fault: HeadraceError | None = None
        self._answer: asyncio.Future[Any] | None = None
        self._packets, self._pipe = Packets(server.most_bytes + wire.HEAD_BYTES), Pipe()
        self._unread = 0  # bytes that came since all messages were taken
        self._paused = False
        self._socket: Any = None
        self._last_ms = 0  # when something came last
        self._tick: asyncio.TimerHandle | None = None  # from when the connection is open
        self._pending: dict[int, asyncio.Future[int]] = {}
        self._next_mid = 0
        self._client = client_of(server, self._pipe, v5=self._v5)
        self._client.on_connect, self._client.on_subscribe, self._client.on_disconnect = self._on_connect, self._on_subscribe, self._on_disconnect

    # opening

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        Unavailable
            If the broker does not answer, or is busy.
        PlanError
            If it refuses us.
        """
        server = self._server
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._loop.create_connection(lambda: self, server.host, server.port, ssl=server.context)
                await self._connect()
        except TimeoutError:
            self.close()
            raise Unavailable("does not answer", fix=fix_of_silence(server)) from None
        except ssl.SSLError as error:
            raise fault_of_tls(error, self._server) from None
        except OSError as error:
            raise Unavailable(why_of(error), fix=fix_of_silence(server)) from None
        except BaseException:
            self.close()
            raise
        self._tick = self._loop.call_later(_TICK_SECONDS, self._keep_alive)

    async def _connect(self) -> None:
        server = self._server
        flags, reason, given = await self._asked(lambda: self._client.open(server, v5=self._v5))
        if reason.is_failure:
            raise self._of_reason(reason, "refuses the connection", getattr(given, "ReasonString", None))
        self.session_present = flags.session_present
        self.limits = Limits(
            getattr(given, "ReceiveMaximum", MOST_INFLIGHT if self._v5 else OLD_INFLIGHT),
            getattr(given, "MaximumPacketSize", None),
            bool(getattr(given, "RetainAvailable", 1)),
        )

    async def _asked(self, ask: Any) -> Any:  # noqa: ANN401  (what the broker answers)
        """Return what the broker answers to what `ask` sends."""
        self._answer = self._loop.create_future()
        try:
            ask()
            return await self._answer
        finally:
            self._answer = None

    async def subscribe(self, topic: str, qos: int, *, retained: bool) -> None:
        """Subscribe to a topic filter.

        Parameters
        ----------
        retained
            Whether the retained messages come, if the subscription is new.

        Raises
        ------
        Unavailable, PlanError
            If the broker does not answer, or refuses it.
        """
        how = subscription(topic, qos, retained=retained, v5=self._v5)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                (reason,) = await self._asked(lambda: self._client.subscribe(topic, **how))
        except TimeoutError:
            raise Unavailable("does not answer a subscription") from None
        if reason.is_failure:
            raise self._of_reason(reason, f"refuses the topic filter {topic!r}")
        if reason.value < qos:
            raise PlanError(f"grants only QoS {reason.value} for {topic!r}", where=self._server.name, fix="give qos=0; messages may then be lost")

    # the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._pipe.transport = transport
        self._socket = transport.get_extra_info("socket")

    def _acknowledge_at_once(self) -> None:
        """Have the system acknowledge what came. A broker may send a small packet only then, and the system may wait for 40 ms."""
        if _QUICKACK is not None and self._socket is not None:
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def data_received(self, data: bytes) -> None:
        """Take what the broker sends."""
        now, v5 = now_ms(), self._v5
        if now - self._last_ms >= _SPARSE_MS:
            self._acknowledge_at_once()
        self._last_ms = now
        try:
            for first, at, packet, missing in self._packets.feed(data):
                kind = first >> 4
                if kind == wire.PUBLISH:
                    self.arrived.append(Arrived(wire.publish_of(first, at, packet, properties=v5, missing=missing), now, missing))
                elif missing:
                    raise Malformed(f"a packet that is no message has {len(packet) + missing:,} bytes")  # noqa: TRY301  (as all the others)
                elif kind == wire.PUBACK:
                    mid, reason = wire.acknowledged(at, packet)
                    if (waiting := self._pending.pop(mid, None)) is not None and not waiting.done():
                        waiting.set_result(reason)
                else:
                    self._to_paho(packet)
        except Malformed as error:
            self._lose(Unavailable(f"sends what is not MQTT: {error}"))
        if self.arrived:
            self._came.set()
            self._unread += len(data)
            # Nobody takes messages before the subscription is answered, and the answer comes behind all that the session has in flight.
            many = len(self.arrived) >= 2 * self._server.window or self._unread >= _MOST_UNREAD_BYTES
            if many and not self._paused and self._answer is None:
                self._pause(True)

    def _to_paho(self, packet: bytes) -> None:
        self._pipe.hand(packet)
        try:
            self._client.loop_read()
        except Exception as error:  # noqa: BLE001  (paho has no error of its own for all that a broker may send)
            self._lose(Unavailable(f"sends what is not MQTT: {type(error).__name__}"))
        if self._pipe.closed:
            self._lose(Unavailable("sends what is not MQTT"))

    def _pause(self, paused: bool) -> None:  # noqa: FBT001  (the state to be in)
        """Stop or resume reading: the broker waits then, as soon as what lies between is full."""
        self._paused = paused
        transport = self._pipe.transport
        if transport is not None and not transport.is_closing():
            (transport.pause_reading if paused else transport.resume_reading)()

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the connection is lost."""
        why = why_of(error) if isinstance(error, OSError) else "closed the connection"
        fix = fix_of_tls(self._server) if self._server.tls and self._tick is None else None
        self._lose(fault_of_tls(error, self._server) if isinstance(error, ssl.SSLError) else Unavailable(why, fix=fix))

    def _lose(self, fault: HeadraceError) -> None:
        """End the connection; the first fault is the reason."""
        if self._fault is None:
            self._fault = fault
        if self._tick is not None:
            self._tick.cancel()
        for waiting in (self._answer, *self._pending.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._fault)
        self._pending.clear()
        self._came.set()
        if self._pipe.transport is not None:
            self._pipe.transport.abort()  # what was written is with the system; TLS would wait for the broker's farewell

    def _keep_alive(self) -> None:
        assert self._pipe.transport is not None
        if self._paused:  # the answer to a ping would stand behind messages that are not read
            self._pipe.transport.write(_PINGREQ)
        elif self._client.loop_misc():
            self._lose(Unavailable(f"has been silent for {self._server.keepalive} s"))
            return
        self._tick = self._loop.call_later(_TICK_SECONDS, self._keep_alive)

    # paho's side

    def _on_connect(self, _client: object, _data: object, flags: Any, reason: ReasonCode, properties: Any) -> None:  # noqa: ANN401  (paho's)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((flags, reason, properties))

    def _on_subscribe(self, _client: object, _data: object, _mid: int, reasons: Any, _properties: object) -> None:  # noqa: ANN401  (paho's)
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reasons)

    def _on_disconnect(self, _client: object, _data: object, flags: Any, reason: Any, _properties: object) -> None:  # noqa: ANN401  (paho's)
        if flags.is_disconnect_packet_from_server:
            self._lose(self._of_reason(reason, "ends the connection"))

    def _of_reason(self, reason: ReasonCode, what: str, more: str | None = None) -> HeadraceError:
        return fault_of_reason(reason, what, self._server, v5=self._v5, more=more)

    # using

    async def wait(self) -> None:
        """Return when messages have arrived. Raises the fault if the connection is lost and all messages were taken."""
        if not self.arrived:
            self._unread = 0
        if self._paused and len(self.arrived) < self._server.window and self._unread < _MOST_UNREAD_BYTES:
            self._pause(False)
        if not self.arrived:
            if self._fault is not None:
                raise self._fault
            self._came.clear()
            await self._came.wait()
            if not self.arrived and self._fault is not None:
                raise self._fault

    def acknowledge(self, mids: Iterable[int]) -> None:
        """Acknowledge messages, in the order in which they came."""
        if self._fault is None and self._pipe.transport is not None:
            self._pipe.transport.write(wire.pubacks(mids))

    def publishing(self, messages: Iterable[tuple[str, bytes]], *, retain: bool) -> list[asyncio.Future[int]]:
        """Send messages at QoS 1, and return what will be the broker's reason codes; at most as many as its limits allow."""
        if self._fault is not None:
            raise self._fault
        assert self._pipe.transport is not None
        packets, found = [], []
        for topic, payload in messages:
            self._next_mid = self._next_mid % 0xFFFF + 1
            packets.append(wire.publish_packet(topic.encode(), payload, self._next_mid, retain=retain, properties=self._v5))
            self._pending[self._next_mid] = sent = self._loop.create_future()
            found.append(sent)
        self._pipe.transport.write(b"".join(packets))
        return found

    def send(self, topic: str, payload: bytes) -> None:
        """Send a message at QoS 0."""
        if self._fault is None and self._pipe.transport is not None:
            self._pipe.transport.write(wire.publish_packet(topic.encode(), payload, 0, retain=False, properties=self._v5))

    @property
    def lost(self) -> bool:
        """Whether the connection is no more."""
        return self._fault is not None

    def close(self) -> None:
        """Disconnect; the session remains for as long as was agreed."""
        if self._fault is None and self._pipe.transport is not None:
            self._client.disconnect()
        self._lose(Unavailable("is closed"))


class Connected:
    """Shared parts of sources and targets that keep one connection."""

    _connection: Connection | None = None

    def _acknowledge(self, mids: Sequence[int]) -> None:
        if mids and self._connection is not None:
            self._connection.acknowledge(mids)

    async def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def connect(server: Server) -> Connection:
    """Return a new connection; one of MQTT 3.1.1 if the broker says that it does not speak MQTT 5, and the address does not ask for it."""
    one = Connection(server)
    try:
        await one.open()
    except OnlyOlder:
        one = Connection(replace(server, v5=False))
        await one.open()
    return one
