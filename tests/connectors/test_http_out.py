"""Records that are posted: each once by its key, again while the server cannot take them, and set aside if it refuses them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from outside import LIMIT, value, values_of

from headrace.cli import main
from headrace.connectors.forward import Forward
from headrace.connectors.http import target
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.sqlite import SqliteLog

pytestmark = pytest.mark.usefixtures("quick")
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(answer: Callable[[Any, bytes], Answer]) -> Iterator[str]:
    """Serve what a function answers to headers and a body, and give host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, headers, body = answer(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            for name, text in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(LIMIT)
        server.server_close()


def fill(log: SqliteLog, records: list[bytes]) -> None:
    log.create("numbers", 1)
    log.append("numbers", records)


def run(log: SqliteLog, address: str, told: Callable[[str], object] = lambda _: None) -> int:
    with closing(Forward(log, "numbers", target(address), "f", latest=True, told=told)) as one:
        return asyncio.run(asyncio.wait_for(one.run(), LIMIT))


def test_each_record_is_posted_with_its_key_and_the_token(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "s3cret")
    fill(log, [value(number) for number in range(5)])
    came: list[tuple[str, bytes]] = []

    def answer(headers: Any, body: bytes) -> Answer:
        assert headers["Authorization"] == "Bearer s3cret"
        assert headers["Content-Type"] == "application/json"
        came.append((headers["Idempotency-Key"], body))
        return 204, {}, b""

    with serving(answer) as where:
        assert "s3cret" not in target(f"http+out://{where}/hook?token=${{HOOK_TOKEN}}").name
        assert run(log, f"http+out://{where}/hook?token=${{HOOK_TOKEN}}") == 5
    assert came == [(f"numbers/0/{number}", value(number)) for number in range(5)]


@pytest.mark.parametrize("body", ["array", "ndjson"])
def test_a_refused_record_of_a_batch_is_set_aside_and_its_neighbours_are_taken(log: SqliteLog, body: str) -> None:
    fill(log, [b"no json" if number == 3 else value(number) for number in range(20)])
    taken: dict[str, list[int]] = {}

    def answer(headers: Any, content: bytes) -> Answer:
        found = [one["number"] for one in (json.loads(content) if body == "array" else map(json.loads, content.splitlines()))]
        if 7 in found:
            return 422, {}, b"seven is  not\nallowed"
        taken[headers["Idempotency-Key"]] = found
        return 200, {}, b"ok"

    with serving(answer) as where:
        assert run(log, f"http+out://{where}/hook?body={body}&batch=8") == 20
    assert sorted(number for found in taken.values() for number in found) == [number for number in range(20) if number not in {3, 7}]
    first, second = (json.loads(one)["detail"] for one in values_of(log, "numbers.dead-letter"))
    assert first == "is not JSON"
    assert second.startswith("the server answers 422 ")
    assert second.endswith(": seven is not allowed")


def test_a_batch_that_is_too_large_for_the_server_is_divided_and_a_record_that_is_set_aside(log: SqliteLog) -> None:
    fill(log, [value(number) for number in range(20)] + [json.dumps({"number": 20, "text": "x" * 500}).encode()])
    taken: list[int] = []

    def answer(_: Any, body: bytes) -> Answer:
        if len(body) > 200:
            return 413, {}, b"too large"
        taken.extend(json.loads(line)["number"] for line in body.splitlines())
        return 200, {}, b""

    with serving(answer) as where:
        assert run(log, f"http+out://{where}/hook?body=ndjson&batch=50") == 21
    assert taken == [*range(20)]
    (letter,) = map(json.loads, values_of(log, "numbers.dead-letter"))
    assert (letter["offset"], letter["detail"]) == (20, "the server answers 413 Request Entity Too Large: too large")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_while_the_server_cannot_take_records_they_are_posted_again_with_the_same_key(log: SqliteLog, status: int) -> None:
    fill(log, [value(number) for number in range(4)])
    came: list[str] = []

    def answer(headers: Any, _: bytes) -> Answer:
        came.append(headers["Idempotency-Key"])
        return (200, {}, b"") if came.count(came[-1]) > 1 else (status, {"Retry-After": "0"}, b"")

    told: list[str] = []
    with serving(answer) as where:
        assert run(log, f"http+out://{where}/hook", told.append) == 4
    assert came == [f"numbers/0/{number}" for number in range(4) for _ in range(2)]
    assert f"answers {status} " in told[0]


def test_a_server_that_asks_to_wait_is_not_asked_before(log: SqliteLog) -> None:
    fill(log, [value(0)])
    came: list[str] = []

    def answer(headers: Any, _: bytes) -> Answer:
        came.append(headers["Idempotency-Key"])
        return (429, {"Retry-After": "1"}, b"") if len(came) == 1 else (200, {}, b"")

    with serving(answer) as where:
        assert run(log, f"http+out://{where}/hook") == 1
    assert came == ["numbers/0/0"] * 2, "it was asked again once, though the runner tries every few ms"


@pytest.mark.parametrize(("status", "wrong"), [(401, "answers 401"), (404, "answers 404"), (307, "redirects are not followed")])
def test_a_server_that_takes_nothing_ends_the_bridge(log: SqliteLog, status: int, wrong: str) -> None:
    fill(log, [value(0)])
    came: list[bytes] = []

    def answer(_: Any, body: bytes) -> Answer:
        came.append(body)
        return status, {"Location": "http://127.0.0.1:9/elsewhere"}, b""

    with serving(answer) as where, pytest.raises(PlanError, match=wrong):
        run(log, f"http+out://{where}/hook")
    assert came == [value(0)]
    assert log.cursors() == [] or all(cursor.offset == 0 for cursor in log.cursors())


@pytest.mark.parametrize(
    ("address", "wrong"),
    [
        ("http://127.0.0.1/hook", "is not an address that records are posted to"),
        ("http+out://127.0.0.1/hook?body=xml", "parameter body is 'xml'"),
        ("http+out://127.0.0.1/hook?batch=5", "parameter batch needs"),
        ("http+out:///hook", "is not an address"),
        ("http+out://127.0.0.1/hook?token=a&token_file=b", "are both given"),
        ("https+out://127.0.0.1/hook?ca=missing.pem", "cannot be read"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_starts(address: str, wrong: str) -> None:
    with pytest.raises((PlanError, EnvironmentFault)) as caught:
        target(address)
    assert wrong in str(caught.value)


def test_the_command_posts_a_topic(log: SqliteLog, capfd: pytest.CaptureFixture[str]) -> None:
    fill(log, [value(0)])
    with serving(lambda *_: (200, {}, b"")) as where:
        assert main(["bridge", "topic:numbers", f"http+out://{where}/hook?site=7", "--until", "latest"]) == 0
    assert "1 records sent" in capfd.readouterr().err
