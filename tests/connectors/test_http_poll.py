"""JSON that is polled: each record once where it has an id or a place, and no answer stops the others."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from outside import values_of

from headrace.cli import main
from headrace.cli.bridge import source_of
from headrace.connectors.ingest import Ingest
from headrace.connectors.protocol import Event
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.sqlite import SqliteLog

LIMIT = 400.0

Reply = tuple[int, Mapping[str, str], bytes]


class Answers:
    """A server that answers each request with the next of some answers, and then with the last one again."""

    def __init__(self) -> None:
        self.replies: list[Reply | Callable[[Mapping[str, str]], Reply]] = []
        self.asked: list[tuple[str, Mapping[str, str]]] = []
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = answers.replies[min(len(answers.asked), len(answers.replies) - 1)]
                answers.asked.append((self.path, headers))
                status, more, body = reply(headers) if callable(reply) else reply
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def address(self, query: str = "", path: str = "/v") -> str:
        return f"http+poll://127.0.0.1:{self._server.server_port}{path}?interval=10ms{f'&{query}' if query else ''}"

    def json(self, *values: Any, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.replies += [(200, named, json.dumps(value).encode()) for value in values]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Answers]:
    with closing(Answers()) as one:
        yield one


def poll(address: str, count: int, position: Any = None) -> list[Event]:
    """Return so many events."""

    async def collect() -> list[Event]:
        one, found = source_of(address), list[Event]()
        try:
            events = await one.open(position)
            assert events is not None
            async for event in events:
                found.append(event)
                if len(found) == count:
                    break
            await events.aclose()
        finally:
            await one.close()
        return found

    return asyncio.run(asyncio.wait_for(collect(), LIMIT))


def bridge(log: SqliteLog, address: str, records: int | None = None, stop: Callable[[], bool] = lambda: False) -> list[str]:
    told: list[str] = []
    with closing(Ingest(log, source_of(address), "t", patience=20.0, told=told.append)) as one:
        asyncio.run(asyncio.wait_for(one.run(stop, records=records), LIMIT))
    return told


def numbers(log: SqliteLog) -> list[Any]:
    return [json.loads(value)["n"] for value in values_of(log, "t")]


def test_answers_are_objects_arrays_and_lines_at_a_path(server: Answers) -> None:
    server.replies.append((200, {}, b' {"data": {"items": [{"n": 1.50}, {"n": 12345678901234567890}]}}'))
    server.json({"data": {"items": []}}, {"data": {"items": None}}, {"data": {"items": {"n": 3}}})
    assert [event.value for event in poll(server.address("records=$.data.items"), 3)] == [b'{"n": 1.50}', b'{"n": 12345678901234567890}', b'{"n": 3}']
    server.replies = [(200, {"Content-Type": "application/x-ndjson"}, b'{"n": 4}\n\n{"n": 5}\r\n')]
    assert [event.value for event in poll(server.address(), 2)] == [b'{"n": 4}', b'{"n": 5}']


def test_an_increasing_field_tells_what_is_new_over_a_restart(server: Answers, log: SqliteLog) -> None:
    server.json([{"n": 3}, {"n": 1}, {"n": 2}], [{"n": 2}, {"n": 3}, {"n": 4}])
    bridge(log, server.address("after=$.n&since=from&site=7&query.interval=1m"), records=4)
    assert numbers(log) == [1, 2, 3, 4]
    server.json([{"n": 4}, {"n": 5}])
    server.replies = server.replies[-1:]
    bridge(log, server.address("after=$.n&since=from&site=7&query.interval=1m"), records=1)
    assert numbers(log) == [1, 2, 3, 4, 5]
    assert server.asked[0][0] == "/v?site=7&interval=1m"
    assert server.asked[1][0] == "/v?site=7&interval=1m&from=3"


def test_each_position_resumes_after_its_event(server: Answers) -> None:
    server.json([{"n": 1, "t": "a"}, {"n": 2, "t": "b"}, {"n": 3, "t": "b"}, {"n": 4, "t": "b"}, {"n": 5, "t": "c"}], ETag='"x"')
    server.json([{"n": 6, "t": "d"}])
    replies = server.replies
    for query in ("after=$.t", ""):
        server.replies, server.asked = replies, []
        events = poll(server.address(query), 6)
        for number, event in enumerate(events[:5], 1):
            server.asked = []
            if number == 5:
                server.replies = [(304, {}, b""), replies[1]]
            rest = poll(server.address(query), 6 - number, msgspec.json.decode(msgspec.json.encode(event.position)))
            assert [json.loads(one.value)["n"] for one in rest] == list(range(number + 1, 7))
        assert server.asked[0][1]["if-none-match"] == '"x"'


def test_ids_tell_repetitions_and_are_counted(server: Answers, log: SqliteLog) -> None:
    server.json([{"id": "a", "n": 1}, {"id": "b", "n": 2}], [{"id": "b", "n": 2}, {"id": "c", "n": 3}], [{"id": "c", "n": 3}, {"id": 4, "n": 4}])
    bridge(log, server.address("id=$.id"), records=3)
    server.replies, server.asked = server.replies[2:], []
    bridge(log, server.address("id=$.id"), records=1)
    assert numbers(log) == [1, 2, 3, 4]
    (told,) = bridge(log, server.address("id=$.id"), stop=lambda: len(server.asked) > 5) or [""]
    assert (numbers(log), told) == ([1, 2, 3, 4], "")


def test_what_is_wrong_is_set_aside_once_and_costs_nothing_else(server: Answers, log: SqliteLog) -> None:
    server.replies += [(200, {}, b"<html>"), (200, {}, b"<html>"), (200, {}, b'{"n": 1}')]
    server.json([{"n": 2}, 7, {"x": 0}], [{"n": 3}, 7, {"x": 0}])
    told = bridge(log, server.address("after=$.n"), records=3)
    assert numbers(log) == [1, 2, 3]
    assert [line.partition(": ")[2] for line in told] == [
        "an answer is not JSON: JSON is malformed: invalid character (byte 0); it is in t.dead-letter",
        "/v: has no number and no text at $.n; it is in t.dead-letter",
        "/v: has no number and no text at $.n; it is in t.dead-letter",
    ]


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_busy_is_asked_again(server: Answers, log: SqliteLog) -> None:
    server.replies += [(503, {"Retry-After": "0"}, b""), (429, {}, b""), (200, {}, b'{"n": 1}'), (500, {}, b""), (200, {}, b'{"n": 2}')]
    told = bridge(log, server.address(), records=2)
    assert numbers(log)[:2] == [1, 2]
    assert told[0].partition(": ")[2] == "answers 503 Service Unavailable; asked again until it answers"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_ends_the_bridge_and_shows_no_secret(server: Answers, log: SqliteLog, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2hunter2")
    server.replies.append((status, {}, b"no"))
    with pytest.raises(PlanError) as found:
        bridge(log, server.address("token=${SECRET_TOKEN}"))
    assert f"answers {status}" in str(found.value) and "hunter2" not in str(found.value)
    assert server.asked[0][1]["authorization"] == "Bearer hunter2hunter2"


def test_tokens_users_and_headers(server: Answers) -> None:
    Path("token").write_text("from file\n")
    server.json({"n": 1})
    poll(server.address("token_file=token&token_header=X-Key"), 1)
    assert server.asked[0][1]["x-key"] == "from file"
    poll(server.address().replace("//", "//me:pw@"), 1)
    assert server.asked[1][1]["authorization"].startswith("Basic ")
    assert source_of(server.address().replace("//", "//me:pw@")).name == server.address().partition("?")[0]


@pytest.mark.usefixtures("quick")
def test_an_answer_that_cannot_be_decoded_is_asked_for_again(server: Answers, log: SqliteLog) -> None:
    server.replies += [(200, {"Content-Encoding": "gzip"}, b"not gzip"), (200, {}, b'{"n": 1}')]
    bridge(log, server.address(), records=1)
    assert numbers(log) == [1]


def test_the_marks_of_an_answer_are_sent_back_as_they_came(server: Answers) -> None:
    server.json({"n": 1}, {"n": 2}, ETag='"\u00e4"')
    poll(server.address(), 2)
    assert server.asked[1][1]["if-none-match"] == '"\u00e4"'


def test_a_token_goes_to_no_other_server_to_which_a_redirect_leads(server: Answers) -> None:
    Path("token").write_text("hunter2")
    with closing(Answers()) as other:
        other.json({"n": 1})
        server.replies += [(302, {"Location": "/w"}, b""), (302, {"Location": other.address().replace("http+poll", "http")}, b"")]
        for header in ("&token_header=X-Key", ""):
            server.asked.clear()
            poll(server.address(f"token_file=token{header}"), 1)
            assert all("hunter2" in str(headers) for _, headers in server.asked) and len(server.asked) == 2
        assert len(other.asked) == 2 and "hunter2" not in str(other.asked)


@pytest.mark.parametrize("token", ["hunter2\nhunter3", "hunter2\u00e4"])
def test_a_token_that_no_header_can_have_is_refused_and_not_shown(token: str, server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", token)
    with pytest.raises(EnvironmentFault) as found:
        source_of(server.address("token=${SECRET_TOKEN}"))
    assert "no header can have" in str(found.value) and "hunter2" not in str(found.value)


def test_an_answer_that_is_too_long_is_not_taken(server: Answers, log: SqliteLog) -> None:
    server.json([{"n": 1}] * 100)
    with (
        pytest.raises(EnvironmentFault, match="answers with more than 50 bytes"),
        closing(Ingest(log, source_of(server.address("max_answer=50")), "t", patience=0.05, told=lambda _: None)) as one,
    ):
        asyncio.run(one.run())


@pytest.fixture(autouse=True)
def folder(home: Path) -> Path:
    return home.parent


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http+poll:///v", "is not an address"),
        ("http+poll://h/?interval=x", "parameter interval is 'x'"),
        ("http+poll://h/?after=n", "parameter after is 'n'"),
        ("http+poll://h/?records=$.*", "parameter records is '$.*'; give a path without *"),
        ("http+poll://h/?since=x", "parameter since needs after"),
        ("http+poll://h/?token_header=X", "parameter token_header needs a token"),
        ("http+poll://h/?token=a&token_file=b", "parameters token and token_file are both given"),
        ("http+poll://h/?token=${NONE_SUCH}", "the variable NONE_SUCH is not set"),
    ],
)
def test_wrong_use_is_said(address: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", address, "topic:t"]) != 0
    assert says in capsys.readouterr().err
