"""JSON over HTTP that is asked for again and again: `http+poll://…`, made by `http`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from headrace._clock import now_ms
from headrace._json import NOT_JSON
from headrace.connectors.address import secret
from headrace.connectors.http_client import OneClient, client_of, divided, headers_of, pause_seconds, unready
from headrace.connectors.payload_paths import Path
from headrace.connectors.payload_records import Shape
from headrace.connectors.payloads import PARAMETERS, shape_of
from headrace.connectors.protocol import Event, Source, Unavailable
from headrace.errors import PlanError

__all__ = ["Polled", "polled"]

_EXAMPLE = "http+poll://127.0.0.1:8080/values?interval=10s&records=$.data&after=$.time"
_OWN = PARAMETERS | {"interval", "records", "id", "after", "since", "remember", "token", "token_file", "token_header", "ca", "max_answer"}
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_CUT_BYTES = 65_536


def polled(address: str) -> Polled:
    """Return what is at an address `http+poll://host/path?parameters`. Parameters that are not known go to the server.

    Raises
    ------
    PlanError
        If the address is wrong.
    EnvironmentFault
        If a secret is not there.
    """
    one, url = divided(address, _OWN, _EXAMPLE, "FROM")
    paths = {name: Path(text, name, "FROM") for name in ("records", "id", "after") if (text := one.get(name)) is not None}
    for name, path in paths.items():
        if path.each:
            raise PlanError(f"parameter {name} is {path.text!r}", where="FROM", fix="give a path without *")
    if one.get("since") is not None and "after" not in paths:
        raise PlanError("parameter since needs after", where="FROM", fix="give after= the path of a field that increases")
    auth = None if one.user is None else httpx.BasicAuth(one.user, one.password or "")
    remember = int(one.number("remember", 1000, 1, 1_000_000))
    made: Polled = Polled(
        f"{one.scheme}://{url.partition('://')[2]}",
        secret(url, "FROM"),
        Reader(shape_of(one, lambda line: made.tell(line)), one.path or "/", paths.get("records"), paths.get("id"), paths.get("after")),  # noqa: PLW0108  (what the runner sets later)
        client=client_of(
            one.get("ca"),
            timeout=_TIMEOUT,
            follow_redirects=True,
            auth=auth,
            headers=headers_of(one),
            event_hooks={"request": [_only_there(url, one.get("token_header"))]},
        ),
        interval=one.seconds("interval", 10.0, 0.01),
        since=one.get("since"),
        remember=remember if "id" in paths else 0,
        most_bytes=int(one.number("max_answer", 16 << 20, 1, 1 << 30)),
    )
    return made


def _only_there(url: str, header: str | None) -> Callable[[httpx.Request], Awaitable[None]]:
    """Return what keeps a header with a token from another server to which a redirect leads."""

    async def keep(request: httpx.Request) -> None:
        there, asked = httpx.URL(secret(url, "FROM")), request.url
        if header is not None and (there.scheme, there.host, there.port) != (asked.scheme, asked.host, asked.port):
            request.headers.pop(header, None)

    return keep


class Found(NamedTuple):
    """An event of an answer, and its record's place in the field that increases."""

    after: Any
    event: Event


