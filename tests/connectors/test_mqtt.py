"""MQTT in: every message at QoS 1 is in the topic, acknowledged after its commit, whatever becomes of broker, connection or bridge."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import socket
import subprocess
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outside import values_of

from broker import authority, signed
from forking import Forked, started
from headrace.cli import main
from headrace.cli.bridge import source_of
from headrace.connectors import mqtt_wire
from headrace.connectors.address import Address
from headrace.connectors.ingest import Ingest
from headrace.connectors.mqtt_client import Connection, connect
from headrace.connectors.mqtt_server import Server
from headrace.connectors.payloads import PARAMETERS, shape_of
from headrace.connectors.progress import ledger_of
from headrace.connectors.protocol import Unavailable
from headrace.errors import HeadraceError
from headrace.topics.sqlite import SqliteLog
from mosquitto import LIMIT, Mosquitto, environment, found, missing, mosquitto
from ports import free_port
from waiting import wait_for

__all__ = ["mosquitto"]


def bridge(log: SqliteLog, address: str, topic: str = "t", stop: Callable[[], bool] = lambda: False, **options: Any) -> list[str]:
    """Run a bridge to its end, and return what it told."""
    told: list[str] = []
    limits = {name: options.pop(name) for name in ("duration", "records") if name in options}
    with closing(Ingest(log, source_of(address), topic, **({"patience": 10.0, "told": told.append} | options))) as one:
        asyncio.run(asyncio.wait_for(one.run(stop, **limits), LIMIT))
    return told


def another(log: SqliteLog) -> SqliteLog:
    """Open a log once more: one thread at a time may use one."""
    return SqliteLog(log.path)


@contextmanager
def bridging(
    log: SqliteLog, broker: Mosquitto, address: str, topic: str = "t", *, own: Callable[[SqliteLog], SqliteLog] = another
) -> Iterator[list[str]]:
    """Run a bridge in another thread, with a log that `own` gives, from when it has subscribed to the end of the block; gives what it told."""
    done, told, failed = threading.Event(), list[str](), list[BaseException]()

    def run() -> None:
        try:
            with closing(own(log)) as mine:
                told.extend(bridge(mine, address, topic, done.is_set))
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    count = broker.log.count("Sending SUBACK")
    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: failed or broker.log.count("Sending SUBACK") > count, "the bridge subscribes", seconds=LIMIT)
        yield told
    finally:
        done.set()
        thread.join(LIMIT)
        if failed:
            raise failed[0]


def came(log: SqliteLog, count: int, topic: str = "t") -> list[Any]:
    """Wait until a topic has so many records, and return them."""

    def there() -> bool:
        infos = {info.name: info for info in log.topics()}
        return topic in infos and sum(one.end for one in infos[topic].partitions) >= count

    wait_for(there, f"{count} records in {topic}", seconds=LIMIT)
    return [json.loads(value) for value in values_of(log, topic)]


# what comes


def test_messages_are_records_and_what_cannot_be_one_is_a_dead_letter(log: SqliteLog, mosquitto: Mosquitto) -> None:
    with bridging(log, mosquitto, f"{mosquitto.address}/plant/#") as told:
        mosquitto.publish("plant/1", '{"a": 1}', '{"a": ', "[1]", "", '{"b": "é"}')
        mosquitto.publish("plant/2", b'{"a":\n 2}')
        mosquitto.publish("plant/3", b"\xff\xfe")
        mosquitto.publish("other", '{"a": 3}')
        mosquitto.publish("plant/4", '{"a": 4}', qos=0)
        came(log, 4)
        letters = came(log, 4, "t.dead-letter")
    assert values_of(log, "t") == [b'{"a": 1}', '{"b": "é"}'.encode(), b'{"a":\r 2}', b'{"a": 4}']
    assert [(one["detail"].partition(": Input")[0], one.get("raw", one.get("raw_base64"))) for one in letters] == [
        ("plant/1: is not JSON", '{"a": '), ("plant/1: is not a JSON object", "[1]"), ("plant/1: is not JSON", ""), ("plant/3: is not UTF-8", "//4="),
    ]  # fmt: skip
    assert {(one["pipeline"], one["topic"], one["reason"], one["offset"]) for one in letters} == {("bridge:t", "t", "malformed", None)}
    (counts,) = ledger_of(log.manifest("bridge:t") or b"").values()
    assert counts == {"received": 8, "accepted": 4, "malformed": 4, "duplicate": 0}
    assert len(told) == 4


def test_the_topic_and_the_time_of_arrival_can_be_fields(log: SqliteLog, mosquitto: Mosquitto) -> None:
    with bridging(log, mosquitto, f"{mosquitto.address}/plant/+/data?topic_field=topic&arrival_field=came"):
        mosquitto.publish("plant/7/data", '{"a": 1, "topic": "mine"}')
        (record,) = came(log, 1)
    assert (record["a"], record["topic"]) == (1, "plant/7/data")
    assert record["came"] > 1_700_000_000_000


def test_readings_have_tag_time_value_quality_and_unit(log: SqliteLog, mosquitto: Mosquitto) -> None:
    query = "as=reading&tag={2}/{$.plc}/{*}&value=$.variables.*.value&unit=$.variables.*.unit&time=$.timestamp&time_unit=s&quality=$.variables.*.q"
    with bridging(log, mosquitto, f"{mosquitto.address}/plant/+/data?{query}"):
        variables = {"speed": {"value": 1500.5, "unit": "RPM"}, "oil": {"value": None}, "state": {"value": "ON", "q": "uncertain"}}
        mosquitto.publish("plant/kiln/data", json.dumps({"plc": "p1", "timestamp": 1_706_123_400.25, "variables": variables}))
        found = came(log, 3)
    known = [(one["tag"], one["time"], one["source_time"], one["value"], one["quality"], one["unit"]) for one in found]
    at = 1_706_123_400_250
    assert known == [
        ("kiln/p1/speed", at, at, 1500.5, 0, "RPM"),
        ("kiln/p1/oil", at, at, None, 0x809B0000, None),
        ("kiln/p1/state", at, at, "ON", 0x40000000, None),
    ]
    assert [entry.key for entry in log.entries("t", 0, 0, 3)] == [b"kiln/p1/speed", b"kiln/p1/oil", b"kiln/p1/state"]


def test_a_message_of_many_readings_is_acknowledged_once(log: SqliteLog, mosquitto: Mosquitto) -> None:
    with bridging(log, mosquitto, f"{mosquitto.address}/m?as=reading&value=$.*"):
        mosquitto.publish("m", '{"a": 1, "b": 2, "c": 3}', "{}", '{"d": 4}')
        came(log, 4)
        wait_for(lambda: mosquitto.log.count("Received PUBACK from headrace") >= 3, "acknowledgements", seconds=LIMIT)
    assert mosquitto.log.count("Received PUBACK from headrace") == 3


def test_a_message_is_acknowledged_after_its_commit(log: SqliteLog, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list[int]()

    class Watched:
        def __init__(self, claim: Any) -> None:
            self._claim = claim

        def __getattr__(self, name: str) -> Any:
            return getattr(self._claim, name)

        def commit(self, commit: Any) -> None:
            before.append(mosquitto.log.count("Received PUBACK from headrace"))
            self._claim.commit(commit)

    def watched(log: SqliteLog) -> SqliteLog:
        one = another(log)
        claim = one.claim
        monkeypatch.setattr(one, "claim", lambda name: Watched(claim(name)))
        return one

    with bridging(log, mosquitto, f"{mosquitto.address}/m?window=5", own=watched):
        mosquitto.publish("m", *(f'{{"number": {number}}}' for number in range(23)))
        found = came(log, 23)
    assert [one["number"] for one in found] == [*range(23)]
    done = 0
    for acknowledged in before:
        assert acknowledged <= done, "no more than what was committed before"
        done += 5


def test_retained_messages_come_once_or_not_at_all(log: SqliteLog, mosquitto: Mosquitto) -> None:
    mosquitto.publish("m/1", '{"retained": 1}', retain=True)
    for version in ("5", "3.1.1"):
        for retained in ("yes", "no"):
            topic = f"{version[0]}{retained}"
            address = f"{mosquitto.address}/m/+?version={version}&retained={retained}&client_id={topic}"
            with bridging(log, mosquitto, address, topic):
                mosquitto.publish("m/2", '{"live": 1}')
                came(log, 2 if retained == "yes" else 1, topic)
            with bridging(log, mosquitto, address, topic):
                mosquitto.publish("m/2", '{"live": 2}')
                wait_for(lambda topic=topic: b'{"live": 2}' in values_of(log, topic), "the second one", seconds=LIMIT)
    assert values_of(log, "5yes") == [b'{"retained": 1}', b'{"live": 1}', b'{"live": 2}']
    assert values_of(log, "5no") == values_of(log, "3no") == [b'{"live": 1}', b'{"live": 2}']
    # A broker of 3.1.1 sends them at each subscription.
    assert Counter(values_of(log, "3yes")) == {b'{"retained": 1}': 2, b'{"live": 1}': 1, b'{"live": 2}': 1}


def test_members_of_a_shared_subscription_part_the_messages(log: SqliteLog, mosquitto: Mosquitto) -> None:
    with (
        bridging(log, mosquitto, f"{mosquitto.address}/m?share=g&client_id=one", "one"),
        bridging(log, mosquitto, f"{mosquitto.address}/m?share=g&client_id=two", "two"),
    ):
        mosquitto.publish("m", *(f'{{"number": {number}}}' for number in range(100)))
        wait_for(lambda: len(values_of(log, "one")) + len(values_of(log, "two")) >= 100, "all", seconds=LIMIT)
    numbers = [json.loads(value)["number"] for topic in ("one", "two") for value in values_of(log, topic)]
    assert sorted(numbers) == [*range(100)]
    assert values_of(log, "one")
    assert values_of(log, "two")


# outages


def test_what_is_published_while_the_bridge_is_away_comes_when_it_is_back(log: SqliteLog, mosquitto: Mosquitto) -> None:
    for version in ("5", "3.1.1"):
        address = f"{mosquitto.address}/m?version={version}&client_id={version}"
        with bridging(log, mosquitto, address, version):
            mosquitto.publish("m", '{"number": 0}')
            came(log, 1, version)
        mosquitto.publish("m", *(f'{{"number": {number}}}' for number in range(1, 50)))
        with bridging(log, mosquitto, address, version):
            found = came(log, 50, version)
        assert [one["number"] for one in found] == [*range(50)]


class Publisher:
    """Publishes numbered messages at QoS 1 until the broker has acknowledged all; a message without acknowledgement is published again, marked so."""

    def __init__(self, broker: Mosquitto, count: int, *, rate: float) -> None:
        self._broker, self._count, self._rate = broker, count, rate
        self.acknowledged: set[int] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._publish()))
        self._thread.start()

    async def _publish(self) -> None:
        server = Server(name="publisher", host="127.0.0.1", port=self._broker.port, client_id="publisher", keepalive=2)
        tries = Counter[int]()
        while len(self.acknowledged) < self._count:
            with suppress(Unavailable):
                one = await connect(server)
                left = [number for number in range(self._count) if number not in self.acknowledged]
                for place in range(0, len(left), 15):
                    part = left[place : place + 15]
                    tries.update(part)
                    payloads = [("m", json.dumps({"number": number, "try": tries[number]}).encode()) for number in part]
                    answers = await asyncio.gather(*one.publishing(payloads, retain=False), return_exceptions=True)
                    self.acknowledged.update(number for number, answer in zip(part, answers, strict=True) if answer in {0, 16})
                    if one.lost:
                        break
                    await asyncio.sleep(len(part) / self._rate)
                one.close()
            await asyncio.sleep(0.02)

    @property
    def published(self) -> int:
        return len(self.acknowledged)

    def join(self) -> None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Leave no bridge behind, however a test ends."""
    yield
    while STARTED:
        one = STARTED.pop()
        one.kill()
        one.communicate()


