"""InfluxDB 2, and what takes its write API: records of a topic as points."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.address import Address, secret, secret_file
from headrace.connectors.halving import sent
from headrace.connectors.http_client import OneClient, client_of, pause_seconds, unready
from headrace.connectors.influx_lines import RESERVED, Lines
from headrace.connectors.moments import NS
from headrace.connectors.objects import Unfit
from headrace.connectors.protocol import Record, Target, Unavailable
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["Points", "target"]

_PARAMETERS = frozenset(
    {"org", "bucket", "token", "token_file", "measurement", "tags", "fields", "integers", "numbers", "time", "time_unit", "gzip", "ca"},
)
_EXAMPLE = "influx://127.0.0.1:8086?org=scada&bucket=processed_data&token=${INFLUXDB_TOKEN}&tags=tag"
_PORT, _TLS_PORT = 8086, 443
_MOST_RECORDS = 5000
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_DONE = 204
_UNFIT = frozenset({400, 413, 422})


def target(address: str) -> Points:
    """Return what writes records to an address `influx://host:port?org=…&bucket=…`, or to influxs: with TLS.

    What it leaves out is the environment's: INFLUXDB_URL, INFLUXDB_ORG, INFLUXDB_BUCKET, INFLUXDB_TOKEN.
    """
    one = Address(address, _PARAMETERS, _EXAMPLE, "TO")
    if one.scheme not in {"influx", "influxs"} or one.user is not None or one.password is not None:
        raise one.wrong("is not the address of an InfluxDB")
    url, tls = _url(one)
    named = {name: _named(one, name) for name in ("org", "bucket")}
    shown = url.replace("http", "influx", 1) + "?" + urlencode(named, quote_via=quote)
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "headrace"}
    if token := _token(one):
        headers["Authorization"] = f"Token {token}"
    return Points(
        shown,
        f"{url}/api/v2/write?{urlencode({**named, 'precision': 'ns'}, quote_via=quote)}",
        _lines(one),
        headers=headers,
        zipped=one.choice("gzip", ["yes", "no"]) == "yes",
        ca=_ca(one, tls=tls),
    )


class Points(OneClient, Target):
    """Records as points of a bucket.

    A point is identified by its measurement, tags and time. So a record that is written again changes nothing.

    Parameters
    ----------
    name
        The address without the token.
    url
        Where lines are written to.
    lines
        What becomes of a record.
    headers
        Those of each request.
    zipped
        Whether lines are compressed.
    ca
        The file of the authority that signed the server's certificate; None: the system's.
    """

    most_records = _MOST_RECORDS

    def __init__(self, name: str, url: str, lines: Lines, *, headers: Mapping[str, str], zipped: bool = True, ca: str | None = None) -> None:
        self.name, self._url, self._lines, self._zipped = name, url, lines, zipped
        self._headers = {**headers, **({"Content-Encoding": "gzip"} if zipped else {})}
        self._make = client_of(ca, timeout=_TIMEOUT, headers=self._headers)
        self._not_before, self._busy = 0.0, ""

    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Write records, and return when the server has them."""
        return await sent(records, lambda record: self._lines.line(record.topic, record.value), self._write)

    async def _write(self, lines: Sequence[bytes]) -> str | None:
        """Write lines, and return why the server does not take them; None if it does."""
        if time.monotonic() < self._not_before:
            raise Unavailable(self._busy)
        body = b"\n".join(lines)
        try:
            response = await self._client.post(self._url, content=gzip.compress(body, 1, mtime=0) if self._zipped else body)
        except (httpx.RequestError, httpx.InvalidURL) as error:  # an answer that cannot be decoded too
            raise await self._fault(error, self.name, _EXAMPLE) from None
        return None if response.status_code == _DONE else self._refusal(response)

    def _refusal(self, response: httpx.Response) -> str:
        """Return why the server does not take the lines, or raise what its answer means for all of them."""
        status, said = response.status_code, _said(response)
        answers = f"answers {status} {response.reason_phrase}".rstrip() + (f": {said}" if said else "")
        if unready(status):
            self._not_before, self._busy = time.monotonic() + pause_seconds(response), answers
            raise Unavailable(answers)
        if status in _UNFIT:
            return f"the server {answers}"
        match status:
            case 401:
                fix = "give a token that it knows: export INFLUXDB_TOKEN=…, or token_file=FILE"
            case 403:
                fix = "give a token that may write into this bucket"
            case 404:
                fix = "check org= and bucket=, and that the server is InfluxDB 2; create the bucket if there is none"
            case _:
                fix = "is it the address of InfluxDB's write API? It answers 204"
        raise PlanError(answers, where=self.name, fix=fix)


