"""The bridge from server-sent events to a topic (G2): every event once, whatever becomes of server, connection or bridge."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace.connectors.http as module
from broker import Shared
from forking import Forked, started
from headrace.cli import main
from headrace.cli.bridge import source_of
from headrace.connectors.http import source
from headrace.connectors.ingest import Ingest
from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.simulate import Generators
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from serving import LIMIT, Server
from waiting import wait_for

TOPIC = "scada_data_topic"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a bridge come back soon after a connection that gave nothing."""
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server().running(signal.SIGKILL) as one:
        yield one


def values(log: Log, topic: str = TOPIC) -> list[list[bytes]]:
    """What each partition has."""
    found = []
    for info in log.topic(topic).partitions:
        entries, offset = [], 0
        while more := log.entries(topic, info.number, offset, 100_000):
            entries += more
            offset = more[-1].offset + 1
        found.append([entry.value for entry in entries])
    return found


def expected(count: int, seed: int = 0) -> list[bytes]:
    plant = Generators(seed)
    return [plant.line(number) for number in range(count)]


def bridge(log: Log, url: str, topic: str = TOPIC, stop: Callable[[], bool] = lambda: False, **options: Any) -> int:
    limits = {name: options.pop(name) for name in ("duration", "records") if name in options}
    seconds = options.pop("seconds", LIMIT)
    with closing(Ingest(log, source(url), topic, **({"patience": 10.0, "told": lambda _: None} | options))) as one:
        return asyncio.run(asyncio.wait_for(one.run(stop, **limits), seconds))


class Scripted:
    """Answers each connection with the next of some bytes, then closes it; it remembers what was asked for. The last answer is given for ever."""

    def __init__(self, *answers: bytes, kind: str = "text/event-stream", status: str = "200 OK") -> None:
        self.asked: list[str] = []
        self._answers, self._head = answers, f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/events"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        # A client of another test may take this port for that of its own server: it gets no answer, and nobody waits for it.
        with suppress(OSError), connection:
            asked = b""
            while b"\r\n\r\n" not in asked:
                if not (more := connection.recv(4096)):
                    return
                asked += more
            answer = self._answers[min(len(self.asked), len(self._answers) - 1)]
            self.asked.append(asked.decode())
            connection.sendall(answer if answer.startswith(b"HTTP/") else self._head + answer)

    @property
    def ids(self) -> list[str | None]:
        """The Last-Event-ID of each request."""
        heads = [dict(line.lower().split(": ", 1) for line in one.splitlines()[1:] if line) for one in self.asked]
        return [head.get("last-event-id") for head in heads]

    def close(self) -> None:
        self._socket.close()


NO_MORE = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(*answers: bytes, **options: Any) -> Scripted:
        made.append(Scripted(*answers, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Cutting:
    """Between a client and a server: it cuts the first connections, each after a number of bytes from the server."""

    def __init__(self, port: int, cuts: Sequence[int]) -> None:
        self._port, self._cuts = port, list(cuts)
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                left = self._cuts[self.connections] if self.connections < len(self._cuts) else None
                self.connections += 1
                threading.Thread(target=self._pass_on, args=(client, left), daemon=True).start()

    def _pass_on(self, client: socket.socket, left: int | None) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._port)) as server:
            server.sendall(client.recv(65_536))
            while data := server.recv(65_536 if left is None else min(left, 65_536) or 1):
                client.sendall(data)
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        return

    def close(self) -> None:
        self._socket.close()


# the whole stream, once


def test_all_events_come_over_in_their_order_and_the_end_is_the_end(log: SqliteLog, server: Server) -> None:
    assert bridge(log, server.url("count=5000&rate=0")) == 5000
    assert values(log) == [expected(5000)]
    assert bridge(log, server.url("count=5000&rate=0")) == 0, "it has all"
    assert [(one.group, one.topic, one.partition, one.offset, one.end) for one in log.cursors()] == [(f"bridge:{TOPIC}", TOPIC, 0, 5000, 5000)]


