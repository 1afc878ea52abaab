"""paho without a socket of its own: it is handed packets, and what it sends goes to a transport."""

from __future__ import annotations

import asyncio
from typing import Any

from headrace.connectors.mqtt_server import Server
from headrace.errors import EnvironmentFault

try:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package paho-mqtt", where="the bridge", fix="pip install 'headrace[mqtt]'") from None

__all__ = ["Paho", "Pipe", "client_of", "subscription"]


class Pipe:
    """A stand-in for paho's socket: it reads the packets that it is handed, and what it sends goes to the transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self._data, self._place = b"", 0

    def hand(self, packet: bytes) -> None:
        """Give what is to be read next."""
        self._data, self._place = packet, 0

    def recv(self, most: int) -> bytes:
        """Return what is left of the packet."""
        data = self._data[self._place : self._place + most]
        if not data:
            raise BlockingIOError
        self._place += len(data)
        return data

    def send(self, data: bytes | bytearray) -> int:
        """Write to the transport."""
        assert self.transport is not None
        self.transport.write(bytes(data))
        return len(data)

    def close(self) -> None:
        """Note that paho gives the connection up."""
        self.closed = True

    def fileno(self) -> int:
        """Return the number of no file."""
        return -1

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001  (a socket's)
        """It never blocks."""


class Paho(paho.Client):
    """paho's client on a pipe."""

    pipe: Pipe

    def _create_socket(self) -> Any:  # noqa: ANN401  (paho's SocketLike)
        return self.pipe

    def open(self, server: Server, *, v5: bool) -> None:
        """Send CONNECT."""
        properties = None
        if v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = server.session_seconds
            properties.ReceiveMaximum = server.window
        start: Any = not server.session_seconds if v5 else paho.MQTT_CLEAN_START_FIRST_ONLY
        self.connect(server.host, server.port, server.keepalive, clean_start=start, properties=properties)


def client_of(server: Server, pipe: Pipe, *, v5: bool) -> Paho:
    """Return a client for a broker, which acknowledges nothing and connects anew by itself never."""
    client = Paho(
        CallbackAPIVersion.VERSION2,
        client_id=server.client_id,
        protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
        clean_session=None if v5 else not server.session_seconds,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.pipe = pipe
    if server.user is not None or server.password is not None:
        client.username_pw_set(server.user or "", server.password)
    if (will := server.will) is not None:
        client.will_set(will.topic, will.payload, will.qos, will.retain)
    return client


def subscription(topic: str, qos: int, *, retained: bool, v5: bool) -> dict[str, Any]:
    """Return what paho is given to subscribe to a topic filter; `retained`: with the retained messages, if the subscription is new."""
    if not v5:
        return {"qos": qos}
    # A shared subscription has no retained messages.
    return {"options": SubscribeOptions(qos=qos, retainHandling=0 if topic.startswith("$share/") else 1 if retained else 2)}
