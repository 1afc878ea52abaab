"""Values that name their schema in a registry: Avro, Protobuf and JSON Schema, decoded to JSON.

A value begins with the byte 0 and the schema's id in four bytes. With Protobuf, the place of the message in its schema follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

import httpx
import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.address import secret
from headrace.connectors.http_client import OneClient, client_of, pause_seconds, unready
from headrace.connectors.objects import Unfit
from headrace.connectors.protocol import Unavailable
from headrace.connectors.schema_formats import READERS, Schema
from headrace.errors import PlanError

__all__ = ["Schemas"]

_EXAMPLE = "registry=http://127.0.0.1:8081"
_HEAD = 5
_AGAIN_SECONDS = 60.0
_MOST_UNFIT = 10_000
_MOST_REFERENCES = 100
_MOST_SECONDS = 60.0  # for a whole answer: the client's own timeouts are for each part of it
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class _Reference(msgspec.Struct):
    """A schema that another one names."""

    name: str
    subject: str
    version: int


class _Answer(msgspec.Struct):
    """A registry's answer for a schema."""

    schema: str
    schemaType: str = "AVRO"  # noqa: N815  (the registry's name)
    references: list[_Reference] | None = None


class _Fault(msgspec.Struct):
    error_code: int
    message: str = ""


class Schemas(OneClient):
    """The schemas of a registry, each asked for once.

    Parameters
    ----------
    url
        The registry: `http://user:password@host:port/path`. `${NAME}` in it is the environment's.
    ca
        The file of the authority that signed its certificate; None: the system's.
    """

    def __init__(self, url: str, ca: str | None = None) -> None:
        try:
            known = httpx.URL(secret(url, "registry").rstrip("/"))
        except httpx.InvalidURL:
            known = httpx.URL("")
        if known.scheme not in {"http", "https"} or not known.host or known.query or known.fragment:
            raise PlanError("is not the address of a schema registry", where="parameter registry", fix=f"give {_EXAMPLE}")
        auth = httpx.BasicAuth(known.username, known.password) if known.userinfo else None
        self._url = str(known.copy_with(userinfo=b""))
        self._make = client_of(ca, timeout=_TIMEOUT, auth=auth, headers={"User-Agent": "headrace"})
        self._readers: dict[int, Callable[[bytes], bytes]] = {}
        self._unfit: dict[int, tuple[float, str]] = {}
        self._not_before = 0.0

    async def decoded(self, value: bytes) -> bytes:
        """Return a value as a JSON object.

        Raises
        ------
        Unfit
            If it has no schema that is known, or is not what its schema says.
        Unavailable
            If the registry does not answer.
        """
        if len(value) < _HEAD or value[0]:
            raise Unfit("does not begin with the byte 0 and the id of a schema")
        number = int.from_bytes(value[1:_HEAD], "big")
        read = self._readers.get(number)
        if read is None:
            read = await self._reader(number)
        return read(value[_HEAD:])

    async def _reader(self, number: int) -> Callable[[bytes], bytes]:
        """Return what decodes the values of a schema. What cannot be is asked for again after a minute."""
        again, reason = self._unfit.get(number, (0.0, ""))
        if time.monotonic() < again:
            raise Unfit(reason)
        try:
            self._readers[number] = await self._made_reader(number)
        except Unfit as unfit:
            if len(self._unfit) >= _MOST_UNFIT:  # ids of values that are no records of a registry are without end
                self._unfit.clear()
            self._unfit[number] = time.monotonic() + _AGAIN_SECONDS, str(unfit)
            raise
        return self._readers[number]

    async def _made_reader(self, number: int) -> Callable[[bytes], bytes]:
        answer = await self._asked(f"/schemas/ids/{number}", f"schema {number}")
        kind = answer.schemaType.upper()
        if kind not in READERS:
            raise Unfit(f"has schema {number}, of type {kind[:40]!r}, which headrace does not read")
        return await READERS[kind](Schema(number, answer.schema, await self._references(answer)))

    async def _references(self, answer: _Answer) -> Mapping[str, str]:
        """Return the texts of all schemas that a schema needs, by the names that are used for them; those needed first come first."""
        found: dict[str, str] = {}

        async def add(one: _Answer) -> None:
            for each in one.references or ():
                if each.name in found:
                    continue
                if len(found) >= _MOST_REFERENCES:
                    raise Unfit(f"has a schema with more than {_MOST_REFERENCES} references")
                found[each.name] = ""  # a reference to itself ends here
                path = f"/subjects/{quote(each.subject, safe='')}/versions/{each.version}"
                inner = await self._asked(path, f"{each.subject} version {each.version}")
                await add(inner)
                del found[each.name]
                found[each.name] = inner.schema

        await add(answer)
        return found

    async def _asked(self, path: str, what: str) -> _Answer:
        if time.monotonic() < self._not_before:
            raise Unavailable("the schema registry asks to wait")
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                response = await self._client.get(self._url + path)
        except TimeoutError:
            raise Unavailable(f"the schema registry {self._url}: no whole answer within {_MOST_SECONDS:g} s") from None
        except httpx.HTTPError as error:
            found = await self._fault(error, self._url, _EXAMPLE)
            raise type(found)(f"the schema registry {self._url}: {found.what}", fix=found.fix) from None
        status = response.status_code
        if unready(status):
            self._not_before = time.monotonic() + pause_seconds(response)
            raise Unavailable(f"the schema registry {self._url} answers {status} {response.reason_phrase}")
        fix = "is it the address of a schema registry, with user and password if it needs them?"
        try:
            if status == 200:
                return msgspec.json.decode(response.content, type=_Answer)
            fault = msgspec.json.decode(response.content, type=_Fault)
        except NOT_JSON:
            raise PlanError(f"answers {status} {response.reason_phrase} for {what}", where=self._url, fix=fix) from None
        if status == 404 and fault.error_code // 100 == 404:  # 40403 is of a schema; 404 and 0 are of a path that is not there
            raise Unfit(f"has {what}, which the registry does not know")
        raise PlanError(f"answers {status} {response.reason_phrase} for {what}: {fault.message[:200]}", where=self._url, fix=fix)
