"""Which names a server answers to.

A page of the web may have its own name resolve to this machine, and then read what a server here says (DNS rebinding). The
browser still sends that name as `Host`, so a server answers only to names that no one else can own. A page of the web may also
post to a server here without reading the answer (CSRF): what is posted must come from a page of the server itself.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from email.message import Message
from functools import cache

__all__ = ["REFUSED", "is_loopback", "is_own_host", "is_own_origin"]

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


def is_loopback(host: str) -> bool:
    """Return whether a server at an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_own_origin(headers: Message) -> bool:
    """Whether a request comes from a page of this server, or from no page.

    Browsers name the page's origin in `Origin` whenever something is posted, and where it stands to this server in `Sec-Fetch-Site`.
    """
    site = headers.get_all("Sec-Fetch-Site", [])
    origins, host = headers.get_all("Origin", []), headers.get("Host", "").strip().lower()
    own = {f"{scheme}://{host}" for scheme in ("http", "https")}
    return all(one == "same-origin" for one in site) and all(one.strip().lower() in own for one in origins)


@cache
def _machine() -> frozenset[str]:
    return frozenset({socket.gethostname().lower()})