def test_a_key_chooses_the_partition_and_order_is_kept_in_each(log: SqliteLog, server: Server) -> None:
    log.create(TOPIC, 3)
    bridge(log, server.url("count=2000&rate=0"), key="GeneratorID")
    found = values(log)
    assert sorted(line for lines in found for line in lines) == sorted(expected(2000))
    place = {line: number for number, line in enumerate(expected(2000))}
    assert all([place[line] for line in lines] == sorted(place[line] for line in lines) for lines in found)
    owners = [{json.loads(line)["GeneratorID"] for line in lines} for lines in found]
    assert sum(map(len, owners)) == 10, "a generator's records are all in one partition"
    assert sum(bool(one) for one in owners) > 1


def test_records_and_duration_end_it_and_it_goes_on_there(log: SqliteLog, server: Server) -> None:
    url = server.url("count=1000&rate=0")
    assert [bridge(log, url, records=300), bridge(log, url, records=1)] == [300, 1]
    assert bridge(log, url) == 699
    assert values(log) == [expected(1000)]
    assert any(bridge(log, server.url("rate=100"), "other", duration=duration) for duration in (0.5, 2, 8, 32))


def test_what_came_is_readable_at_once(log: SqliteLog, server: Server) -> None:
    def some_came() -> bool:
        return any(info.end for one in log.topics() for info in one.partitions)

    assert bridge(log, server.url("rate=0.001"), stop=some_came) == 1


# what goes wrong with connections


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 9))])
def test_a_connection_cut_anywhere_loses_and_repeats_nothing(log: SqliteLog, server: Server, seed: int) -> None:
    dice = random.Random(seed)
    cutting = Cutting(server.port, [dice.randrange(1, 3000) for _ in range(30)])
    told: list[str] = []
    with closing(cutting):
        url = f"http://127.0.0.1:{cutting.port}/generator/stream?count=3000&rate=0&seed={seed}"
        assert bridge(log, url, told=told.append) == 3000
    assert values(log) == [expected(3000, seed)]
    assert cutting.connections > 30
    assert all(url in one for one in told)
    assert any("asked to go on after event " in one for one in told)


def test_every_place_of_a_cut_is_well(log: SqliteLog, scripted: Callable[..., Scripted]) -> None:
    events = [b'id: 9\ndata: {"a":\ndata:  1}\n\n', b": alive\n\n", b"id: 10\r\ndata: {}\r\n\r\n"]
    whole = b"".join(events)
    for place in range(len(whole) + 1):
        last = 10 if place >= len(whole) - 1 else 9 if place >= len(events[0]) else None
        rest = whole if last is None else events[2] if last == 9 else b""
        source = scripted(whole[:place], *([rest] if rest else []), NO_MORE)
        before = log.topic("cut").partitions[0].end if place else 0
        assert bridge(log, source.url, "cut", anew=True) == 2, place
        assert [entry.value for entry in log.entries("cut", 0, before, 10)] == [b'{"a":\r 1}', b"{}"], place
        assert source.ids[1] == (None if last is None else str(last)), place


def test_a_server_that_is_killed_and_comes_back_is_waited_for(log: SqliteLog, server: Server) -> None:
    dice, stopped, told = random.Random(4), threading.Event(), list[str]()

    def missed() -> bool:
        # A request that the server took and did not answer may be told in place of a connection that is refused.
        return any("; asked again until it answers" in one for one in told)

    def trouble() -> None:
        for number in range(3):
            time.sleep(dice.uniform(0.1, 0.6))
            server.end(dice.choice([signal.SIGKILL, signal.SIGTERM]))
            if number == 0:
                wait_for(missed, seconds=LIMIT)
            time.sleep(dice.uniform(0, 0.5))
            server.start()
        stopped.set()

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        assert bridge(log, server.url("count=1500&rate=300"), told=told.append, patience=LIMIT, seconds=4 * LIMIT) == 1500
    finally:
        thread.join(LIMIT)
    assert stopped.is_set()
    assert values(log) == [expected(1500)]
    assert missed(), told


