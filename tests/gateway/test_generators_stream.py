"""The generators' endpoint (G1), under a real server: every byte of it, what it refuses, and clients that are slow or leave."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest
import uvicorn

import headrace.gateway.generators as gateway
from headrace.cli import main
from headrace.gateway import timely
from headrace.gateway.generators import Asked
from headrace.simulate import Generators
from ports import free_port
from serving import LIMIT, Server
from waiting import wait_for

NDJSON = {"Accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server().running() as one:
        yield one


def get(server: Server, query: str, **headers: str) -> httpx.Response:
    return httpx.get(server.url(query), headers=headers, timeout=LIMIT)


def lines(server: Server, query: str, **headers: str) -> list[bytes]:
    return get(server, query, **(NDJSON | headers)).content.splitlines()


def test_each_record_is_an_event_with_its_number_as_id(server: Server) -> None:
    response = get(server, "count=3&rate=0&seed=7")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.content == b"".join(b"id: %d\ndata: %b\n\n" % (number, Generators(7).line(number)) for number in range(3))


def test_lines_come_to_who_accepts_ndjson(server: Server) -> None:
    response = get(server, "count=3&rate=0&seed=7", **NDJSON)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.content == b"".join(Generators(7).line(number) + b"\n" for number in range(3))


def test_every_parameter_says_what_the_plant_is_like(server: Server) -> None:
    query = "count=500&rate=0&seed=-3&generators=4&fault_probability=0.3&power=10-20&fuel=1.5-9&voltage=380-420&units=true"
    plant = Generators(-3, 4, 0.3, (10, 20), (1.5, 9), (380, 420), units=True)
    start = int(datetime(2025, 6, 1, tzinfo=UTC).timestamp() * 1000)
    assert lines(server, f"{query}&start=2025-06-01T00:00:00Z&interval_ms=250") == [plant.line(number, start, 250) for number in range(500)]


@pytest.mark.parametrize(
    ("query", "headers", "numbers"),
    [
        ("count=10", {"Last-Event-ID": "6"}, range(7, 10)),
        ("from=5&count=3", {}, range(5, 8)),
        ("from=5&count=3", {"Last-Event-ID": "6"}, range(7, 8)),
        ("from=5&count=3", {"Last-Event-ID": "2"}, range(5, 8)),
    ],
)
def test_it_goes_on_after_what_the_client_has(server: Server, query: str, headers: dict[str, str], numbers: range) -> None:
    assert lines(server, f"rate=0&{query}", **headers) == [Generators().line(number) for number in numbers]


@pytest.mark.parametrize(("query", "last"), [("count=10", "9"), ("count=10", "900"), ("from=5&count=5", "9"), ("count=0", None)])
def test_who_has_all_is_told_not_to_come_back(server: Server, query: str, last: str | None) -> None:
    response = get(server, query, **({} if last is None else {"Last-Event-ID": last}))
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("count=-1", "count is '-1': Input should be greater than or equal to 0"),
        ("rate=fast", "rate is 'fast': "),
        ("rate=-1", "rate is '-1': "),
        ("rate=nan", "rate is 'nan': "),
        ("rate=inf", "rate is 'inf': "),
        ("seed=1.5", "seed is '1.5': "),
        ("sed=1", "there is no parameter 'sed'; did you mean 'seed'?"),
        ("frm=1", "there is no parameter 'frm'; did you mean 'from'?"),
        ("from=-1", "from is '-1': "),
        ("from=now&count=3", "count: counts from a record that is another each time; give from=NUMBER, or no count"),
        ("power=high", "power: 'high' is no range; write 80-120, two decimals at most"),
        ("fuel=9-8", "generators plant: fuel is 9.0 to 8.0; the higher end is 1 or more above the lower"),
        ("fault_probability=2", "generators plant: fault_probability is 2.0; a probability lies between 0 and 1"),
        ("generators=0", "generators plant: there are 0 generators"),
        ("start=2024", "start: '2024' is not a time; write 2024-01-15T10:30:00Z"),
        ("interval_ms=0", "interval_ms is '0': "),
    ],
)
def test_what_cannot_be_is_refused_and_said_why(server: Server, query: str, says: str) -> None:
    response = get(server, query)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(says)


def test_an_id_that_is_none_is_refused(server: Server) -> None:
    response = get(server, "", **{"Last-Event-ID": "x"})
    assert (response.status_code, response.json()["detail"][:22]) == (422, "last-event-id is 'x': ")


def test_the_rate_is_kept(server: Server) -> None:
    began = time.monotonic()
    assert len(lines(server, "count=100&rate=100")) == 100
    assert time.monotonic() - began > 0.98


def test_a_record_comes_as_soon_as_its_time_does(server: Server) -> None:
    with httpx.stream("GET", server.url("rate=0.001"), timeout=LIMIT) as response:
        assert next(response.iter_bytes()).startswith(b"id: 0\n")


def test_from_now_the_records_have_the_time_of_the_clock(server: Server) -> None:
    with httpx.stream("GET", server.url("from=now"), headers=NDJSON, timeout=LIMIT) as response:
        found = [json.loads(line) for line, _ in zip(response.iter_lines(), range(21), strict=False)]
    assert [one["GeneratorID"] for one in found] == [*[f"G{number}" for number in range(1, 11)] * 2, "G1"]
    assert abs(found[-1]["timestamp"] / 1000 - time.time()) < LIMIT


def test_from_now_goes_on_after_what_the_client_has() -> None:
    assert Asked.model_validate({"from": "now"}).numbers(41)[0] == 42


def test_who_takes_slowly_holds_the_server_up_and_no_one_else(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /generator/stream?rate=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slow.recv(100)
        time.sleep(0.5)
        before = resident(server)
        time.sleep(1)
        assert resident(server) - before < 2_000_000, "what is not taken is not made"
        assert len(lines(server, "count=10000&rate=0")) == 10_000


def test_who_leaves_is_noticed(server: Server) -> None:
    before = sockets(server)
    for rate in ("0", "0.001", "1000"):
        with httpx.stream("GET", server.url(f"rate={rate}"), timeout=LIMIT) as response:
            next(response.iter_bytes())
    give_up_at = time.monotonic() + 180
    while sockets(server) > before and time.monotonic() < give_up_at:
        time.sleep(0.05)
    assert sockets(server) <= before
    spent = cpu(server)
    time.sleep(0.5)
    assert cpu(server) - spent < 0.3, "nobody makes records for who has left"


def resident(server: Server) -> int:
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * 4096


def sockets(server: Server) -> int:
    found = 0
    for one in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found += one.readlink().name.startswith("socket:")
    return found


def cpu(server: Server) -> float:
    return sum(map(int, Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13])) / 100


def test_a_quiet_stream_shows_that_it_lives() -> None:
    async def first(count: int) -> list[bytes]:
        pieces = gateway._pieces(0, 3, 4, lambda number: b"%d" % number, b"alive ")
        return [await anext(pieces) for _ in range(count)]

    with patch.object(gateway, "QUIET_SECONDS", 0.1):
        assert asyncio.run(first(5)) == [b"0", b"alive ", b"alive ", b"1", b"alive "]


# as processes


def test_uvicorn_serves_the_app() -> None:
    one = Server(sys.executable, "-m", "uvicorn", "headrace.gateway.generators:app", "--port", "{port}")
    one.start()
    try:
        assert lines(one, "count=1&rate=0") == [Generators().line(0)]
    finally:
        one.end()


def test_sigterm_ends_it_though_streams_go_on() -> None:
    one = Server()
    one.start()
    with httpx.stream("GET", one.url("rate=10"), timeout=LIMIT) as response:
        next(response.iter_bytes())
        assert one.end(signal.SIGTERM) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generator"], "unknown service 'generator'; did you mean 'generators'?"),
        (["generators", "--port", "65536"], "--port: is 65536; give 1 to 65535, or 0 for any that is free"),
        (["generators", "--host", "192.0.2.1"], "192.0.2.1 port 8001: cannot be served: Cannot assign requested address"),
    ],
)
def test_what_cannot_be_served_is_said(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) in {1, 2}
    assert capsys.readouterr().err.startswith(f"headrace: {says}")


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "generators", "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"headrace: 127.0.0.1 port {port}: cannot be served: Address already in use; name a free one")


def test_simulate_sends_the_same_records(tmp_path: Path, server: Server) -> None:
    file = tmp_path / "records.ndjson"
    options = ["--seed", "9", "--fault-probability", "0.2", "--generators", "3", "--units", "--power", "1-5", "--records", "100"]
    assert main(["simulate", "generators", "--start", "2024-01-01T00:00:00Z", "--to", str(file), *options]) == 0
    query = "seed=9&fault_probability=0.2&generators=3&units=true&power=1-5&count=100&rate=0"
    assert file.read_bytes().splitlines() == lines(server, query)


# names, methods, and clients that take their time


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8001", "[::1]:8001", "LOCALHOST", "app.localhost", "192.0.2.7", socket.gethostname()])
def test_it_answers_to_its_own_names(server: Server, host: str) -> None:
    assert get(server, "count=1", Host=host).status_code == 200


@pytest.mark.parametrize("host", ["rebound.example", "localhost.example", "127.0.0.1.example", "", "a b", "x@localhost", "127.0.0.1, evil.example"])
def test_it_does_not_answer_to_other_names(server: Server, host: str) -> None:
    for url in (server.url("count=1"), f"http://127.0.0.1:{server.port}/health"):
        response = httpx.get(url, headers={"Host": host}, timeout=LIMIT)
        assert response.status_code in {400, 421}
        assert b"GeneratorID" not in response.content
        assert b"ok" not in response.content


def test_a_name_may_be_allowed() -> None:
    one = Server(sys.executable, "-m", "headrace", "serve", "generators", "--port", "{port}", "--allow-host", "plant.example")
    one.start()
    try:
        assert get(one, "count=1", Host="plant.example:80").status_code == 200
        assert get(one, "count=1", Host="other.example").status_code == 421
    finally:
        one.end()


def test_head_has_the_headers_alone(server: Server) -> None:
    response = httpx.head(server.url("rate=0"), timeout=LIMIT)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert httpx.head(f"http://127.0.0.1:{server.port}/health", timeout=LIMIT).status_code == 200


@pytest.mark.parametrize("query", ["interval_ms=5e-324", "interval_ms=0.0009", "from=now&interval_ms=1e-300", "rate=1e308"])
def test_numbers_that_overflow_are_refused(server: Server, query: str) -> None:
    assert get(server, query).status_code == 422


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server in this process that waits for a moment only, and takes three connections."""
    monkeypatch.setattr(timely, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(timely, "CONNECTIONS", 3)
    monkeypatch.setattr(timely, "TAKE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(gateway.app, http=timely.TimelyProtocol, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(LIMIT)


@pytest.mark.parametrize("begun", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_request_that_does_not_arrive_in_time_is_cut(impatient: int, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", impatient), timeout=LIMIT) as late:
        late.sendall(begun)
        assert late.recv(1000) == b""


def test_a_request_is_answered_after_another_on_its_connection_and_then_cut_if_it_is_late(impatient: int) -> None:
    with socket.create_connection(("127.0.0.1", impatient), timeout=LIMIT) as one:
        for _ in range(3):
            one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                part = one.recv(1000)
                assert part
                answer += part
        one.sendall(b"GET /health")
        assert one.recv(1000) == b""


def test_a_client_that_takes_nothing_is_let_go(impatient: int) -> None:
    with socket.create_connection(("127.0.0.1", impatient), timeout=LIMIT) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /generator/stream?rate=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")

        def others() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", impatient), timeout=LIMIT) as one:
                one.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return b"200 OK" in one.recv(1000)
            return False

        # Three of those take all the room there is, until they are let go.
        with socket.create_connection(("127.0.0.1", impatient)) as two, socket.create_connection(("127.0.0.1", impatient)) as three:
            for one in (two, three):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.sendall(b"GET /generator/stream?rate=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for(others, "room for another", seconds=LIMIT)