def start(broker: Mosquitto, query: str = "keepalive=2", errors: Path = Path("errors")) -> Forked:
    command = ["bridge", f"{broker.address}/m?{query}", "topic:t", "--give-up-after", "never"]
    with errors.open("a") as file:
        process = started(*command, stdout=subprocess.PIPE, stderr=file, text=True)
    STARTED.append(process)
    assert process.stdout is not None
    assert "headrace bridge" in process.stdout.readline()
    return process


def check_all_came(log: SqliteLog, count: int) -> None:
    """Wait for all numbers; none was repeated between the broker and the topic, and the ledger balances."""

    def numbers() -> set[int]:
        return {json.loads(value)["number"] for value in values_of(log, "t")}

    wait_for(lambda: len(numbers()) >= count, "all messages", seconds=LIMIT, every=0.3)
    assert numbers() == set(range(count))
    twice = [value for value, times in Counter(values_of(log, "t")).items() if times > 1]
    assert not twice, "a message came into the topic twice"
    (counts,) = ledger_of(log.manifest("bridge:t") or b"").values()
    assert counts["received"] == counts["accepted"] + counts["malformed"] + counts["duplicate"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_kill_9_of_the_bridge_loses_and_repeats_nothing(log: SqliteLog, mosquitto: Mosquitto, version: str, seed: int) -> None:
    dice, count = random.Random(seed), 3000
    process = start(mosquitto, f"version={version}")
    wait_for(lambda: "Sending SUBACK" in mosquitto.log, "the bridge subscribes", seconds=LIMIT)
    publisher = Publisher(mosquitto, count, rate=800)
    for _ in range(3):
        goal = publisher.published + dice.randrange(100, 800)
        wait_for(lambda goal=goal: publisher.published >= min(goal, count), "messages", seconds=LIMIT, every=0.005)
        process.kill()
        process.wait()
        process = start(mosquitto, f"version={version}")
    publisher.join()
    check_all_came(log, count)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
@pytest.mark.parametrize("fault", ["restart", "pause"])
def test_a_broker_that_restarts_or_stands_still_under_load_costs_nothing(log: SqliteLog, mosquitto: Mosquitto, fault: str, seed: int) -> None:
    dice, count, errors = random.Random(seed), 3000, Path("errors")
    start(mosquitto, "keepalive=1")
    wait_for(lambda: "Sending SUBACK" in mosquitto.log, "the bridge subscribes", seconds=LIMIT)
    publisher = Publisher(mosquitto, count, rate=800)
    for _ in range(2):
        goal = publisher.published + dice.randrange(100, 1000)
        wait_for(lambda goal=goal: publisher.published >= min(goal, count), "messages", seconds=LIMIT, every=0.005)
        if fault == "restart":
            mosquitto.end(signal.SIGTERM)  # it saves its sessions; killed, it would lose messages that it has acknowledged
            mosquitto.start()
        else:
            before = mosquitto.log.count("SUBACK to headrace")
            os.kill(mosquitto.pid, signal.SIGSTOP)
            known = len(errors.read_text())

            def noticed(known: int = known) -> bool:
                new = errors.read_text()[known:]
                # On a busy machine it may have been connecting again already.
                return "has been silent" in new or "does not answer" in new

            wait_for(noticed, "the bridge notices", seconds=LIMIT)
            os.kill(mosquitto.pid, signal.SIGCONT)
            wait_for(lambda before=before: mosquitto.log.count("SUBACK to headrace") > before, "the bridge is back", seconds=LIMIT)
    publisher.join()
    check_all_came(log, count)


def test_a_session_that_the_broker_has_forgotten_is_reported(log: SqliteLog, mosquitto: Mosquitto) -> None:
    with bridging(log, mosquitto, f"{mosquitto.address}/m"):
        mosquitto.publish("m", '{"number": 0}')
        came(log, 1)
    mosquitto.end(signal.SIGKILL)
    for path in mosquitto.folder.glob("*.db"):
        path.unlink()
    mosquitto.start()
    with bridging(log, mosquitto, f"{mosquitto.address}/m") as told:
        mosquitto.publish("m", '{"number": 0}')
        assert len(came(log, 2)) == 2, "the same text in another session is another message"
    assert "the broker has forgotten our session" in told[0]


# faults


def said(log: SqliteLog, address: str) -> str:
    with pytest.raises(HeadraceError) as caught:
        bridge(log, address, "other", patience=0.3, anew=True)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_who_refuses_the_connection_is_named(log: SqliteLog) -> None:
    port = free_port()
    text = said(log, f"mqtt://127.0.0.1:{port}/m")
    assert text == f"EnvironmentFault: mqtt://127.0.0.1:{port}/m: connection refused, for 0.3 s; is a broker listening at 127.0.0.1:{port}?"
    assert "not" in said(log, "mqtt://nowhere.invalid/m")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """Return a broker that asks for a password, and lets its user read `open/#`."""
    if (why := missing()) is not None:
        pytest.skip(why)
    folder = tmp_path / "guarded"
    folder.mkdir()
    (folder / "acl").write_text("user plant\ntopic readwrite open/#\n")
    (folder / "users").touch(mode=0o600)
    tool = found("mosquitto_passwd")
    assert tool is not None
    subprocess.run([tool, "-b", folder / "users", "plant", "pass word:7"], check=True, capture_output=True, env=environment())
    one = Mosquitto(folder, [f"password_file {folder}/users", f"acl_file {folder}/acl"], anonymous=False)
    one.start()
    try:
        yield one
    finally:
        one.end()


def test_users_and_passwords(log: SqliteLog, guarded: Mosquitto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = f"127.0.0.1:{guarded.port}"
    for version in ("5", "3.1.1"):
        assert said(log, f"mqtt://{place}/open/a?version={version}").endswith("not authorized; give a user: mqtt://USER:${NAME}@…")
        wrong = said(log, f"mqtt://plant:wrong@{place}/open/a?version={version}")
        assert wrong.startswith(f"PlanError: mqtt://plant@{place}/open/a: refuses the connection: ")
        assert wrong.endswith("check the user before the @, and password_file=FILE or ${NAME}")
    assert "the variable NO_SUCH is not set" in said(log, f"mqtt://plant:${{NO_SUCH}}@{place}/open/a")
    monkeypatch.setenv("SECRET", "pass word:7")
    (tmp_path / "secret").write_text("pass word:7\n")
    for number, (before, after) in enumerate([(":${SECRET}", ""), ("", f"?password_file={tmp_path}/secret"), (":pass%20word:7", "")]):
        address = f"mqtt://plant{before}@{place}/open/a{after}"
        assert source_of(address).name == f"mqtt://plant@{place}/open/a"
        with bridging(log, guarded, address):
            guarded.publish("open/a", "{}", options=["-u", "plant", "-P", "pass word:7"])
            came(log, number + 1)


def test_a_connection_ends_at_once_though_the_broker_stands_still(tmp_path: Path) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    folder = tmp_path / "tls"
    folder.mkdir()
    ca = authority(folder, "ca")
    certificate, key = signed(folder, ca, "server")
    broker = Mosquitto(folder, [f"cafile {ca}", f"certfile {certificate}", f"keyfile {key}"])
    broker.start()

    async def work() -> None:
        one = await connect(Server(name="one", host="127.0.0.1", port=broker.port, client_id="one", tls=True, ca=str(ca)))
        os.kill(broker.pid, signal.SIGSTOP)
        one.close()

    try:
        with warnings.catch_warnings(record=True) as warned:  # a transport that is still open when its loop ends warns when it is collected
            warnings.simplefilter("always")
            asyncio.run(work())
            gc.collect()
    finally:
        broker.end()
    assert [str(one.message) for one in warned] == []


def test_tls(log: SqliteLog, tmp_path: Path) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    folder = tmp_path / "tls"
    folder.mkdir()
    ca, other = authority(folder, "ca"), authority(folder, "other")
    certificate, key = signed(folder, ca, "server")
    mine, my_key = signed(folder, ca, "client")
    more = [f"cafile {ca}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true"]
    plain = Mosquitto(tmp_path / "plain")
    plain.start()
    secure = Mosquitto(folder, more)
    secure.start()
    try:
        address = f"mqtts://127.0.0.1:{secure.port}/m"
        assert "its certificate is not accepted" in said(log, address)
        assert "its certificate is not accepted" in said(log, f"{address}?ca={other}")
        # With TLS 1.3 the broker closes the connection after the handshake, and its reason may be lost then.
        text = said(log, f"{address}?ca={ca}")
        assert "asks for a certificate of ours" in text or "does it ask for a certificate of ours? Give cert=FILE and key=FILE" in text
        assert "cannot be read: No such file" in said(log, f"{address}?ca={folder}/none.pem")
        assert f"mqtts://127.0.0.1:{plain.port}/m: " in said(log, f"mqtts://127.0.0.1:{plain.port}/m")
        assert "connection" in said(log, f"mqtt://127.0.0.1:{secure.port}/m")
        with bridging(log, secure, f"{address}?ca={ca}&cert={mine}&key={my_key}"):
            files = ["--cafile", str(ca), "--cert", str(mine), "--key", str(my_key)]
            secure.publish("m", "{}", options=files)
            came(log, 1)
    finally:
        secure.end()
        plain.end()


class Scripted:
    """A server that answers each connection with the next of some bytes: a CONNACK first, then, when more was asked, the rest. One with none is closed."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"mqtt://127.0.0.1:{self._socket.getsockname()[1]}/m"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, suppress(OSError):
                    self.asked.append(connection.recv(4096))
                    answer = self._answers[min(len(self.asked), len(self._answers)) - 1]
                    length = 2 + answer[1] if answer[:1] == b"\x20" else len(answer)
                    for part in filter(None, (answer[:length], answer[length:])):
                        connection.sendall(part)
                        connection.recv(4096)
                    while answer and connection.recv(65_536):
                        pass

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "closed the connection, for 0.3 s"),
        (b"\xf0\x00", "sends what is not MQTT"),
        (b"\x30\xff\xff\xff\xff\x01", "sends what is not MQTT: a packet's length has five bytes"),
        (b"\x20\x03\x00\x88\x00", "refuses the connection: server unavailable, for 0.3 s"),
        (b"\x20\x03\x00\x85\x00", "refuses the connection: client identifier not valid; give another client_id="),
        (b"\x20\x03\x00\x00\x00\xe0\x02\x8e\x00", "give each a client_id= of its own"),
        (b"\x20\x03\x00\x00\x00\x90\x04\x00\x01\x00\x97", "refuses the topic filter 'm': quota exceeded, for 0.3 s"),
        (b"\x20\x03\x00\x00\x00\x90\x04\x00\x01\x00\x00", "grants only QoS 0 for 'm'; give qos=0"),
        (b"\x20\x03\x00\x00\x00\x90\x04\x00\x01\x00\x87", "not authorized; does the broker allow this user to read it?"),
        (b"\x20\x03\x00\x00\x00\x90\x04\x00\x01\x00\x8f", "topic filter invalid; give another topic filter"),
    ],
)
def test_what_a_broker_answers_is_one_line(log: SqliteLog, answer: bytes, says: str) -> None:
    with closing(Scripted(answer)) as server:
        assert says in said(log, server.address)


def test_a_broker_without_mqtt_5_is_asked_in_3_1_1(log: SqliteLog) -> None:
    with closing(Scripted(b"\x20\x02\x00\x01", b"\x20\x02\x00\x00\x90\x03\x00\x01\x01\x32\x0c\x00\x01m\x00\x07" + b'{"a":1}')) as server:
        bridge(log, server.address, records=1)
        assert [asked[8] for asked in server.asked[:2]] == [5, 4]
    assert values_of(log, "t") == [b'{"a":1}']
    with closing(Scripted(b"\x20\x02\x00\x01")) as server:
        assert said(log, f"{server.address}?version=5").endswith("unsupported protocol version; give version=3.1.1")


def test_a_broker_that_has_more_in_flight_than_it_was_asked_for_repeats_nothing(log: SqliteLog) -> None:
    """Mosquitto 2.0.11 has, when a session is resumed over a backlog."""
    given = [mqtt_wire.publish_packet(b"m", b'{"n": %d}' % mid, mid, retain=False, properties=False) for mid in range(1, 1502)]
    again = [bytes([packet[0] | 8]) + packet[1:] for packet in given[:-1]]  # DUP
    granted = b"\x90\x03\x00\x01\x01"
    with closing(
        Scripted(b"\x20\x02\x00\x00" + granted + b"".join(given[:-1]), b"\x20\x02\x01\x00" + granted + b"".join([*again, given[-1]]))
    ) as server:
        address = f"{server.address}?version=3.1.1&window=1000"
        bridge(log, address, records=1500)
        bridge(log, address, records=1)
    assert values_of(log, "t") == [b'{"n": %d}' % mid for mid in range(1, 1502)]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mqtt://h", "has no topic filter"),
        ("mqtt://h/a/#/b", "has a topic filter with '#' before its end"),
        ("mqtt://h/a+/b", "has a topic filter with level 'a+'; + stands for one whole level"),
        ("mqtt:///a", "is not an address"),
        ("mqtt://h/a?qs=1", "has no parameter 'qs'; did you mean 'qos'?"),
        ("mqtt://h/a?qos=2", "parameter qos is '2'"),
        ("mqtt://h/a?version=4", "give version=5 or version=3.1.1"),
        ("mqtt://h/a?share=g", "parameter share needs client_id"),
        ("mqtt://h/a?ca=x", "parameter ca is only for TLS; give mqtts://…"),
        ("mqtt://u:p@h/a?password_file=x", "has a password, and parameter password_file"),
        ("mqtt://h/a?password_file=/no/such", "/no/such: cannot be read: No such file or directory"),
        ("mqtt://h/a?value=$.x", "parameter value is only for as=reading; leave it out, or give as=reading"),
        ("mqtt://h/a?as=reading&topic_field=x", "parameter topic_field is only for as=json"),
        ("mqtt://h/a?as=reading&value=x.y", "parameter value is 'x.y'; give a path such as"),
        ("mqtt://h/a?as=reading&value=$.*.*", "parameter value is '$.*.*'"),
        ("mqtt://h/a?as=reading&tag={topics}", "parameter tag has {topics}; give {topic}"),
        ("mqtt://h/a?as=reading&value=$.*&tag={1}", "parameter tag needs a {*}"),
        ("mqtt://h/a?as=reading&time=$.*.t", "parameter time has a *, and value has none"),
        ("mqtt://h/a?as=reading&time_unit=sec", "parameter time_unit is 'sec'"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_wrong_address_is_one_line(capsys: pytest.CaptureFixture[str], address: str, says: str) -> None:
    assert main(["bridge", address, "topic:t"]) in {1, 2}
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert "p@h" not in err


# payloads


def shape(query: str) -> Any:
    return shape_of(Address(f"mqtt://h/a?{query}", PARAMETERS, "mqtt://h/a"), lambda _: None)


def reading(query: str, payload: bytes, topic: str = "a/b") -> dict[str, Any] | str:
    (made,) = shape(f"as=reading&{query}")(topic, payload, 1000)
    return made.malformed or json.loads(made.value)


@pytest.mark.parametrize(
    ("query", "payload", "value", "quality"),
    [
        ("", b"21.5", 21.5, 0),
        ("", b"-3", -3, 0),
        ("", b"true", True, 0),
        ("", b"ON", "ON", 0),
        ("", b'"ON"', "ON", 0),
        ("", b"", None, 0x809B0000),
        ("", b"NaN", None, 0x809B0000),
        ("", b"Bad Input", None, 0x809B0000),
        ("", b"null", None, 0x809B0000),
        ("value=$.a[1].b", b'{"a": [0, {"b": 7}]}', 7, 0),
        ("value=$['a b'].c", b'{"a b": {"c": "x"}}', "x", 0),
        ("value=$.a", b"{}", None, 0x809B0000),
        ("value=$.a&quality=$.q", b'{"a": 1, "q": false}', 1, 0x80000000),
        ("value=$.a&quality=$.q", b'{"a": 1, "q": "bad-sensor-failure"}', 1, 0x808C0000),
        ("value=$.a&quality=$.q", b'{"a": 1, "q": 1083179008}', 1, 0x40900000),
        ("value=$.a&quality=$.q", b'{"a": 1, "q": null}', 1, 0),
        ("", b"123456789012345678901234567890", 1.2345678901234568e29, 0),
    ],
)
def test_a_payload_as_a_reading(query: str, payload: bytes, value: Any, quality: int) -> None:
    found = reading(query, payload)
    assert isinstance(found, dict)
    assert (found["tag"], found["value"], found["quality"], found["time"], found["arrival_time"]) == ("a/b", value, quality, 1000, 1000)


@pytest.mark.parametrize(
    ("query", "payload", "time"),
    [
        ("time_unit=ms", b"1706123400250", 1706123400250),
        ("time_unit=s", b"1706123400.25", 1706123400250),
        ("time_unit=ns", b"1706123400250000000", 1706123400250),
        ("time_unit=us", b"1706123400250000", 1706123400250),
        ("time_unit=iso", b'"2024-01-24T19:10:00.250Z"', 1706123400250),
        ("", b'"2024-01-24T20:10:00.250+01:00"', 1706123400250),
        ("", b'"2024-01-24T19:10:00.250"', 1706123400250),
        ("", b"null", None),
        ("", b'"yesterday"', "a/b: the time 'yesterday' is not ISO 8601"),
        ("", b"true", "a/b: the time True is not a time from the year 1 to 9999"),
        ("time_unit=s", b"1706123400250", "a/b: the time 1706123400250 is not a time from the year 1 to 9999"),
        ("time_unit=iso", b"1", "a/b: the time 1 is not a time"),
    ],
)
def test_times_of_readings(query: str, payload: bytes, time: Any) -> None:
    found = reading(f"value=$.v&time=$.t&{query}", b'{"v": 1, "t": ' + payload + b"}")
    if isinstance(time, str):
        assert isinstance(found, str)
        assert found.startswith(time)
    else:
        assert isinstance(found, dict)
        assert (found["source_time"], found["time"]) == (time, 1000 if time is None else time)


def test_what_cannot_be_a_reading_says_why() -> None:
    assert reading("", b'{"a": 1}') == "a/b: the value is an object; value=$.… says where the value is"
    assert reading("value=$.a", b"x") == "a/b: is not JSON: Input data was truncated" or "is not JSON" in reading("value=$.a", b"x")
    assert reading("tag={3}", b"1") == "a/b: the topic has no level 3, which tag= asks for"
    assert reading("tag={$.id}&value=$.v", b'{"v": 1}') == "a/b: there is no text at $.id, which tag= asks for"
    assert reading("value=$.v&quality=$.q", b'{"v": 1, "q": "so-so"}') == "a/b: the quality 'so-so' is none"
    (made,) = shape("max_bytes=5")("a", b'{"a":1}', 0)
    assert (made.value, made.malformed) == (b'{"a":', "a: has 7 bytes, more than 5; the first of them are here")


def test_a_tag_list_says_which_tag_a_message_is(tmp_path: Path) -> None:
    lines = [
        "path,unit,low,high,source,spellings", "site/kiln/oil,CEL,0,90,plc/data#$.oil.value,", "site/kiln/speed,,,,plc/data#$.speed,",
        "site/kiln/level,,0,100,level/1,", "site/kiln/old,,,,,level/2",
    ]  # fmt: skip
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    one = shape(f"as=reading&tags={tmp_path}/tags.csv&time=$.at")

    def found(topic: str, payload: bytes) -> list[tuple[Any, ...]]:
        made = [json.loads(made.value) if made.malformed is None else made for made in one(topic, payload, 5)]
        return [(one["tag"], one["value"], one["quality"], one["unit"], one["time"]) if isinstance(one, dict) else (one.malformed,) for one in made]

    whole = b'{"oil": {"value": 95.5}, "speed": 7, "at": 1000}'
    assert found("plc/data", whole) == [("site/kiln/oil", 95.5, 0x40940000, "CEL", 1000), ("site/kiln/speed", 7, 0, None, 1000)]
    assert found("plc/data", b'{"speed": null}') == [("site/kiln/speed", None, 0x809B0000, None, 5)]
    assert found("plc/data", b"{}") == [("plc/data: has nothing where the tag list looks in this topic: $.oil.value, $.speed",)]
    assert found("level/1", b"101") == [("site/kiln/level", 101, 0x40940000, None, 5)]
    assert found("level/2", b"1") == [("site/kiln/old", 1, 0, None, 5)]
    assert found("level/3", b"1") == [("level/3", 1, 0, None, 5)]


def test_integers_of_hundreds_of_digits_are_bad_values_and_no_times() -> None:
    one, digits = shape("as=reading&value=$.v&time=$.t"), "9" * 400
    (made,) = one("a", f'{{"v": -{digits}, "t": 5}}'.encode(), 5)
    found = json.loads(made.value)
    assert made.malformed is None
    assert found["value"] is None
    assert found["quality"] >> 31
    (made,) = one("a", f'{{"v": 1, "t": {digits}}}'.encode(), 5)
    assert "is not a time from the year 1 to 9999" in (made.malformed or "")


def test_an_empty_unit_is_none_and_of_a_long_one_the_beginning_is_kept(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("path,unit,source\nkiln/oil,CEL,plc/oil\n")
    one = shape(f"as=reading&tags={tmp_path}/tags.csv&value=$.v&unit=$.unit")
    for unit, expected in (("", (1, 0, "CEL")), (" ", (1, 0, "CEL")), (" °C ", (1, 0, "CEL")), ("x" * 1000, (None, 0x80890000, "x" * 200))):
        (made,) = one("plc/oil", json.dumps({"v": 1, "unit": unit}).encode(), 5)
        found = json.loads(made.value)
        assert (found["value"], found["quality"], found["unit"]) == expected


def test_a_unit_that_changes_is_bad_until_it_is_that_of_the_list_again(log: SqliteLog, mosquitto: Mosquitto, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("path,unit,source\nkiln/oil,CEL,plc/oil\nkiln/free,,plc/free\n")
    address = f"{mosquitto.address}/plc/+?as=reading&tags={tmp_path}/tags.csv&value=$.v&unit=$.unit"
    with bridging(log, mosquitto, address) as told:
        messages = [(60, "°C"), (140, "°F"), (141, "degF"), ("Bad Input", "°F"), (61, "degC"), (62, "CEL"), (63, None), (64, "barg")]
        mosquitto.publish("plc/oil", *(json.dumps({"v": value, "unit": unit}) for value, unit in messages))
        mosquitto.publish("plc/free", *(json.dumps({"v": 1, "unit": unit}) for unit in ["bar", "BAR", "psi", "C"]))
        found = came(log, 12)
    good, bad = 0, 0x80890000
    assert [(one["value"], one["quality"], one["unit"]) for one in found if one["tag"] == "kiln/oil"] == [
        (60, good, "CEL"), (None, bad, "FAH"), (None, bad, "FAH"), (None, bad, "FAH"),
        (61, good, "CEL"), (62, good, "CEL"), (63, good, "CEL"), (None, bad, "barg"),
    ]  # fmt: skip
    assert [one["unit"] for one in found if one["tag"] == "kiln/free"] == ["BAR", "BAR", "PS", "C"]
    assert [line.partition("+: ")[2] for line in told] == [
        "kiln/oil comes in FAH (°F), and the list of tags says CEL (°C); its readings are bad and have no value until both agree",
        "kiln/oil comes in CEL (°C) again, as the list of tags says",
        "kiln/oil comes in 'barg', and the list of tags says CEL (°C); its readings are bad and have no value until both agree",
        "kiln/free comes in PS (psi), before in BAR (bar); give its unit in a list of tags to refuse another one",
        "kiln/free comes in 'C', before in PS (psi); give its unit in a list of tags to refuse another one",
    ]


def test_of_many_tags_in_another_unit_only_the_number_is_reported() -> None:
    told: list[str] = []
    one = shape_of(Address("mqtt://h/a?as=reading&value=$.v&unit=$.u", PARAMETERS, "mqtt://h/a"), told.append)
    for number in range(1000):
        for unit in ("bar", "Pa"):
            one(f"t/{number}", b'{"v": 1, "u": "' + unit.encode() + b'"}', 5)
    assert len(told) == 5 + 7 and told[-1].startswith(
        "640 times so far, a tag came in another unit than before or than in the list of tags; the last: t/639 "
    )


QUERIES = [
    "", "topic_field=t&arrival_field=a", "as=reading", "as=reading&value=$.a&time=$.t&quality=$.q&unit=$.u", "as=reading&value=$.*.v&time=$.*.t",
    "as=reading&value=$[*]&tag={1}/{*}", "as=reading&value=$.a[0]&tag={$.t}&time=$.t&time_unit=ns",
]  # fmt: skip
SHAPES = [shape(query) for query in QUERIES]
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "t", "q", "u", "v", "b c"]), inner, max_size=4),
)
PAYLOADS = (
    st.binary(max_size=30) | JSONS.map(lambda value: json.dumps(value).encode()) | st.sampled_from([b"[" * 5000, b'{"a":1e999}', b"\xef\xbb\xbf{}"])
)


@given(st.sampled_from(SHAPES), st.text(max_size=8), PAYLOADS)
def test_any_payload_is_records_or_a_reason(one: Any, topic: str, payload: bytes) -> None:
    for made in one(topic, payload, 1_706_123_400_250):
        if made.malformed is None:
            assert isinstance(json.loads(made.value), dict)
        else:
            assert made.value == payload


# packets

MESSAGES = st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=300), st.integers(0, 0xFFFF), st.booleans(), st.booleans())


@given(st.lists(MESSAGES, max_size=8), st.integers(1, 400))
def test_packets_are_the_same_however_they_are_cut(messages: list[tuple[bytes, bytes, int, bool, bool]], cut: int) -> None:
    sent = [mqtt_wire.publish_packet(topic, payload, mid, retain=retain, properties=v5) for topic, payload, mid, retain, v5 in messages]
    whole, packets, found = b"".join(sent), mqtt_wire.Packets(), []
    for place in range(0, len(whole), cut):
        found += packets.feed(whole[place : place + cut])
    assert [packet for _, _, packet, _ in found] == sent
    for (topic, payload, mid, retain, v5), (first, at, packet, _) in zip(messages, found, strict=True):
        assert mqtt_wire.publish_of(first, at, packet, properties=v5) == (topic, payload, mid, False, retain)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9)), max_size=6), st.integers(1, 500), st.integers(0, 250))
def test_of_a_packet_that_is_too_long_the_beginning_is_kept_and_its_neighbours_are_whole(sizes: list[tuple[int, int]], cut: int, most: int) -> None:
    messages = [(b"topic", bytes([mid]) * size, mid) for size, mid in sizes]
    whole = b"".join(mqtt_wire.publish_packet(topic, payload, mid, retain=False, properties=True) for topic, payload, mid in messages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mqtt_wire, "HEAD_BYTES", 40)
        packets, found = mqtt_wire.Packets(most), list[mqtt_wire.Packet]()
        for place in range(0, len(whole), cut):
            found += packets.feed(whole[place : place + cut])
            assert len(packets._rest) <= max(most, 40) + cut, "no more than that is ever kept"
    for (topic, payload, mid), (first, at, packet, left) in zip(messages, found, strict=True):
        one = mqtt_wire.publish_of(first, at, packet, properties=True, missing=left)
        assert (one.topic, one.mid, len(one.payload) + left) == (topic, mid, len(payload))
        assert payload.startswith(one.payload)
        assert not left or (len(packet) == 40 and len(packet) + left > most)


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="the system decides when it acknowledges")
def test_what_a_broker_sends_is_acknowledged_at_once_since_it_may_wait_for_that() -> None:
    async def asked() -> list[Any]:
        one, calls = Connection(Server(name="mqtt://h", host="h", port=1883, client_id="c")), list[Any]()
        one._socket = SimpleNamespace(setsockopt=lambda *given: calls.append(given))
        one.data_received(b"\xd0")
        return calls

    assert asyncio.run(asked()) == [(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)]


def test_a_flood_of_topics_that_no_tag_has_is_named_a_few_times(tmp_path: Path) -> None:
    """Among them the tag of the list has its readings."""
    (tmp_path / "tags.csv").write_text("path,source,unit\nworks/TT-1,known,CEL\n")
    told = list[str]()
    shape = shape_of(Address(f"mqtt://h/t?as=reading&tags={tmp_path}/tags.csv", PARAMETERS, "mqtt://h/t", "FROM"), told.append)
    found = [shape(topic, b"1.5", 0) for number in range(3000) for topic in (f"stranger/{number}", "known", f"stranger/{number}")]
    assert [made.key for (made,) in found[:3]] == ["stranger/0", "works/TT-1", "stranger/0"]
    assert {made.malformed for (made,) in found} == {None}
    assert [line.partition(" is in no tag")[0] for line in told[:5]] == [f"'stranger/{number}'" for number in range(5)]
    counts = [int(line.split()[0].replace(",", "")) for line in told[5:]]
    assert counts == [10 * 2**power for power in range(9)]


def test_a_message_of_many_megabytes_is_a_dead_letter_with_its_beginning(log: SqliteLog, mosquitto: Mosquitto, tmp_path: Path) -> None:
    size, file = 40 << 20, tmp_path / "large"
    file.write_bytes(b"x" * size)
    publish = [str(found("mosquitto_pub")), "-p", str(mosquitto.port), "-q", "1", "-t", "plant/2", "-f", str(file)]
    with bridging(log, mosquitto, f"{mosquitto.address}/plant/#"):
        mosquitto.publish("plant/1", '{"a": 1}')
        subprocess.run(publish, check=True, timeout=LIMIT, env=environment())
        mosquitto.publish("plant/3", '{"a": 3}')
        came(log, 2)
        (letter,) = came(log, 1, "t.dead-letter")
    assert values_of(log, "t") == [b'{"a": 1}', b'{"a": 3}']
    assert letter["detail"] == f"plant/2: has {size:,} bytes, more than 1,048,576; the first of them are here"
    assert letter["raw"] == "x" * 65_536
    (counts,) = ledger_of(log.manifest("bridge:t") or b"").values()
    assert counts == {"received": 3, "accepted": 2, "malformed": 1, "duplicate": 0}


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_packets_or_malformed(data: bytes, v5: bool) -> None:
    with suppress(mqtt_wire.Malformed):
        for first, at, packet, _ in mqtt_wire.Packets().feed(b"\x30" + data):
            if first >> 4 == mqtt_wire.PUBLISH:
                mqtt_wire.publish_of(first, at, packet, properties=v5)
            elif first >> 4 == mqtt_wire.PUBACK:
                mqtt_wire.acknowledged(at, packet)


def test_properties_of_a_message_are_passed_over() -> None:
    body = b"\x00\x01t" + b"\x00\x07" + b"\xc8\x01" + b"\x26" * 200 + b"payload"
    packet = bytes([0x3A, 0x80 | (len(body) & 0x7F), len(body) >> 7]) + body
    ((first, at, whole, _),) = mqtt_wire.Packets().feed(packet)
    assert mqtt_wire.publish_of(first, at, whole, properties=True) == (b"t", b"payload", 7, True, False)


def test_a_subscription_is_answered_behind_all_that_the_session_has_in_flight() -> None:
    """A broker of 3.1.1 sends hundreds of messages at once, before it answers; they are more than wait for being taken otherwise."""
    count = 300

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x01\x00")
        await reader.readuntil(b"\x01m\x01")
        for mid in range(1, count + 1):
            writer.write(mqtt_wire.publish_packet(b"m", b"{}", mid, retain=False, properties=False))
            await writer.drain()
            await asyncio.sleep(0.0005)  # in many pieces
        writer.write(b"\x90\x03\x00\x01\x01")
        await writer.drain()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        finished.set()

    async def come() -> int:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            one = await connect(Server(name="b", host="127.0.0.1", port=port, client_id="c", session_seconds=60, window=20, v5=False))
            await one.subscribe("m", 1, retained=True)
            came = len(one.arrived)
            one.close()
            await asyncio.wait_for(finished.wait(), LIMIT)
            return came

    finished = asyncio.Event()
    assert asyncio.run(come()) == count
