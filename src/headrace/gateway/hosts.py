"""Which names a server answers to.

A page of the web may have its own name resolve to this machine, and then read what a server here says (DNS rebinding). The
browser still sends that name as `Host`, so a server answers only to names that no one else can own.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from functools import cache

__all__ = ["REFUSED", "is_own_host"]

REFUSED = "this server is not known by that Host: use its address or localhost, or allow the name"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


def is_own_host(header: str, allowed: Collection[str] = ()) -> bool:
    """Whether a `Host` header names an address, localhost, this machine, or one of the names that are `allowed`."""
    match = _HOST.fullmatch(header.strip())
    if match is None:
        return False
    name = match[1].strip("[]").rstrip(".").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost") or name in _machine() or name in {one.lower() for one in allowed}
    return True


@cache
def _machine() -> frozenset[str]:
    return frozenset({socket.gethostname().lower()})
