"""The certificate of a server to which records are posted; it is renewed while the server runs."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

from headrace.connectors.address import Address
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["tls_of"]


def tls_of(one: Address) -> ssl.SSLContext | None:
    """Return what listens with the certificate of an address; None where it is not for TLS."""
    cert, key = one.get("cert"), one.get("key")
    if one.scheme != "https+post":
        if cert or key:
            raise PlanError("parameters cert and key are only for TLS", where="FROM", fix="give https+post://…")
        return None
    if cert is None or key is None:
        raise PlanError("needs a certificate", where="FROM", fix="give cert=FILE and key=FILE, in PEM's form")
    return _renewing(cert, key)


def _renewing(cert: str, key: str) -> ssl.SSLContext:
    """Return what listens with a certificate. Its files are read again at the first connection after they have changed."""
    context = _with_certificate(cert, key)
    stamp, newest = _stamp(cert, key), context

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal stamp, newest
        if (now := _stamp(cert, key)) != stamp:
            with suppress(EnvironmentFault):  # while one of them is being written, the old ones serve
                stamp, newest = now, _with_certificate(cert, key)
        connection.context = newest

    context.sni_callback = renew
    return context


def _with_certificate(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password="")  # without one OpenSSL would ask on the terminal
    except OSError as error:
        raise EnvironmentFault(f"cannot be used: {error.strerror or error}", where=cert, fix="give files in PEM's form") from None
    return context


def _stamp(*files: str) -> list[int]:
    """Return what tells whether files have changed."""
    with suppress(OSError):
        return [Path(file).stat().st_mtime_ns for file in files]
    return []
