"""A connection to an MQTT broker in an asyncio loop.

paho speaks the protocol: CONNECT, SUBSCRIBE, PING and DISCONNECT. asyncio has the socket, and TLS. Messages and their
acknowledgements pass by paho, for speed.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from headrace._clock import now_ms
from headrace.connectors import mqtt_wire as wire
from headrace.connectors.certificates import check_own, context_again, context_of, fault_of_certificate
from headrace.connectors.mqtt_wire import Malformed, Packets
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault, HeadraceError, PlanError

try:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package paho-mqtt", where="the bridge", fix="pip install 'headrace[mqtt]'") from None

__all__ = ["ANSWER_SECONDS", "Arrived", "Connected", "Connection", "Limits", "Server", "Will", "connect"]

ANSWER_SECONDS = 10.0
_TICK_SECONDS = 1.0
_MOST_UNREAD_BYTES = 32 << 20
_SPARSE_MS = 2  # where more comes than that, fewer and larger packets cost less
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # where there is none, the system decides
_PINGREQ = b"\xc0\x00"
_MOST_INFLIGHT, _OLD_INFLIGHT = 65_535, 20  # a broker of 3.1.1 cannot say how many it takes


@dataclass(frozen=True, slots=True)
class Will:
    """A message that the broker publishes for a client that is gone."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A broker, and how to connect to it.

    Attributes
    ----------
    name
        What errors call it: the address without passwords.
    where
        What they call the argument that it came from.
    session_seconds
        How long the broker keeps the session when the connection is lost; 0: there is none, each connection begins anew.
    window
        How many messages it sends before it waits for acknowledgements.
    v5
        Whether MQTT 5 is spoken, else 3.1.1. None: MQTT 5, or 3.1.1 if the broker says that it does not speak 5.
    ca, certificate, key
        Files for TLS. None for `ca`: the system's authorities.
    most_bytes
        Of a longer message only the beginning is kept.
    """

    name: str
    host: str
    port: int
    client_id: str
    where: str = "FROM"
    user: str | None = None
    password: str | None = None
    tls: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    keepalive: int = 30
    session_seconds: int = 0
    window: int = _MOST_INFLIGHT
    v5: bool | None = None
    will: Will | None = None
    most_bytes: int = 16 << 20

    def check_files(self) -> None:
        """Raise EnvironmentFault if a file for TLS cannot be used."""
        if self.tls:
            context_of(self.ca, self.certificate, self.key)

    @property
    def context(self) -> ssl.SSLContext | None:
        """How TLS is spoken, by the files as they are now. Raises Unavailable if they cannot be used, or our certificate is not valid."""
        if not self.tls:
            return None
        if self.certificate is not None:
            check_own(self.certificate)
        return context_again(self.ca, self.certificate, self.key)


class Limits(NamedTuple):
    """The limits of a broker: messages before their acknowledgements, bytes of a packet, retained messages."""

    inflight: int = _OLD_INFLIGHT
    packet_bytes: int | None = None
    retained: bool = True


class Arrived(NamedTuple):
    """A message that came, when, in ms since the epoch, and how many bytes of its payload were not kept."""

    message: wire.Publish
    at_ms: int
    missing: int = 0


class _Pipe:
    """A stand-in for paho's socket: it reads the packets that it is handed, and what it sends goes to the transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self._data, self._place = b"", 0

    def hand(self, packet: bytes) -> None:
        self._data, self._place = packet, 0

    def recv(self, most: int) -> bytes:
        data = self._data[self._place : self._place + most]
        if not data:
            raise BlockingIOError
        self._place += len(data)
        return data

    def send(self, data: bytes | bytearray) -> int:
        assert self.transport is not None
        self.transport.write(bytes(data))
        return len(data)

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001  (a socket's)
        """It never blocks."""


class _Paho(paho.Client):
    pipe: _Pipe

    def _create_socket(self) -> Any:  # noqa: ANN401  (paho's SocketLike)
        return self.pipe


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
        self._packets, self._pipe = Packets(server.most_bytes + wire.HEAD_BYTES), _Pipe()
        self._unread = 0  # bytes that came since all messages were taken
        self._paused = False
        self._socket: Any = None
        self._last_ms = 0  # when something came last
        self._tick: asyncio.TimerHandle | None = None  # from when the connection is open
        self._pending: dict[int, asyncio.Future[int]] = {}
        self._next_mid = 0
        self._client = self._made()

    def _made(self) -> _Paho:
        server = self._server
        client = _Paho(
            CallbackAPIVersion.VERSION2,
            client_id=server.client_id,
            protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311,
            clean_session=None if self._v5 else not server.session_seconds,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.pipe = self._pipe
        if server.user is not None or server.password is not None:
            client.username_pw_set(server.user or "", server.password)
        if (will := server.will) is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect, client.on_subscribe, client.on_disconnect = self._on_connect, self._on_subscribe, self._on_disconnect
        return client

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
            raise Unavailable("does not answer", fix=_fix(server)) from None
        except ssl.SSLError as error:
            raise self._of_tls(error) from None
        except OSError as error:
            raise Unavailable(_why(error), fix=_fix(server)) from None
        except BaseException:
            self.close()
            raise
        self._tick = self._loop.call_later(_TICK_SECONDS, self._keep_alive)

    async def _connect(self) -> None:
        server, properties = self._server, None
        if self._v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = server.session_seconds
            properties.ReceiveMaximum = server.window
        start: Any = not server.session_seconds if self._v5 else paho.MQTT_CLEAN_START_FIRST_ONLY
        flags, reason, given = await self._asked(
            lambda: self._client.connect(server.host, server.port, server.keepalive, clean_start=start, properties=properties)
        )
        if reason.is_failure:
            raise self._of_reason(reason, "refuses the connection", getattr(given, "ReasonString", None))
        self.session_present = flags.session_present
        self.limits = Limits(
            getattr(given, "ReceiveMaximum", _MOST_INFLIGHT if self._v5 else _OLD_INFLIGHT),
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
        # A shared subscription has no retained messages.
        options = SubscribeOptions(qos=qos, retainHandling=0 if topic.startswith("$share/") else 1 if retained else 2)
        how: dict[str, Any] = {"options": options} if self._v5 else {"qos": qos}
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
        why = _why(error) if isinstance(error, OSError) else "closed the connection"
        fix = _fix_of_tls(self._server) if self._server.tls and self._tick is None else None
        self._lose(self._of_tls(error) if isinstance(error, ssl.SSLError) else Unavailable(why, fix=fix))

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

    # faults

    def _of_reason(self, reason: ReasonCode, what: str, more: str | None = None) -> HeadraceError:
        """Return the error of a reason that the broker gave."""
        server, said = self._server, reason.getName().lower()
        text = f"{what}: {said}{f' ({more})' if more else ''}"
        match reason.value:
            case 0x84 if self._v5 and server.v5 is None:
                return _OnlyOlder(text)
            case 0x84:
                other = "version=3.1.1" if self._v5 else "version=5"
                return PlanError(text, where=server.name, fix=f"give {other}")
            case 0x86 | 0x87 | 0x8A | 0x8C if what == "refuses the connection":
                fix = "check the user before the @, and password_file=FILE or ${NAME}" if server.user else "give a user: mqtt://USER:${NAME}@…"
            case 0x80 | 0x87 | 0x8F | 0x9E | 0xA2:
                fix = "does the broker allow this user to read it?" if reason.value in {0x80, 0x87} else "give another topic filter"
            case 0x85:
                fix = "give another client_id="
            case 0x8E:
                fix = f"another client uses the client id {server.client_id}; give each a client_id= of its own"
            case 0x9C | 0x9D:
                fix = "give the address of that server"
            case 0x95 | 0x9A | 0x9B:
                fix = "the broker's limits are lower; change the address's parameters, or the broker's settings"
            case _:
                return Unavailable(text)
        return PlanError(text, where=server.name, fix=fix)

    def _of_tls(self, error: ssl.SSLError) -> HeadraceError:
        fault = fault_of_certificate(error, self._server.certificate)
        if fault is not None:
            return fault
        said = (error.reason or str(error)).replace("_", " ").lower()
        return Unavailable(f"does not speak TLS as we do: {said}", fix="is it the port for TLS, often 8883?")

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


class _OnlyOlder(Unavailable):
    """The broker does not speak MQTT 5."""


async def connect(server: Server) -> Connection:
    """Return a new connection; one of MQTT 3.1.1 if the broker says that it does not speak MQTT 5, and the address does not ask for it."""
    one = Connection(server)
    try:
        await one.open()
    except _OnlyOlder:
        one = Connection(replace(server, v5=False))
        await one.open()
    return one


def _fix_of_tls(server: Server) -> str:
    """Return what to do where a broker only closes the connection: in TLS 1.3 it may not say why it does not accept our certificate."""
    if server.certificate is None:
        return "does it ask for a certificate of ours? Give cert=FILE and key=FILE, which its administrator knows"
    return f"does it accept {server.certificate}? Have its administrator trust the authority that signed it"


def _fix(server: Server) -> str:
    return f"is a broker listening at {server.host}:{server.port}?"


def _why(error: BaseException) -> str:
    """Return what went wrong with a connection, in the system's words."""
    if isinstance(error, OSError) and error.errno is None and (number := re.search(r"\[Errno (\d+)\]", str(error))):
        error = OSError(int(number[1]), "")  # asyncio tried several addresses of the host
    if isinstance(error, OSError) and error.errno:
        return (os.strerror(error.errno) if error.errno > 0 else str(error.strerror)).lower()
    return str(error).rstrip(".").lower() or type(error).__name__