def _said(response: httpx.Response) -> str:
    """Return what the server says in words, at most 300 characters."""
    text = response.text
    try:
        content: Any = msgspec.json.decode(response.content)
    except NOT_JSON:
        content = None
    if isinstance(content, dict):
        text = str(content.get("message") or content.get("error") or text)
    return " ".join(text.split())[:300]


# addresses


def _url(one: Address) -> tuple[str, bool]:
    """Return where the server is, and whether TLS is spoken."""
    if one.host is None:
        given = os.environ.get("INFLUXDB_URL")
        if given is None:
            raise PlanError("has no host", where=one.where, fix=f"export INFLUXDB_URL=http://127.0.0.1:8086, or give {_EXAMPLE}")
        whole = Address(given, (), "http://127.0.0.1:8086", "INFLUXDB_URL")
        if whole.scheme not in {"http", "https"} or whole.host is None or whole.user is not None:
            raise whole.wrong("is not the address of an InfluxDB")
        tls, port = whole.scheme == "https", whole.port or (443 if whole.scheme == "https" else 80)
    else:
        whole, tls = one, one.scheme == "influxs"
        port = one.port or (_TLS_PORT if tls else _PORT)
    assert whole.host is not None
    host = f"[{whole.host}]" if ":" in whole.host else whole.host
    return f"{'https' if tls else 'http'}://{host}:{port}{whole.path.rstrip('/')}", tls


def _named(one: Address, name: str) -> str:
    """Return a parameter that the environment may have."""
    text, variable = one.get(name), f"INFLUXDB_{name.upper()}"
    found = os.environ.get(variable, "") if text is None else secret(text, one.where)
    if not found:
        raise PlanError(f"names no {name}", where=one.where, fix=f"give {name}=NAME, or export {variable}=NAME")
    return found


def _token(one: Address) -> str:
    text, file = one.get("token"), one.get("token_file")
    if text is not None and file is not None:
        raise PlanError("has parameters token and token_file", where=one.where, fix="give one of them")
    token = os.environ.get("INFLUXDB_TOKEN", "") if text is None and file is None else secret(text or "", one.where)
    if file is not None:
        token = secret_file(file).strip()
    if not (token.isascii() and token.isprintable()):
        raise EnvironmentFault("the token has characters that no token has", where=file or one.where, fix="give it as InfluxDB shows it")
    return token


def _ca(one: Address, *, tls: bool) -> str | None:
    ca = one.get("ca")
    if ca is not None and not tls:
        raise PlanError("parameter ca is only for TLS", where="TO", fix="give influxs://…")
    return ca


def _check_tags(tags: Sequence[str], at: str, fields: Sequence[str], where: str) -> None:
    """Raise PlanError for a name that cannot be a tag beside the time and the fields."""
    for name in tags:
        if name == at:
            what = "is the time"
        elif name in fields:
            what = "is also in fields"
        elif name in RESERVED:
            what = "is a name that InfluxDB has itself"
        else:
            continue
        raise PlanError(f"parameter tags has {name!r}, which {what}", where=where, fix="leave it out of tags")


def _lines(one: Address) -> Lines:
    """Return what an address says of lines."""
    at = one.get("time") or "time"
    tags, fields, integers = (one.names(name) for name in ("tags", "fields", "integers"))
    _check_tags(tags or (), at, fields or (), one.where)
    for parameter, names in (("fields", fields), ("integers", integers)):
        for name in names or ():
            if name in {at, *RESERVED, *(tags or ())}:
                raise PlanError(f"parameter {parameter} has {name!r}, which is no field of InfluxDB", where=one.where, fix="leave it out")
    measurement = one.get("measurement")
    if measurement is not None and measurement[:1] == "#":
        raise PlanError(f"parameter measurement is {measurement!r}, and a line with # is a comment", where=one.where, fix="give another name")
    try:
        return Lines.of(measurement, at, one.choice("time_unit", list(NS)), tags or (), fields, integers or (), one.names("numbers") or ())
    except Unfit as unfit:
        raise PlanError(f"a parameter {unfit}", where=one.where, fix="give another name") from None