def test_a_server_that_is_not_ready_is_asked_again(log: SqliteLog, scripted: Callable[..., Scripted]) -> None:
    busy = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    source = scripted(busy, busy, b"id: a\ndata: 1\n\n", NO_MORE)
    told: list[str] = []
    assert bridge(log, source.url, told=told.append) == 1
    assert source.ids == [None, None, None, "a"]
    assert told == [f"{source.url}: answers 503 Service Unavailable; asked again until it answers"]


def test_who_cannot_be_reached_is_given_up(log: SqliteLog) -> None:
    url = Server().url()
    with pytest.raises(EnvironmentFault) as caught:
        bridge(log, url, patience=0.5)
    assert str(caught.value) == f"{url}: connection refused, for 0.5 s; is its server running, and the address right?"


# what comes


@pytest.mark.parametrize(
    ("events", "records"),
    [
        (b"id: 1\ndata: not json\n\n", [b"not json"]),
        (b'id: 1\ndata: {"a": 1,\ndata: "b": 2}\n\n', [b'{"a": 1,\r"b": 2}']),
        (b"id: 1\nevent: reading\nretry: 5\ndata:{}\n\n", [b"{}"]),
        (b": hello\n\nid: 1\ndata: 1\n\nid: 2\n\nid: 3\ndata: 3\n\n", [b"1", b"3"]),
        ('id: ä\ndata: "é\u2028😀"\n\n'.encode(), ['"é\u2028😀"'.encode()]),
        (b"\xef\xbb\xbf: x\n\nid: 1\rdata: 1\r\r", [b"1"]),
        (b"id: 7\ndata: 1\n\nid: 6b\ndata: 2\n\nid: 9\ndata: 3\n\n", [b"1", b"2", b"3"]),
    ],
)
def test_a_record_is_passed_on_as_it_came(log: SqliteLog, scripted: Callable[..., Scripted], events: bytes, records: list[bytes]) -> None:
    assert bridge(log, scripted(events, NO_MORE).url) == len(records)
    assert values(log) == [records]


def test_ids_are_taken_as_they_are(log: SqliteLog, scripted: Callable[..., Scripted]) -> None:
    source = scripted(b"id: 2024-01-01/7 x\ndata: 1\n\n", NO_MORE)
    bridge(log, source.url)
    assert source.ids == [None, "2024-01-01/7 x"]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([b"data: 1\n\n"], "sends events without ids; only with ids can a stream be resumed without loss"),
        ([b"id: 1\ndata: 1\n\ndata: 2\n\n"], "after event '1' came an event without an id"),
        ([b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n", b"id: 1\ndata: 1\n\n"], "sends event 1 after 2: it was asked by Last-Event-ID to go on there"),
        ([b"id: b\ndata: 1\n\n", b"id: b\ndata: 1\n\n"], "sends event b after b: it was asked by Last-Event-ID to go on there"),
    ],
)
def test_what_cannot_be_resumed_is_refused_and_what_came_before_is_kept(
    log: SqliteLog, scripted: Callable[..., Scripted], answers: list[bytes], says: str
) -> None:
    source = scripted(*answers)
    with pytest.raises(DataError) as caught:
        bridge(log, source.url)
    assert str(caught.value).startswith(f"{source.url}: {says}")
    assert len(values(log)[0]) == (0 if "without ids" in says else 2 if "2:" in says else 1)


