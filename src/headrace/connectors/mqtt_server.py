"""An MQTT broker, how to connect to it, and what it takes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import NamedTuple

from headrace.connectors.certificates import check_own, context_again, context_of

__all__ = [
    "MOST_INFLIGHT",
    "OLD_INFLIGHT",
    "Limits",
    "Server",
    "Will",
]

MOST_INFLIGHT = 65_535
OLD_INFLIGHT = 20  # a broker of 3.1.1 cannot say how many it takes


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
    window: int = MOST_INFLIGHT
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

    inflight: int = OLD_INFLIGHT
    packet_bytes: int | None = None
    retained: bool = True
