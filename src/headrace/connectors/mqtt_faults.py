"""What is said when a broker refuses us, or cannot be reached, and the fix."""

from __future__ import annotations

import os
import re
import ssl
from typing import TYPE_CHECKING

from headrace.connectors.certificates import fault_of_certificate
from headrace.connectors.mqtt_server import Server
from headrace.connectors.protocol import Unavailable
from headrace.errors import HeadraceError, PlanError

if TYPE_CHECKING:
    from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["OnlyOlder", "fault_of_reason", "fault_of_tls", "fix_of_silence", "fix_of_tls", "why_of"]


class OnlyOlder(Unavailable):
    """The broker does not speak MQTT 5."""


def fault_of_reason(reason: ReasonCode, what: str, server: Server, *, v5: bool, more: str | None = None) -> HeadraceError:
    """Return the error of a reason that the broker gave."""
    said = reason.getName().lower()
    text = f"{what}: {said}{f' ({more})' if more else ''}"
    match reason.value:
        case 0x84 if v5 and server.v5 is None:
            return OnlyOlder(text)
        case 0x84:
            other = "version=3.1.1" if v5 else "version=5"
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


def fault_of_tls(error: ssl.SSLError, server: Server) -> HeadraceError:
    """Return the error of a connection that TLS refuses."""
    fault = fault_of_certificate(error, server.certificate)
    if fault is not None:
        return fault
    said = (error.reason or str(error)).replace("_", " ").lower()
    return Unavailable(f"does not speak TLS as we do: {said}", fix="is it the port for TLS, often 8883?")


def fix_of_tls(server: Server) -> str:
    """Return what to do where a broker only closes the connection: in TLS 1.3 it may not say why it does not accept our certificate."""
    if server.certificate is None:
        return "does it ask for a certificate of ours? Give cert=FILE and key=FILE, which its administrator knows"
    return f"does it accept {server.certificate}? Have its administrator trust the authority that signed it"


def fix_of_silence(server: Server) -> str:
    """Return what to look at where a broker does not answer."""
    return f"is a broker listening at {server.host}:{server.port}?"


def why_of(error: BaseException) -> str:
    """Return what went wrong with a connection, in the system's words."""
    if isinstance(error, OSError) and error.errno is None and (number := re.search(r"\[Errno (\d+)\]", str(error))):
        error = OSError(int(number[1]), "")  # asyncio tried several addresses of the host
    if isinstance(error, OSError) and error.errno:
        return (os.strerror(error.errno) if error.errno > 0 else str(error.strerror)).lower()
    return str(error).rstrip(".").lower() or type(error).__name__