def test_an_event_without_end_is_refused(log: SqliteLog, scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENT_BYTES", 100_000)
    fits = b"id: 1\ndata: " + b"x" * 9_000 + b"\n\n"
    for endless in (b"data: " + b"x" * 200_000, b"data: x\n" * 30_000):
        with pytest.raises(DataError, match="an event is longer than 100,000 bytes"):
            bridge(log, scripted(fits + endless).url, anew=True)
    assert values(log) == [[b"x" * 9_000] * 2]


@given(lengths=st.lists(st.integers(0, 3000), max_size=20), chunk=st.integers(1, 4000), end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_no_event_of_a_fair_length_is_refused_however_it_comes(lengths: list[int], chunk: int, end: bytes) -> None:
    whole = b"".join(b"data: " + b"x" * length + end + end for length in lengths)

    class Pieces(module.httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            for place in range(0, len(whole), chunk):
                yield whole[place : place + chunk]

    async def read() -> bytes:
        return b"".join([piece async for piece in module._Bounded(Pieces(), "x")])

    kept, module.EVENT_BYTES = module.EVENT_BYTES, 3000 + 4000 + 20
    try:
        assert asyncio.run(read()) == whole
    finally:
        module.EVENT_BYTES = kept


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"kind": "application/json"}, DataError, "answers 200 OK, application/json, not text/event-stream"),
        ({"status": "404 Not Found"}, PlanError, "answers 404 Not Found: id: 1"),
        (
            {"kind": "text/event-stream\r\nContent-Encoding: gzip"},
            DataError,
            "answers 200 OK, with Content-Encoding gzip, which was not asked for and may expand without bound",
        ),
        ({"status": "404 Not Found", "kind": "text/plain\r\nContent-Encoding: gzip"}, PlanError, "answers 404 Not Found; "),
        ({"status": "206 Partial Content"}, DataError, "answers 206 Partial Content, text/event-stream, not text/event-stream"),
    ],
)
def test_what_is_no_stream_is_refused(log: SqliteLog, scripted: Callable[..., Scripted], options: Any, error: type[Exception], says: str) -> None:
    source = scripted(b"id: 1\ndata: 1\n\n", **options)
    with pytest.raises(error) as caught:
        bridge(log, source.url)
    assert str(caught.value).startswith(f"{source.url}: {says}")
    assert len(source.asked) == 1, "asking again would not help"


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://x/y", "http://", "http:///x", "http://h:99999/", "http://h:x/", "http://h:0/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(PlanError, match="FROM: cannot be bridged from"):
        source_of(url)


def test_another_source_is_refused_until_it_begins_anew(log: SqliteLog, server: Server) -> None:
    one, other = server.url("count=5&rate=0"), server.url("count=3&rate=0&seed=1")
    bridge(log, one)
    with pytest.raises(PlanError) as caught:
        bridge(log, other)
    assert str(caught.value).startswith(f"topic {TOPIC!r}: has been bridged from {one}, up to event 4; give that address, or begin")
    assert bridge(log, other, anew=True) == 3
    assert values(log) == [expected(5) + expected(3, 1)]


def test_a_password_is_sent_to_the_source_and_told_to_no_one(log: SqliteLog, scripted: Callable[..., Scripted]) -> None:
    source = scripted(b"id: 1\ndata: 1\n\n", b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\nno")
    told: list[str] = []
    with pytest.raises(PlanError) as caught:
        bridge(log, source.url.replace("//", "//me:secret@"), told=told.append)
    assert not any("secret" in one for one in told)
    assert str(caught.value) == f"{source.url}: answers 401 Unauthorized: no; fix the address"
    assert "authorization: Basic bWU6c2VjcmV0" in source.asked[0].replace("Authorization", "authorization")
    assert b"secret" not in (log.manifest(f"bridge:{TOPIC}") or b"")


def test_two_bridges_into_one_topic_are_one_too_many(log: SqliteLog, server: Server) -> None:
    with closing(Ingest(log, source(server.url()), TOPIC)), pytest.raises(EnvironmentFault, match="is run by process"):
        Ingest(log, source(server.url()), TOPIC)


# as a process that is killed


def start(url: str, to: str, *options: str) -> Forked:
    return started("bridge", url, to, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_again_and_again(url: str, to: str, options: Sequence[str], dice: random.Random, kills: int) -> int:
    """Run the bridge to the end of the stream, killing it at random moments after it has begun, and return how often it was."""
    killed = 0
    for _ in range(50):
        process = start(url, to, *options)
        assert process.stdout is not None
        with process:
            assert process.stdout.readline().startswith("headrace bridge: "), process.stderr and process.stderr.read()
            try:
                process.wait(dice.uniform(0.05, 0.7) if killed < kills else LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
            else:
                assert process.returncode == 0, process.stderr and process.stderr.read()
                return killed
    raise AssertionError("the stream did not end")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 9))])
