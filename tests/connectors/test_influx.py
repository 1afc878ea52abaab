"""InfluxDB out: every record is a point once, or a dead letter. Against VictoriaMetrics, and a server that answers as InfluxDB does."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import signal
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from outside import told_while_away
from test_influx_lines import parsed
from test_mqtt import came
from test_mqtt_out import fill
from test_opc_security import certificate

from forking import Forked, started
from headrace.cli import main
from headrace.cli.bridge import target_of
from headrace.connectors.forward import Forward
from headrace.connectors.influx import Points
from headrace.connectors.progress import ledger_of
from headrace.connectors.protocol import Record, Unavailable
from headrace.errors import EnvironmentFault, PlanError
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from ports import free_port
from victoria import LIMIT, Victoria, victoria
from waiting import wait_for

__all__ = ["victoria"]

NAMED = "org=scada&bucket=processed_data"
Answer = tuple[int, dict[str, str], dict[str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("URL", "ORG", "BUCKET", "TOKEN", "ALERT_BUCKET"):
        monkeypatch.delenv(f"INFLUXDB_{name}", raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def log(home: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(home / "log.db")) as one:
        yield one


class Influx:
    """Answers writes as the API of InfluxDB 2 says: it takes a batch but the points with a conflict of types, and says which one it was."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, tuple[tuple[str, str], ...], int], dict[str, Any]] = {}
        self.types: dict[tuple[str, str], type] = {}
        self.requests: list[tuple[str, dict[str, str], int]] = []
        self.answer: Callable[[int], Answer | None] = lambda _: None
        self.port = 0

    def write(self, body: str) -> Answer:
        conflict = None
        for line in filter(None, body.split("\n")):
            measurement, tags, fields, at = parsed(line)
            for name, value in fields.items():
                if self.types.setdefault((measurement, name), type(value)) is not type(value):
                    conflict = f'partial write: field type conflict: input field "{name}" on measurement "{measurement}" is of another type'
                    break
            else:
                self.points.setdefault((measurement, tuple(sorted(tags.items())), at), {}).update(fields)
        return (204, {}, {}) if conflict is None else (422, {}, {"code": "unprocessable entity", "message": conflict})

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[Influx]:
        influx = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                influx.requests.append((self.path, dict(self.headers.items()), body.count(b"\n") + 1))
                status, headers, content = influx.answer(len(influx.requests)) or influx.write(body.decode())
                text = json.dumps(content).encode() if content else b""
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def address(self, query: str = "") -> str:
        return f"influx://127.0.0.1:{self.port}?{NAMED}{f'&{query}' if query else ''}"


@pytest.fixture
def influx() -> Iterator[Influx]:
    with Influx().running() as one:
        yield one