class Reader:
    """Answers to records: sans-IO.

    Parameters
    ----------
    shape
        What becomes of a record.
    topic
        What it is given as the topic: the path of the address.
    records
        The path to the records; None: the answer itself.
    name, after
        The paths to a record's id, and to its field that increases.
    """

    def __init__(self, shape: Shape, topic: str, records: Path | None = None, name: Path | None = None, after: Path | None = None) -> None:
        self._shape, self._topic, self._records, self.name, self.after = shape, topic, records, name, after

    def found(self, body: bytes, *, lines: bool, last: Any, at_ms: int) -> list[Found]:  # noqa: ANN401  (a value of JSON)
        """Return the records of an answer that come after the last one, in the order of the field that increases.

        Raises
        ------
        ValueError
            If it has no records: the reason.
        """
        values = [line for line in body.splitlines() if line.strip()] if lines else self._values(body)
        found = [one for value in values for one in self._of_value(value, last, at_ms)]
        placed = [one for one in found if one.after is not None]
        try:
            placed.sort(key=lambda one: one.after)
        except TypeError:
            raise ValueError("has numbers and texts in the field that increases") from None
        return [*(one for one in found if one.after is None), *placed]

    def _values(self, body: bytes) -> list[bytes]:
        """Return the text of each record."""
        raw: Any = msgspec.Raw(body)
        try:
            msgspec.json.decode(body)
            for step in () if self._records is None else self._records.steps():
                if isinstance(step, int):
                    raw = msgspec.json.decode(raw, type=list[msgspec.Raw])[step]
                else:
                    raw = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])[step]
        except (msgspec.ValidationError, KeyError, IndexError):
            raise ValueError(f"has nothing at {'$' if self._records is None else self._records.text}") from None
        except NOT_JSON as error:
            raise ValueError(f"is not JSON: {error}") from None
        text = bytes(raw).strip()
        if text == b"null":
            return []
        return [bytes(one) for one in msgspec.json.decode(raw, type=list[msgspec.Raw])] if text[:1] == b"[" else [text]

    def _of_value(self, value: bytes, last: Any, at_ms: int) -> Iterator[Found]:  # noqa: ANN401
        after, name = None, None
        try:
            content = None if self.after is None and self.name is None else msgspec.json.decode(value)
            after = None if self.after is None else _place(self.after, content)
            name = None if self.name is None else str(_place(self.name, content))
        except (ValueError, RecursionError) as error:
            yield Found(None, Event(value, malformed=f"{self._topic}: {error}"))
            return
        if after is None or last is None or not self._passed(after, last):
            for number, one in enumerate(self._shape(self._topic, value, at_ms)):
                of_one = name if name is None or not number else f"{name}/{number}"
                yield Found(after, Event(one.value, None, one.key, of_one, malformed=one.malformed))

    def _passed(self, after: Any, last: Any) -> bool:  # noqa: ANN401
        """Return whether a record was taken before; those at the same place are told apart by their ids."""
        if isinstance(after, str) != isinstance(last, str):
            return False
        return bool(after < last if self.name is not None else after <= last)


def _place(path: Path, content: Any) -> Any:  # noqa: ANN401  (values of JSON)
    found = path.find(content)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise ValueError(f"has no number and no text at {path.text}")  # noqa: TRY004  (the value is wrong)
    return found


