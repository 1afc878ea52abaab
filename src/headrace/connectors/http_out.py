"""Records that are posted to a server of HTTP: `http+out://…`, made by `http`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import httpx

from headrace.connectors.address import secret
from headrace.connectors.halving import sent
from headrace.connectors.http_client import OneClient, client_of, divided, headers_of, pause_seconds, unready
from headrace.connectors.objects import object_of
from headrace.connectors.protocol import Record, Target, Unavailable
from headrace.errors import PlanError

__all__ = ["Webhook", "webhook"]

_EXAMPLE = "http+out://127.0.0.1:8080/hook?token=${TOKEN}"
_OWN = frozenset({"body", "batch", "token", "token_file", "token_header", "ca", "timeout"})
_SHUT = frozenset({401, 402, 403, 404, 405, 407, 410, 421, 426, 428, 511})
_CUT = 200
_KINDS = {"record": "application/json", "array": "application/json", "ndjson": "application/x-ndjson"}


def webhook(address: str) -> Webhook:
    """Return what posts to an address `http+out://host/path?parameters`. Parameters that are not known go to the server.

    Raises
    ------
    PlanError
        If the address is wrong.
    EnvironmentFault
        If a secret is not there.
    """
    one, url = divided(address, _OWN, _EXAMPLE, "TO")
    body = one.choice("body", _KINDS)
    if body == "record" and one.get("batch") is not None:
        raise PlanError("parameter batch needs a body of several records", where="TO", fix="give body=array or body=ndjson")
    make = client_of(
        one.get("ca"),
        timeout=httpx.Timeout(one.seconds("timeout", 30.0, 0.1), connect=10.0),
        follow_redirects=False,  # a redirect would take records and token elsewhere
        auth=None if one.user is None else httpx.BasicAuth(one.user, one.password or ""),
        headers=headers_of(one) | {"Content-Type": _KINDS[body]},
    )
    most = 1 if body == "record" else int(one.number("batch", 100, 1, 10_000))
    return Webhook(f"{one.scheme}://{url.partition('://')[2]}", secret(url, "TO"), body, most, make)


class Webhook(OneClient, Target):
    """Posts records, one or several with each request.

    Parameters
    ----------
    name
        The address without secrets.
    url
        Where to.
    body
        `record`, `array` or `ndjson`.
    most_records
        How many records a request has, at most.
    client
        Makes the client that posts.
    """

    def __init__(self, name: str, url: str, body: str, most_records: int, client: Callable[[], httpx.AsyncClient]) -> None:
        self.name, self._url, self._body, self.most_records, self._make = name, url, body, most_records, client
        self._not_before, self._answered = 0.0, ""

    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Post records, and return when the server has answered 2xx. Of a batch that it refuses the halves are posted.

        Raises
        ------
        Unavailable
            If it does not answer, answers that it cannot take records now, or has asked to wait.
        PlanError
            If it takes no records of ours at all.
        """
        if time.monotonic() < self._not_before:
            raise Unavailable(self._answered)
        return await sent(records, _object, self._post)

    async def _post(self, records: Sequence[Record]) -> str | None:
        """Post records with one request, and return why the server refuses them; None if it takes them."""
        key = records[0].id if self._body == "record" else sha256("\n".join(one.id for one in records).encode()).hexdigest()
        try:
            async with self._client.stream("POST", self._url, content=self._content(records), headers={"Idempotency-Key": key}) as response:
                return await self._taken(response)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise await self._fault(error, self.name, _EXAMPLE) from None

    def _content(self, records: Sequence[Record]) -> bytes:
        if self._body == "array":
            return b"[" + b",".join(one.value for one in records) + b"]"
        if self._body == "ndjson":
            return b"".join(one.value.replace(b"\n", b" ") + b"\n" for one in records)
        return records[0].value

    async def _taken(self, response: httpx.Response) -> str | None:
        status = response.status_code
        answers = f"answers {status} {response.reason_phrase}".rstrip()
        if 200 <= status < 300:
            return None
        if status in _SHUT:
            raise PlanError(answers, where=self.name, fix="check the address, and its token: token=${NAME}, token_file=FILE")
        if unready(status):
            self._not_before, self._answered = time.monotonic() + pause_seconds(response), answers
            raise Unavailable(answers)
        if status < 400:
            raise PlanError(f"{answers}, and redirects are not followed", where=self.name, fix="give the address to which it redirects")
        said = " ".join((await anext(response.aiter_text(_CUT), ""))[:_CUT].split())
        return f"the server {answers}: {said}" if said else f"the server {answers}"


def _object(record: Record) -> Record:
    """Return a record as it is. Raises Unfit if it is not a JSON object."""
    object_of(record.value)
    return record