def send(log: Log, topic: str, address: str) -> list[str]:
    told: list[str] = []
    with closing(Forward(log, topic, target_of(address), f"forward:{topic}:influx", latest=True, told=told.append)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    return told


def test_the_points_of_the_water_plant_are_in_its_buckets(log: SqliteLog, influx: Influx, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"URL": f"http://127.0.0.1:{influx.port}", "ORG": "scada", "BUCKET": "processed_data", "TOKEN": "mytoken"}.items():
        monkeypatch.setenv(f"INFLUXDB_{name}", value)
    monkeypatch.setenv("INFLUXDB_ALERT_BUCKET", "alerts")
    t = 1574649591000000000
    fill(log, "processed", {"t_stamp": str(t), "P1": "100.5", "P1_STATE": "Open", "avg_pressure": 99.35, "data_type": "normal", "severity": "low"})
    fill(log, "alerts", {"alert_id": "ALERT_000001", "timestamp": str(t), "sensor_data": {"P1": 100.5}, "severity": "high", "active": 1})
    send(log, "processed", "influx:?measurement=scada_data&time=t_stamp&time_unit=ns&tags=data_type,severity")
    send(
        log,
        "alerts",
        "influx:?bucket=${INFLUXDB_ALERT_BUCKET}&measurement=scada_alerts&time=timestamp&time_unit=ns&tags=severity&integers=active",
    )
    assert influx.points == {
        ("scada_data", (("data_type", "normal"), ("severity", "low")), t): {"P1": "100.5", "P1_STATE": "Open", "avg_pressure": 99.35},
        ("scada_alerts", (("severity", "high"),), t): {"alert_id": "ALERT_000001", "sensor_data.P1": 100.5, "active": (1,)},
    }
    assert [path for path, _, _ in influx.requests] == [
        "/api/v2/write?org=scada&bucket=processed_data&precision=ns", "/api/v2/write?org=scada&bucket=alerts&precision=ns",
    ]  # fmt: skip
    assert {headers["Authorization"] for _, headers, _ in influx.requests} == {"Token mytoken"}


def test_a_record_that_cannot_be_a_point_is_a_dead_letter(log: SqliteLog, victoria: Victoria) -> None:
    good = [{"time": 1700000000000 + number, "tag": f"kiln {number % 3}", "value": number / 4, "q": None} for number in range(300)]
    fill(log, "in", *good[:100], b"[1]", {"tag": "a", "value": 1}, {"time": 1, "tag": "a", "value": None}, *good[100:])
    told = send(log, "in", f"{victoria.address}?{NAMED}&tags=tag&measurement=m")
    assert [one["detail"] for one in came(log, 3, "in.dead-letter")] == [
        "is not a JSON object", "has no time: nothing is in 'time'", "has no field: all of them are null, tags or the time",
    ]  # fmt: skip
    assert len(told) == 3
    assert ledger_of(log.manifest("forward:in:influx") or b"") == {"in": {"received": 303, "accepted": 300, "refused": 3}}
    assert victoria.series() == {
        (("__name__", "m_value"), ("tag", f"kiln {tag}")): [(one["time"], one["value"]) for one in good[tag::3]] for tag in range(3)
    }


def test_texts_are_escaped_as_a_real_server_reads_them(log: SqliteLog, victoria: Victoria) -> None:
    tags = ["a b", "a,b", "a=b", '"', 'a"b', "é", "a\\b", "#x", "x" * 200]
    records = [{"time": 1700000000000, "tag": tag, "text": tag, "f=1,": 1.5} for tag in tags]
    for zipped in ("yes", "no"):
        fill(log, zipped, *records)
        send(log, zipped, f"{victoria.address}?{NAMED}&tags=tag&measurement=a%20b,{zipped}&gzip={zipped}")
    found = victoria.series()
    for zipped in ("yes", "no"):
        for tag in tags:
            assert found[("__name__", f"a b,{zipped}_f=1,"), ("tag", tag)] == [(1700000000000, 1.5)]


def test_a_conflict_of_types_names_the_record_and_its_neighbours_are_written(log: SqliteLog, influx: Influx) -> None:
    records: list[dict[str, Any]] = [{"time": number, "value": 1.5} for number in range(100)]
    records[37]["value"], records[71]["value"] = "off", True
    fill(log, "in", *records)
    told = send(log, "in", influx.address())
    assert sorted(at // 10**6 for _, _, at in influx.points) == [number for number in range(100) if number not in {37, 71}]
    letters = came(log, 2, "in.dead-letter")
    assert [json.loads(one["raw"])["time"] for one in letters] == [37, 71]
    assert letters[0]["detail"] == (
        'the server answers 422 Unprocessable Entity: partial write: field type conflict: input field "value" on measurement "in" is of another type'
    )
    assert len(told) == 2


def test_a_batch_that_is_too_large_for_the_server_is_divided(log: SqliteLog, influx: Influx) -> None:
    influx.answer = lambda _: (413, {}, {"message": "too large"}) if influx.requests[-1][2] > 3 else None
    fill(log, "in", *({"time": number, "value": 1.5} for number in range(20)))
    assert send(log, "in", influx.address()) == []
    assert sorted(at // 10**6 for _, _, at in influx.points) == [*range(20)]


@pytest.mark.usefixtures("quick")
def test_a_busy_server_is_waited_for_and_left_alone_as_long_as_it_says(log: SqliteLog, influx: Influx) -> None:
    influx.answer = lambda number: (429, {"Retry-After": "1"}, {"code": "too many requests", "message": "limit"}) if number == 1 else None
    fill(log, "in", {"time": 1, "v": 1})
    told = send(log, "in", influx.address())
    assert told == [f"influx://127.0.0.1:{influx.port}?{NAMED}: answers 429 Too Many Requests: limit; tried again until it answers"]
    assert len(influx.requests) == 2
    assert len(influx.points) == 1


@pytest.mark.parametrize("said", ["1", formatdate(4e9, usegmt=True), "soon", "-1", "9" * 5000, "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_no_request_is_made_before_the_server_asked_for_it(influx: Influx, said: str) -> None:
    influx.answer = lambda _: (503, {"Retry-After": said}, {})
    target = target_of(influx.address())
    record = Record("in", 0, 0, 0, None, b'{"time":1,"v":1}')

    async def run() -> None:
        for _ in range(2):
            with pytest.raises(Unavailable, match="answers 503 Service Unavailable"):
                await target.send([record])
        await target.close()

    asyncio.run(asyncio.wait_for(run(), LIMIT))
    assert len(influx.requests) == (2 if said in {"soon", "-1", "Mon, 99 Foo 2026 00:00:00 GMT"} else 1)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "answers 401 Unauthorized: unauthorized access; give a token that it knows: export INFLUXDB_TOKEN=…, or token_file=FILE"),
        (403, "answers 403 Forbidden: unauthorized access; give a token that may write into this bucket"),
        (404, "answers 404 Not Found: unauthorized access; check org= and bucket=, and that the server is InfluxDB 2; create the bucket if there"),
        (200, "answers 200 OK: unauthorized access; is it the address of InfluxDB's write API? It answers 204"),
        (301, "answers 301 Moved Permanently: unauthorized access; is it the address of InfluxDB's write API? It answers 204"),
    ],
)
def test_a_wrong_set_up_ends_with_one_line_and_the_next_run_resumes(
    log: SqliteLog, influx: Influx, capsys: pytest.CaptureFixture[str], status: int, says: str
) -> None:
    influx.answer = lambda _: (status, {}, {"code": "unauthorized", "message": "unauthorized access"})
    fill(log, "in", {"time": 1, "v": 1})
    command = ["bridge", "topic:in", influx.address("token=geheim"), "--until", "latest"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert f"influx://127.0.0.1:{influx.port}?{NAMED}: {says}" in err
    assert err.count("\n") == 1
    influx.answer = lambda _: None
    assert main(command) == 0
    assert len(influx.points) == 1
    out = capsys.readouterr()
    assert "geheim" not in out.out + out.err + err + str(log.manifest("forward:in:influx"))


def test_tls(log: SqliteLog, tmp_path: Path) -> None:
    certificate(tmp_path, "server")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server-key.pem")
    fill(log, "in", {"time": 1, "v": 1})
    with Influx().running(tls) as influx:
        address = f"influxs://localhost:{influx.port}?{NAMED}"
        assert "its certificate is not accepted: self" in told_while_away(log, "in", target_of(address))[0]
        another = target_of(f"{address.replace('localhost', '127.0.0.1')}&ca={tmp_path}/server.pem")
        assert "its certificate is for another host" in told_while_away(log, "in", another)[0]
        send(log, "in", f"{address}&ca={tmp_path}/server.pem")
        assert len(influx.points) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [500, 502, 504, 408])
def test_another_fault_of_the_server_is_waited_for(log: SqliteLog, influx: Influx, status: int) -> None:
    influx.answer = lambda number: (status, {}, {}) if number < 4 else None
    fill(log, "in", {"time": 1, "v": 1})
    assert len(send(log, "in", influx.address())) == 1
    assert len(influx.points) == 1


@pytest.mark.usefixtures("quick")
def test_an_answer_that_cannot_be_decoded_is_waited_for(log: SqliteLog, influx: Influx) -> None:
    influx.answer = lambda number: (422, {"Content-Encoding": "gzip"}, {"message": "x"}) if number < 3 else None
    fill(log, "in", {"time": 1, "v": 1})
    assert len(send(log, "in", influx.address())) == 1
    assert len(influx.points) == 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("influx:?org=o&bucket=b", "TO: has no host; export INFLUXDB_URL=http://127.0.0.1:8086"),
        ("influx://h?bucket=b", "TO: names no org; give org=NAME, or export INFLUXDB_ORG=NAME"),
        ("influx://h?org=o", "TO: names no bucket"),
        ("influx://h?org=o&bucket=${NO_BUCKET}", "TO: the variable NO_BUCKET is not set"),
        ("influx://u:p@h?org=o&bucket=b", "TO: is not the address of an InfluxDB"),
        ("influx+x://h?org=o&bucket=b", "TO: is not the address of an InfluxDB"),
        ("influx://h?org=o&bucket=b&tag=x", "TO: has no parameter 'tag'; did you mean 'tags'?"),
        ("influx://h?org=o&bucket=b&tags=a,,b", "TO: parameter tags is 'a,,b'"),
        ("influx://h?org=o&bucket=b&tags=a,a", "TO: parameter tags is 'a,a'"),
        ("influx://h?org=o&bucket=b&tags=time", "TO: parameter tags has 'time', which is the time"),
        ("influx://h?org=o&bucket=b&tags=a&fields=a", "TO: parameter tags has 'a', which is also in fields"),
        ("influx://h?org=o&bucket=b&fields=_field", "TO: parameter fields has '_field'"),
        ("influx://h?org=o&bucket=b&integers=time", "TO: parameter integers has 'time', which is no field"),
        ("influx://h?org=o&bucket=b&measurement=%23x", "TO: parameter measurement is '#x'"),
        ("influx://h?org=o&bucket=b&measurement=a%5C", "TO: a parameter has a backslash"),
        ("influx://h?org=o&bucket=b&time_unit=m", "TO: parameter time_unit is 'm'"),
        ("influx://h?org=o&bucket=b&token=a&token_file=b", "TO: has parameters token and token_file"),
        ("influx://h?org=o&bucket=b&token_file=/no/file", "/no/file: cannot be read"),
        ("influx://h?org=o&bucket=b&token=%0A", "TO: the token has characters that no token has"),
        ("influx://h?org=o&bucket=b&ca=x", "TO: parameter ca is only for TLS"),
        ("influxs://h?org=o&bucket=b&ca=/no/file", "/no/file: cannot be read: No such file or directory"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_wrong_address_is_one_line(address: str, says: str) -> None:
    with pytest.raises((PlanError, EnvironmentFault)) as raised:
        target_of(address)
    assert says in str(raised.value)


@pytest.mark.usefixtures("home")
def test_a_wrong_variable_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("influxdb:8086", "tcp://h:1", "http://", "http://u:p@h"):
        monkeypatch.setenv("INFLUXDB_URL", url)
        with pytest.raises(PlanError, match=r"INFLUXDB_URL: is not (an|the) address.*; give an address such as http://127.0.0.1:8086"):
            target_of(f"influx:?{NAMED}")


@pytest.mark.usefixtures("home")
def test_where_lines_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(address: str) -> tuple[str, str, str | None]:
        one = target_of(address)
        assert isinstance(one, Points)
        return one.name, one._url.partition("/api")[0], one._headers.get("Authorization")

    (tmp_path / "token").write_text("t1\n")
    assert of(f"influx://h?{NAMED}&token_file={tmp_path}/token") == (f"influx://h:8086?{NAMED}", "http://h:8086", "Token t1")
    assert of(f"influxs://h/db?{NAMED}") == (f"influxs://h:443/db?{NAMED}", "https://h:443/db", None)
    monkeypatch.setenv("INFLUXDB_TOKEN", "t2")
    monkeypatch.setenv("INFLUXDB_URL", "https://[::1]:9/")
    assert of(f"influx:?{NAMED}") == (f"influxs://[::1]:9?{NAMED}", "https://[::1]:9", "Token t2")
    assert of("influx://h:1?org=a b&bucket=c%26d&token=${INFLUXDB_TOKEN}x")[0::2] == ("influx://h:1?org=a%20b&bucket=c%26d", "Token t2x")


def test_a_server_that_is_away_is_waited_for(log: SqliteLog) -> None:
    fill(log, "in", {"time": 1, "a": 1})
    away = f"influx://127.0.0.1:{free_port()}?{NAMED}"
    assert told_while_away(log, "in", target_of(away)) == [f"{away}: connection refused; tried again until it answers"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
def test_nothing_is_lost_or_twice_when_the_bridge_is_killed_and_the_server_restarts(log: SqliteLog, victoria: Victoria, seed: int) -> None:
    dice, count = random.Random(seed), 40_000
    records = [{"time": 1700000000000 + number, "tag": f"t{number % 7}", "value": number / 8} for number in range(count)]
    fill(log, "in", *records)

    def bridge() -> Forked:
        command = ["bridge", "topic:in", f"{victoria.address}?{NAMED}&tags=tag&measurement=m"]
        return started(*command, stderr=subprocess.DEVNULL)

    def sent() -> int:
        return next((cursor.offset for cursor in log.cursors() if cursor.group == "forward:in:influx"), 0)

    process = bridge()
    try:
        for fault in dice.sample(["kill", "restart", "pause", "kill"], 4):
            goal = min(sent() + dice.randrange(1, 8000), count)
            wait_for(lambda goal=goal: sent() >= goal, "records are sent", seconds=LIMIT, every=0.002)
            if fault == "kill":
                process.kill()
                process.wait()
                process = bridge()
            elif fault == "restart":  # SIGTERM: VictoriaMetrics says that it has records before they are in its files
                victoria.end(signal.SIGTERM)
                victoria.start()
            else:
                process.send_signal(signal.SIGSTOP)
                victoria.end(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)
                victoria.start()
        wait_for(lambda: sent() == count, "all records are sent", seconds=LIMIT)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()
    assert victoria.series() == {
        (("__name__", "m_value"), ("tag", f"t{tag}")): [(one["time"], one["value"]) for one in records[tag::7]] for tag in range(7)
    }
    assert ledger_of(log.manifest("forward:in:influx") or b"") == {"in": {"received": count, "accepted": count, "refused": 0}}


def test_redelivery_changes_nothing_and_a_second_record_of_a_point_replaces_its_fields(log: SqliteLog, influx: Influx) -> None:
    fill(log, "in", {"time": 1, "tag": "a", "v": 1.5, "w": 1}, {"time": 1, "tag": "a", "v": 2.5}, {"time": 1, "tag": "b", "v": 3})
    send(log, "in", influx.address("tags=tag"))
    points = {("in", (("tag", "a"),), 10**6): {"v": 2.5, "w": 1.0}, ("in", (("tag", "b"),), 10**6): {"v": 3.0}}
    assert influx.points == points
    with closing(Forward(log, "in", target_of(influx.address("tags=tag")), "forward:in:influx", latest=True, anew=True)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    assert influx.points == points
    assert len(influx.requests) == 2
    assert re.fullmatch(r"influx://127\.0\.0\.1:\d+\?org=scada&bucket=processed_data", target_of(influx.address("tags=tag")).name)