def test_kill_9_at_any_moment_loses_and_repeats_nothing(log: SqliteLog, server: Server, seed: int) -> None:
    killed = kill_again_and_again(server.url("count=6000&rate=1500"), f"topic:{TOPIC}", (), random.Random(seed), 6)
    assert killed >= 3
    assert values(log) == [expected(6000)]


@pytest.mark.parametrize("point", ["commit.begun", "commit.manifest", "commit.output", "commit.cursors", "commit.done"])
def test_kill_9_at_each_step_of_a_commit_loses_and_repeats_nothing(
    log: SqliteLog, server: Server, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url("count=3000&rate=3000")
    monkeypatch.setenv("HEADRACE_KILL_AT", f"{point}:3")
    with start(url, f"topic:{TOPIC}") as process:
        assert process.wait(LIMIT) == -signal.SIGKILL
    came = len(values(log)[0])
    assert 0 < came < 3000
    monkeypatch.delenv("HEADRACE_KILL_AT")
    assert bridge(log, url) == 3000 - came
    assert values(log) == [expected(3000)]


def test_on_kafka_cuts_kills_and_restarts_lose_and_repeat_nothing(kafka: Shared, home: Path, server: Server) -> None:
    from headrace.topics.kafka import KafkaLog

    topic, dice = f"scada-{uuid.uuid4().hex}", random.Random(7)
    cutting = Cutting(server.port, [dice.randrange(1, 60_000) for _ in range(15)])
    with closing(KafkaLog(kafka.servers, home)) as log, closing(cutting):
        log.create(topic, 3)
        url = f"http://127.0.0.1:{cutting.port}/generator/stream?count=6000&rate=1500"
        options = ("--kafka-servers", kafka.servers, "--key", "GeneratorID")
        assert kill_again_and_again(url, f"kafka:{topic}", options, dice, 5) >= 3
        found = values(log, topic)
    place = {line: number for number, line in enumerate(expected(6000))}
    assert sorted(place[line] for lines in found for line in lines) == list(range(6000))
    assert all([place[line] for line in lines] == sorted(place[line] for line in lines) for lines in found)
    assert sum(bool(lines) for lines in found) > 1


def test_sigterm_ends_it_well_and_it_says_how_far_it_came(log: SqliteLog, server: Server) -> None:
    process = start(server.url("rate=200"), f"topic:{TOPIC}")
    give_up_at = time.monotonic() + LIMIT
    while (not log.topics() or not log.topic(TOPIC).partitions[0].end) and time.monotonic() < give_up_at:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=180)
    count = len(values(log)[0])
    assert (process.returncode, values(log)) == (0, [expected(count)])
    assert out == f"headrace bridge: {server.url('rate=200')} → topic:{TOPIC}, from the first event\n"
    assert err == f"headrace: {count:,} records brought over; the last is event {count - 1}\n"


@pytest.mark.usefixtures("home")
def test_sigterm_ends_it_while_it_waits_for_the_source() -> None:
    with start(Server().url(), f"topic:{TOPIC}") as process:
        assert process.stderr is not None
        assert "connection refused; asked again until it answers" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gopher://x/y", "topic:t"], "FROM: cannot be bridged from 'gopher://x/y'; give an address such as http://"),
        (["http://h/x", "t"], "TO: cannot be bridged to 't'; give topic:NAME or kafka:NAME"),
        (["http://h/x", "topic:t", "--records", "0"], "--records: is 0; give 1 or more"),
        (["http://h/x", "topic:t", "--duration", "soon"], "--duration: 'soon' is not a duration"),
        (["http://h/x", "topic:t", "--give-up-after", "soon"], "--give-up-after: 'soon' is not a duration"),
        (["http://h/x", "kafka:t", "--kafka-servers", "h"], "--kafka-servers: 'h' is not HOST:PORT"),
    ],
)
@pytest.mark.usefixtures("home")
def test_wrong_use_is_said(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridge", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"headrace: {says}")
