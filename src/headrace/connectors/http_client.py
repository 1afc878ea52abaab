"""Shared parts of connectors of HTTP: their address, their client, and what an answer or an error means."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from headrace.connectors.address import Address, secret, secret_file
from headrace.connectors.certificates import context_again, context_of, fault_of_tls
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault, PlanError

try:
    import httpx
except ModuleNotFoundError:
    raise EnvironmentFault("needs the packages httpx and httpx-sse", where="the bridge", fix="pip install 'headrace[http]'") from None

__all__ = ["OneClient", "client_of", "divided", "headers_of", "pause_seconds", "unready", "why"]

_QUERY = "query."  # a parameter of the server that has the name of one of ours
_UNREADY = frozenset({408, 425, 429})
_MOST_PAUSE_SECONDS = 300.0


class OneClient:
    """A connector with one client, which is made when it is first needed, and again after `close`."""

    _make: Callable[[], httpx.AsyncClient]
    _made: httpx.AsyncClient | None = None

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            self._made = self._make()
        return self._made

    async def _fault(self, error: httpx.HTTPError | httpx.InvalidURL, name: str, example: str) -> Unavailable | PlanError:
        """Return what an error of the client means: the address is wrong, or the server is not there.

        After one of certificates, their files are read again by a new client.
        """
        if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL | httpx.TooManyRedirects):
            return PlanError(f"cannot be asked: {error}", where=name, fix=f"give an address such as {example}")
        fault = fault_of_tls(error)
        if fault is not None:
            await self.close()
        return fault or Unavailable(why(error))

    async def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            client, self._made = self._made, None
            await client.aclose()


# addresses


def divided(address: str, own: AbstractSet[str], example: str, where: str) -> tuple[Address, str]:
    """Return an address with the parameters that are ours, and the URL of the server with those that are not.

    Raises
    ------
    PlanError
        If it is not an address.
    """
    head, _, query = address.partition("?")
    parts = [part for part in query.split("&") if part]
    ours = [part for part in parts if part.partition("=")[0] in own]
    theirs = [part.removeprefix(_QUERY) for part in parts if part not in ours]
    one = Address(f"{head}?{'&'.join(ours)}", own, example, where)
    if not one.host:
        raise one.wrong("names no host")
    scheme = one.scheme.partition("+")[0]
    netloc = f"[{one.host}]" if ":" in one.host else one.host
    return one, f"{scheme}://{netloc}{f':{one.port}' if one.port else ''}{one.path or '/'}{'?' if theirs else ''}{'&'.join(theirs)}"


def headers_of(one: Address) -> dict[str, str]:
    """Return the headers of a request, with the token. Raises PlanError, or EnvironmentFault if the token is not there."""
    headers = {"Accept": "application/json, application/x-ndjson;q=0.9", "Accept-Encoding": "identity", "User-Agent": "headrace"}
    token, file = one.get("token"), one.get("token_file")
    if token is not None and file is not None:
        raise PlanError("parameters token and token_file are both given", where=one.where, fix="leave one of them out")
    given = secret(token, one.where) if token is not None else None if file is None else secret_file(file)
    name = one.get("token_header")
    if given is not None:
        given = given.strip()
        if not (given.isascii() and given.isprintable()):  # what says so later would show it
            raise EnvironmentFault("has a character that no header can have", where="the token", fix="give it as it was issued, on one line")
        headers[name or "Authorization"] = given if name else f"Bearer {given}"
    elif name is not None:
        raise PlanError("parameter token_header needs a token", where=one.where, fix="give token=${NAME} or token_file=FILE")
    return headers


def client_of(ca: str | None, **options: Any) -> Callable[[], httpx.AsyncClient]:  # noqa: ANN401  (those of httpx)
    """Return what makes a client with some options, which reads the file of authorities anew each time.

    Raises
    ------
    EnvironmentFault
        If the file cannot be used now. Where it cannot later, the maker raises Unavailable.
    """
    if ca is None:
        return lambda: httpx.AsyncClient(**options)
    context_of(ca)
    return lambda: httpx.AsyncClient(verify=context_again(ca), **options)


# answers and errors


def unready(status: int) -> bool:
    """Return whether a status says that the server may answer otherwise later."""
    return status >= 500 or status in _UNREADY


def pause_seconds(response: httpx.Response) -> float:
    """Return for how many seconds a server asks to be left alone: what Retry-After says, seconds or a date; 0 if it says nothing."""
    text = response.headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _MOST_PAUSE_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    left = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)
    return min(max(left.total_seconds(), 0.0), _MOST_PAUSE_SECONDS)


def why(error: BaseException) -> str:
    """Return what went wrong with a connection, in a few words: the system's own, if it has said any."""
    if isinstance(error, httpx.ConnectTimeout):
        return "does not answer"
    if isinstance(error, httpx.ReadTimeout):
        return "has been silent too long"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"does not speak TLS as we do: {(cause.reason or str(cause)).replace('_', ' ').lower()}"
        if isinstance(cause, OSError) and cause.errno:
            # asyncio puts words of its own into strerror; names that are not found have numbers of their own.
            return (os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)).lower()
        cause = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause.__cause__ or cause.__context__
    return str(error).rstrip(".") or type(error).__name__
