"""The live page, under real clients: its own, those that are slow or leave, and those that use another name."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from importlib.resources import files

import pytest

from headrace.console.live import LivePage
from headrace.gateway import pages
from waiting import wait_for

LIMIT = 400.0
LONG = "x" * 30_000_000


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[LivePage]:
    """A page that waits for a moment only, and takes three connections."""
    monkeypatch.setattr(pages, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(pages, "CONNECTIONS", 3)
    one = LivePage(0, lambda: {"status": "ok"}, lambda: {"long": LONG}, lambda: b"metric 1\n")
    yield one
    one.close()


def asked(page: LivePage, request: bytes) -> bytes:
    """Send a request, and return all that comes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=LIMIT) as one:
        one.sendall(request)
        answer = b""
        with suppress(ConnectionError):
            while part := one.recv(65_536):
                answer += part
        return answer


def status(page: LivePage, host: str, method: str = "GET") -> int:
    return int(asked(page, f"{method} /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()).split()[1])


def test_it_answers(page: LivePage) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/health", timeout=LIMIT) as answer:
        assert json.load(answer) == {"status": "ok"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000", socket.gethostname()])
def test_it_answers_to_its_own_names(page: LivePage, host: str) -> None:
    assert status(page, host) == 200


@pytest.mark.parametrize("host", ["rebound.example", "127.0.0.1.example", "", "localhost\r\nHost: rebound.example"])
def test_it_does_not_answer_to_other_names(page: LivePage, host: str) -> None:
    assert status(page, host) == status(page, host, "HEAD") == 421


def test_head_has_the_headers_alone(page: LivePage) -> None:
    head, body = (asked(page, f"{method} /metrics HTTP/1.0\r\n\r\n".encode()) for method in ("HEAD", "GET"))
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 9\r\n" in head
    assert body.endswith(b"\r\n\r\nmetric 1\n")


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_request_that_does_not_arrive_in_time_is_cut(page: LivePage, begun: bytes) -> None:
    assert asked(page, begun) == b""


def test_connections_are_few_and_there_is_room_again_when_they_end(page: LivePage) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=LIMIT))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.sendall(b"GET /state HTTP/1.0\r\n\r\n")
            assert one.recv(10)
        # They take nothing more, and are let go.
        wait_for(lambda: b"metric" in asked(page, b"GET /metrics HTTP/1.0\r\n\r\n"), "room for another", seconds=LIMIT)


def test_a_client_that_leaves_is_no_error(page: LivePage, capfd: pytest.CaptureFixture[str]) -> None:
    for begun in (b"", b"GET", b"GET /state HTTP/1.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", page.port), timeout=LIMIT) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset at once
            one.sendall(begun)
    wait_for(lambda: b"metric" in asked(page, b"GET /metrics HTTP/1.0\r\n\r\n"), "room for another", seconds=LIMIT)
    assert capfd.readouterr() == ("", "")


def test_the_script_of_the_page_is_a_file_because_no_other_runs(page: LivePage) -> None:
    head, _, body = asked(page, b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Security-Policy: default-src 'self'; style-src" in head
    assert re.findall(rb"<script[^>]*>.", body) == [b'<script type="module" src="/live.js"><']
    head, _, body = asked(page, b"GET /live.js HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert (b"Content-Type: text/javascript\r\n" in head, body) == (True, (files("headrace.console") / "live.js").read_bytes())


def test_the_page_shows_an_aggregate_that_is_null() -> None:
    text = (files("headrace.console") / "live.js").read_text()
    assert "value.mean.toFixed" not in text
    assert "value.std_dev.toFixed" not in text
