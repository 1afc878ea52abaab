"""Ports for servers of tests: none that the system gives to whoever asks for any port.

Clients of a server that was killed go on asking for it at its port, and whoever was given that port meanwhile would be spoken to by them.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 10_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()
_chance = random.SystemRandom()  # the workers of a run draw apart, whatever seed they set


def free_port() -> int:
    """Return a port of this machine that nobody listens at, and that was not returned before."""
    above = _first_given()
    for _ in range(1000):
        port = _chance.randrange(_LOWEST, above)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise AssertionError("no port is free")


def _first_given() -> int:
    """Return the first port that the system gives itself."""
    first = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    return first if first > _LOWEST + 1000 else 65_536  # there is no other room
