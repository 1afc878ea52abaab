"""Records that clients post: answered when they are committed, and refused properly."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from outside import FaultyLog, values_of

import headrace.connectors.http_post as module
from headrace.cli import main
from headrace.cli.bridge import source_of
from headrace.connectors import http_connection
from headrace.connectors.http_post import Received
from headrace.connectors.ingest import Ingest
from headrace.errors import EnvironmentFault
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from ports import free_port
from waiting import wait_for

LIMIT = 400.0
TOKEN = "a-token-of-some-length"


@pytest.fixture(autouse=True)
def folder(home: Path) -> Path:
    return home.parent


@contextmanager
def receiving(log: Log, query: str = "", port: int = 0) -> Iterator[httpx.Client]:
    """Run a bridge in a thread, and return a client that knows the token."""
    port = port or free_port()
    source = source_of(f"http+post://127.0.0.1:{port}/in?token={TOKEN}{f'&{query}' if query else ''}")
    ended: list[BaseException | None] = []
    stop = threading.Event()

    def run() -> None:
        try:
            with closing(Ingest(log, source, "t", told=lambda _: None)) as one:
                asyncio.run(one.run(stop.is_set))
            ended.append(None)
        except BaseException as error:  # noqa: BLE001
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: _listens(port) or ended, "it listens", seconds=LIMIT)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=LIMIT) as client:
            yield client
    finally:
        stop.set()
        thread.join(LIMIT)
    assert ended == [None]


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def numbers(log: Log) -> list[int]:
    return [json.loads(value)["n"] for value in values_of(log, "t")]


def test_an_answer_comes_when_the_records_are_committed(log: SqliteLog) -> None:
    with receiving(log) as client:
        for body, kind, found in [
            ('{"n": 1}', "application/json", (1, 0)),
            (' [{"n": 2}, {"n":\n3}]', "application/json; charset=utf-8", (2, 0)),
            ('{"n": 4}\n\n{"n": 5}\r\nno\n{"n": 6}', "application/x-ndjson", (3, 1)),
            ("[7]", "application/json", (0, 1)),
            ("[]", "application/json", (0, 0)),
        ]:
            answer = client.post("/in", content=body, headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()) == (200, {"accepted": found[0], "malformed": found[1]})
            assert sum(info.end - info.first for info in log.topic("t").partitions) == len(numbers(log))
    assert numbers(log) == [1, 2, 3, 4, 5, 6]
    assert [json.loads(one)["raw"] for one in values_of(log, "t.dead-letter")] == ["no", "7"]


def test_what_is_posted_again_under_a_key_is_taken_once(log: SqliteLog) -> None:
    with receiving(log) as client:
        for _ in range(3):
            answer = client.post("/in", json=[{"n": 1}, {"n": 2}], headers={"Idempotency-Key": "k1"})
            assert answer.json() == {"accepted": 2, "malformed": 0}
    with receiving(log, port=client.base_url.port or 0) as client:
        assert client.post("/in", json=[{"n": 1}, {"n": 2}], headers={"Idempotency-Key": "k1"}).status_code == 200
        assert client.post("/in", json={"n": 3}, headers={"Idempotency-Key": "k2"}).status_code == 200
    assert numbers(log) == [1, 2, 3]


def test_refusals(log: SqliteLog) -> None:
    big = {"n": "x" * 300}
    with receiving(log, "max_body=200&remember=2") as client:
        for status, arguments in [
            (401, {"headers": {"Authorization": ""}}),
            (401, {"headers": {"Authorization": f"Basic {TOKEN}"}}),
            (403, {"headers": {"Authorization": "Bearer other"}}),
            (413, {"json": big}),
            (413, {"content": iter([json.dumps(big).encode()]), "headers": {"Content-Type": "application/json"}}),
            (413, {"json": [{"n": 1}] * 3, "headers": {"Idempotency-Key": "k"}}),
            (415, {"data": {"n": 1}, "json": None}),
            (415, {"headers": {"Content-Encoding": "gzip"}}),
            (400, {"content": b'{"n": ', "json": None, "headers": {"Content-Type": "application/json"}}),
            (400, {"json": 7}),
            (400, {"headers": {"Idempotency-Key": "k" * 300}}),
        ]:
            given: dict[str, Any] = {"json": {"n": 1}, **arguments}
            if "content" in given or given["json"] is None:
                given.pop("json")
            answer = client.post("/in", **given)
            assert (answer.status_code, list(answer.json())) == (status, ["error"]), arguments
        assert client.post("/other", json={}).status_code == 404
        answer = client.get("/in")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert client.post("/in", json={"n": 1}).status_code == 200, "the client goes on"
    assert numbers(log) == [1]


def test_too_much_at_once_is_refused_and_the_rest_is_taken(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PENDING_BYTES", -1)
    with receiving(log) as client:
        answer = client.post("/in", json={"n": 1})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        monkeypatch.setattr(module, "_PENDING_BYTES", 1 << 20)
        assert client.post("/in", json={"n": 2}).status_code == 200
        monkeypatch.setattr(module, "CONNECTIONS", 0)
        with httpx.Client() as other:
            answer = other.post(client.base_url.join("/in"), json={"n": 3}, headers=client.headers)
        assert answer.status_code == 503
    assert numbers(log) == [2]


@pytest.mark.usefixtures("quick")
def test_what_a_log_did_not_take_is_answered_so_and_posted_again(log: SqliteLog) -> None:
    faulty = FaultyLog(log, random.Random(0), 0.3)
    with receiving(faulty) as client:  # type: ignore[arg-type]
        for number in range(15):
            for _ in range(100):
                status = client.post("/in", json={"n": number}, headers={"Idempotency-Key": str(number)}).status_code
                assert status in {200, 503}
                if status == 200:
                    break
            else:
                raise AssertionError
    assert numbers(log) == list(range(15))
    assert faulty.failed


def test_many_clients_at_once(log: SqliteLog) -> None:
    async def post(url: str) -> None:
        limits = httpx.Limits(max_connections=30)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=LIMIT, limits=limits) as client:
            answers = await asyncio.gather(*(client.post(url, json=[{"n": 3 * number + part} for part in range(3)]) for number in range(30)))
            assert {answer.status_code for answer in answers} == {200}

    with receiving(log) as client:
        asyncio.run(post(str(client.base_url.join("/in"))))
    assert sorted(numbers(log)) == list(range(90))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        b"\x16\x03\x01 no http at all\r\n\r\n",
        b"POST /in HTTP/1.1\r\n" + b"A: " + b"x" * 100_000,
        b"POST /in HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + TOKEN.encode()
        + b"\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
    ],
)
def test_a_client_that_breaks_off_or_speaks_no_http_harms_nobody(sent: bytes, log: SqliteLog) -> None:
    with receiving(log) as client:
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), LIMIT) as one:
            one.sendall(sent)
            one.shutdown(socket.SHUT_WR)
            one.settimeout(LIMIT)
            assert (one.recv(9) or b"HTTP/1.1 ") == b"HTTP/1.1 "
        assert client.post("/in", json={"n": 1}).status_code == 200
    assert numbers(log) == [1]


def test_a_body_that_is_no_http_is_refused_with_an_answer(log: SqliteLog) -> None:
    head = f"POST /in HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    with receiving(log) as client, socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=LIMIT) as one:
        one.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        assert one.recv(12) == b"HTTP/1.1 400"


def test_clients_that_are_connected_at_the_end_are_let_go_without_a_word() -> None:
    said: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        source = source_of(f"http+post://127.0.0.1:{free_port()}/in?token={TOKEN}")
        events = await source.open(None)
        assert isinstance(source, Received) and events is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
        writer.write(b"POST /in HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 401 Unauthorized\r\n"
        await events.aclose()
        await source.close()
        while await reader.read(1 << 10):
            pass
        writer.close()
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), LIMIT))
    assert not said


HEAD = f"POST /in HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"


@pytest.mark.parametrize(("sent", "begins", "limit"), [("POST /in", b"", "HEAD_SECONDS"), (HEAD, b"HTTP/1.1 408", "BODY_SECONDS")])
def test_slow_clients_are_let_go(log: SqliteLog, monkeypatch: pytest.MonkeyPatch, sent: str, begins: bytes, limit: str) -> None:
    for name in (limit, "LINGER_SECONDS"):
        monkeypatch.setattr(http_connection, name, 0.05)
    with receiving(log) as client, socket.create_connection(("127.0.0.1", client.base_url.port or 0), LIMIT) as one:
        one.sendall(sent.encode())
        one.settimeout(LIMIT)
        assert one.recv(12) == begins


def test_a_port_that_is_taken_is_said(log: SqliteLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(EnvironmentFault, match="cannot listen: "):
        one = source_of(f"http+post://127.0.0.1:{taken.getsockname()[1]}/in?token={TOKEN}")
        assert isinstance(one, Received)
        with closing(Ingest(log, one, "t", patience=0.01, told=lambda _: None)) as ingest:
            asyncio.run(ingest.run())


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http+post://127.0.0.1/x?token=12345678", "names no port"),
        ("http+post://127.0.0.1:80/x", "needs a token"),
        ("http+post://127.0.0.1:80/x?token=abc", "has a token of fewer than 8 characters"),
        ("http+post://127.0.0.1:80/x?token=a&token_file=b", "parameters token and token_file are both given"),
        ("http+post://me@127.0.0.1:80/x?token=12345678", "has a user, where a token is asked for"),
        ("http+post://127.0.0.1:80/x?token=12345678&cert=a", "parameters cert and key are only for TLS"),
        ("https+post://127.0.0.1:80/x?token=12345678", "needs a certificate"),
        ("https+post://127.0.0.1:80/x?token=12345678&cert=none&key=none", "none: cannot be used: No such file"),
    ],
)
def test_wrong_use_is_said(address: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", address, "topic:t"]) != 0
    assert says in capsys.readouterr().err