class Polled(OneClient, Source):
    """Answers of a server that is asked at a fixed rate.

    The position has the place of the last record in the field that increases, and the server's own marks of the answer (ETag,
    Last-Modified), so that an answer that is known is not sent again.

    Parameters
    ----------
    name
        The address without secrets.
    url
        What is asked.
    reader
        What becomes of an answer.
    client
        Makes the client that asks.
    interval
        Seconds from one request to the next.
    since
        The parameter by which the server is told the place of the last record.
    remember
        How many ids to remember.
    most_bytes
        How long an answer may be.
    """

    def __init__(
        self,
        name: str,
        url: str,
        reader: Reader,
        *,
        client: Callable[[], httpx.AsyncClient],
        interval: float = 10.0,
        since: str | None = None,
        remember: int = 0,
        most_bytes: int = 16 << 20,
    ) -> None:
        self.name, self._url, self._reader = name, url, reader
        self._make, self._since = client, since
        self._interval = self.pause_seconds = interval
        self.redelivers, self._most_bytes = remember, most_bytes
        self._not_before = 0.0
        self._bad: set[bytes] = set()

    async def open(self, position: Mapping[str, Any] | None) -> AsyncGenerator[Event] | None:
        """Ask for the first time. Raises Unavailable, or PlanError if the server refuses."""
        state = dict(position or {})
        await asyncio.sleep(self._not_before - time.monotonic())
        answer = await self._ask(state)
        return self._events(state, answer)

    async def _events(self, state: dict[str, Any], answer: httpx.Response | None) -> AsyncGenerator[Event]:
        due = time.monotonic()
        while True:
            if answer is not None:
                for event in self._events_of(answer, state):
                    yield event
            due = max(due + self._interval, time.monotonic())
            self._not_before = due
            await asyncio.sleep(due - time.monotonic())
            answer = await self._ask(state)

    def _events_of(self, answer: httpx.Response, state: dict[str, Any]) -> Iterator[Event]:
        """Yield the events of an answer with their positions, and note in the state what was read."""
        raw = {name.lower(): value.decode("latin-1") for name, value in answer.headers.raw}
        marks = {name: raw[header] for name, header in (("etag", b"etag"), ("modified", b"last-modified")) if header in raw}
        lines = answer.headers.get("content-type", "").partition(";")[0].strip().lower() in {"application/x-ndjson", "application/jsonl"}
        try:
            found = self._reader.found(answer.content, lines=lines, last=state.get("after"), at_ms=now_ms())
        except ValueError as error:
            cut = answer.content[:_CUT_BYTES]
            if cut not in self._bad:
                yield Event(cut, malformed=f"an answer {error}")
            self._bad = {cut}
            return
        self._bad, bad = {one.event.value for one in found if one.event.malformed}, self._bad
        found = [one for one in found if one.event.value not in bad]  # what was set aside is not set aside at each poll
        if self.redelivers and len(found) > self.redelivers:
            self.tell(f"an answer has {len(found):,} records, more than the {self.redelivers:,} ids that are remembered; give remember={len(found)}")
        for position, event in _placed(found, state, marks, ids=self._reader.name is not None):
            yield event._replace(position=position)
        last = state.get("after") if not found or found[-1].after is None else found[-1].after
        state.clear()
        state.update(_position(last, marks))

    async def _ask(self, state: Mapping[str, Any]) -> httpx.Response | None:
        """Return the answer; None if it is the one that is known."""
        headers = {}
        if "etag" in state:
            headers[b"If-None-Match"] = state["etag"].encode("latin-1")
        elif "modified" in state:
            headers[b"If-Modified-Since"] = state["modified"].encode("latin-1")
        url = self._url
        if self._since is not None and "after" in state:
            url += f"{'&' if '?' in url else '?'}{quote(self._since)}={quote(str(state['after']))}"
        try:
            async with self._client.stream("GET", url, headers=headers) as response:
                return await self._taken(response)
        except (httpx.RequestError, httpx.InvalidURL) as error:  # an answer that cannot be decoded too
            raise await self._fault(error, self.name, _EXAMPLE) from None

    async def _taken(self, response: httpx.Response) -> httpx.Response | None:
        """Return a whole answer; None if there is nothing new."""
        status = response.status_code
        answers = f"answers {status} {response.reason_phrase}"
        if status in {204, 304}:
            return None
        if unready(status):
            self._not_before = time.monotonic() + pause_seconds(response)
            raise Unavailable(answers)
        if status in {401, 403}:
            raise PlanError(answers, where=self.name, fix="give a token or user who may read it: token=${NAME}, token_file=FILE")
        if status >= 300:
            raise PlanError(answers, where=self.name, fix="correct the address")
        body = bytearray()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > self._most_bytes:
                raise Unavailable(f"answers with more than {self._most_bytes:,} bytes", fix="ask for less, or give max_answer=")
        whole = httpx.Response(status, headers=response.headers)
        whole._content = bytes(body)
        return whole


def _position(after: Any, marks: Mapping[str, str], **more: Any) -> dict[str, Any]:  # noqa: ANN401  (values of JSON)
    return {**({} if after is None else {"after": after}), **marks, **more}


def _placed(found: Sequence[Found], state: Mapping[str, Any], marks: Mapping[str, str], *, ids: bool) -> Iterator[tuple[dict[str, Any], Event]]:
    """Yield events with their positions, without those that were taken before a restart.

    The marks of an answer count when all of it is taken, and a place when all records of that place are. Until then the position says how
    many of its records were taken: of the same answer, or of the place that comes next. Where records have ids, these tell.
    """
    old = {name: state[name] for name in ("etag", "modified") if name in state}
    settled, count = state.get("after"), 0
    next_place, taken = state.get("next"), 0 if ids else state.get("taken", 0)
    if next_place is None and not (marks and marks == state.get("new")):
        taken = 0
    for number, (after, event) in enumerate(found, 1):
        last, count = number == len(found), count + 1
        ties = not last and after is not None and found[number].after == after
        if after is not None and not ties:
            settled, count = after, 0
        if last:
            position = _position(settled, marks)
        elif after is not None:
            position = _position(settled, old, **({"next": after, "taken": count} if ties else {}))
        else:
            position = _position(settled, old, new=marks, taken=count)
        if taken and after == next_place:
            taken -= 1
            continue
        yield position, event
