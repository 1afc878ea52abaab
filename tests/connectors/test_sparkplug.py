"""Sparkplug B: births, aliases, deaths, gaps, and a broker between host and edge nodes."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparkplug_edge import BOOLEAN, FLOAT, INT8, INT16, INT32, INT64, STRING, UINT64, Edge, asks_for_births, metric, payload, sized, whole
from test_mqtt import bridging, came, mosquitto

from headrace.cli import main
from headrace.connectors.mqtt_client import Arrived, connect
from headrace.connectors.mqtt_server import Server, Will
from headrace.connectors.mqtt_wire import Publish
from headrace.connectors.protocol import Unavailable
from headrace.connectors.sparkplug import source
from headrace.connectors.sparkplug_host import REBIRTH_MS, Host
from headrace.connectors.sparkplug_payload import Undecodable, parse, rebirth_command
from headrace.plant.reading import Reading
from headrace.plant.tags import load
from headrace.topics.sqlite import SqliteLog
from mosquitto import LIMIT, Mosquitto
from waiting import wait_for

__all__ = ["mosquitto"]

GOOD, UNCERTAIN, BAD, GONE, NO_DATA, WRONG = 0, 0x40000000, 0x80000000, 0x80310000, 0x809B0000, 0x80890000


def short(readings: Any) -> list[tuple[Any, ...]]:
    return [(one.tag, one.value, one.quality) for one in readings]


def plant() -> Edge:
    return Edge("E", {"": {"cpu": 1.0}, "kiln": {"oil": 60.0, "speed": 1500.0}, "mill": {"load": 5.0}})


def born() -> tuple[Edge, Host]:
    edge, host = plant(), Host()
    for topic, data in edge.birth():
        outcome = host.receive(topic, data, 10_000)
        assert (outcome.commands, outcome.malformed) == ((), None)
    return edge, host


# payloads


@pytest.mark.parametrize(
    ("value", "datatype", "read"),
    [
        (-5, INT8, -5), (-5, INT16, -5), (-5, INT32, -5), (-5, INT64, -5), (7, INT32, 7), (2**63 + 1, UINT64, float(2**63)), (2**40, UINT64, 2**40),
        (1.5, FLOAT, 1.5), (0.1, 10, 0.1), (True, BOOLEAN, True), (False, BOOLEAN, False), ("é", STRING, "é"), (None, 10, None),
    ],
)  # fmt: skip
def test_values_of_all_kinds(value: Any, datatype: int, read: Any) -> None:
    (found,) = parse(payload(metric("a", value, datatype))).metrics
    assert (found.name, found.value, type(found.value), found.quality) == ("a", read, type(read), NO_DATA if value is None else GOOD)


def test_quality_unit_and_times() -> None:
    content = parse(
        payload(metric("a", 1.0, quality=192, unit="CEL", time=5), metric("b", 2.0, quality=0), metric("c", 3.0, quality=500), seq=9, time=7)
    )
    assert [(one.quality, one.unit, one.time) for one in content.metrics] == [(GOOD, "CEL", 5), (BAD, None, 7), (GONE, None, 7)]
    assert (content.seq, content.time) == (9, 7)


def test_members_of_a_template_are_metrics() -> None:
    instance = sized(2, metric("rpm", 5.0)) + sized(2, metric("inner", sized(2, metric("x", 1.0)), 18))
    definition = sized(2, metric("rpm", 0.0)) + whole(5, 1)
    found = parse(payload(metric("motor", instance, 18), metric("_types_/motor", definition, 18), metric("blob", b"xx", 16))).metrics
    assert [(one.name, one.value, one.kind) for one in found] == [("motor/rpm", 5.0, None), ("motor/inner/x", 1.0, None), ("blob", None, "bytes")]


@given(st.binary(max_size=80))
def test_any_bytes_are_a_payload_or_none(data: bytes) -> None:
    with suppress(Undecodable):
        parse(data)


# the host


def test_a_birth_declares_names_and_data_come_under_aliases() -> None:
    edge, host = plant(), Host()
    found = [short(host.receive(topic, data, 10_000).readings) for topic, data in edge.birth()]
    assert found == [[("G/E/cpu", 1.0, GOOD)], [("G/E/kiln/oil", 60.0, GOOD), ("G/E/kiln/speed", 1500.0, GOOD)], [("G/E/mill/load", 5.0, GOOD)]]
    (reading,) = host.receive(*edge.data("kiln", {"oil": 61.5}), 10_001).readings
    assert reading == Reading("G/E/kiln/oil", 2000, 61.5, 0, "CEL", 2000, 10_001)


def test_a_death_makes_all_metrics_stale() -> None:
    edge, host = born()
    gone = host.receive(*edge.death("kiln"), 11_000)
    assert short(gone.readings) == [("G/E/kiln/oil", None, GONE), ("G/E/kiln/speed", None, GONE)]
    old = (edge.will[0], payload(metric("bdSeq", 77, INT64)))
    assert not host.receive(*old, 11_500).readings, "the will of an earlier connection"
    gone = host.receive(*edge.will, 12_000)
    assert short(gone.readings) == [("G/E/cpu", None, GONE), ("G/E/mill/load", None, GONE)]
    assert {one.time for one in gone.readings} == {12_000}, "a will says when it was given, not when it comes true"
    assert not host.receive(*edge.will, 13_000).readings


def test_a_gap_asks_for_births_once_and_data_behind_it_are_uncertain() -> None:
    edge, host = born()
    edge.data("mill", {"load": 6.0})  # it is lost
    outcome = host.receive(*edge.data("kiln", {"oil": 62.0}), 11_000)
    assert short(outcome.readings) == [("G/E/kiln/oil", 62.0, UNCERTAIN)]
    assert asks_for_births(outcome.commands, "E")
    assert not host.receive(*edge.data("kiln", {"oil": 63.0}), 11_001).commands
    assert host.gaps == 1
    edge.data("kiln", {"oil": 64.0})
    assert asks_for_births(host.receive(*edge.data("kiln", {"oil": 65.0}), 11_000 + REBIRTH_MS).commands, "E")
    for topic, data in edge.birth():
        host.receive(topic, data, 17_000)
    outcome = host.receive(*edge.data("kiln", {"oil": 66.0}), 17_001)
    assert (short(outcome.readings), outcome.commands) == ([("G/E/kiln/oil", 66.0, GOOD)], ())


def test_an_alias_without_a_birth_asks_for_it_and_is_counted() -> None:
    edge, host = plant(), Host()
    edge.birth()
    outcome = host.receive(*edge.data("kiln", {"oil": 61.0}), 10_000)
    assert not outcome.readings
    assert outcome.malformed == f"spBv1.0/G/DDATA/E/kiln: has values of aliases that no birth has declared: {edge.aliases['kiln', 'oil']}"
    assert asks_for_births(outcome.commands, "E")
    assert host.unknown == 1
    quiet = Host(asks=False)
    assert not quiet.receive(*edge.data("kiln", {"oil": 61.0}), 10_000).commands


def test_a_device_has_no_values_under_another_ones_alias() -> None:
    edge, host = born()
    data = payload(metric(None, 1.0, alias=edge.aliases["kiln", "oil"]), seq=3)
    assert "no birth has declared" in (host.receive("spBv1.0/G/DDATA/E/mill", data, 1).malformed or "")


def test_what_a_new_birth_does_not_have_is_stale_and_null_is_bad() -> None:
    edge, host = born()
    del edge.metrics["kiln"]["speed"]
    outcomes = [host.receive(topic, data, 11_000) for topic, data in edge.birth()]
    assert short(outcomes[1].readings) == [("G/E/kiln/oil", 60.0, GOOD), ("G/E/kiln/speed", None, GONE)]
    data = payload(metric("oil", None), metric("past", 3.0, time=500, historical=True), seq=3)
    found = host.receive("spBv1.0/G/DDATA/E/kiln", data, 11_001).readings
    assert [(one.tag, one.value, one.quality, one.time) for one in found] == [
        ("G/E/kiln/oil", None, NO_DATA, 1000), ("G/E/kiln/past", 3.0, GOOD, 500),
    ]  # fmt: skip


def test_a_birth_with_another_unit_or_another_name_of_a_metric(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("path,unit,source\nw/oil,CEL,G/E/kiln/oil\nw/speed,RPM,G/E/kiln/speed\n")
    told: list[str] = []
    host = Host(tags=load(tmp_path / "tags.csv"), tell=told.append)
    birth = "spBv1.0/G/DBIRTH/E/kiln"
    host.receive("spBv1.0/G/NBIRTH/E", payload(seq=0), 10_000)
    first = payload(metric("oil", 60.0, alias=1, unit="degC"), metric("speed", 1500.0, alias=2, unit="rpm"), seq=1)
    assert [one[1:3] for one in short(host.receive(birth, first, 10_000).readings)] == [(60.0, GOOD), (1500.0, GOOD)]
    host.receive("spBv1.0/G/NBIRTH/E", payload(seq=0), 11_000)
    again = payload(metric("oil", 140.0, alias=1, unit="degF"), metric("speed 1", 1500.0, alias=2, unit="rpm"), seq=1)
    found = host.receive(birth, again, 11_000).readings
    assert [(one.tag, one.value, one.quality, one.unit) for one in found] == [
        ("w/oil", None, WRONG, "FAH"), ("G/E/kiln/speed 1", 1500.0, GOOD, "RPM"), ("w/speed", None, GONE, "RPM"),
    ]  # fmt: skip
    (data,) = host.receive("spBv1.0/G/DDATA/E/kiln", payload(metric(None, 141.0, alias=1), seq=2), 11_500).readings
    assert (data.value, data.quality, data.unit) == (None, WRONG, "FAH")
    assert told == ["w/oil comes in FAH (°F), and the list of tags says CEL (°C); its readings are bad and have no value until both agree"]


def test_after_an_outage_nothing_is_known_until_the_births_come() -> None:
    edge, host = born()
    outcome = host.away(20_000)
    assert {one[1:] for one in short(outcome.readings)} == {(None, GONE)}
    assert len(outcome.readings) == 4
    assert asks_for_births(outcome.commands, "E")
    assert short(host.receive(*edge.data("kiln", {"oil": 61.0}), 20_001).readings) == [("G/E/kiln/oil", 61.0, UNCERTAIN)]


def test_what_is_not_sparkplug_says_so() -> None:
    _, host = born()
    assert host.receive("spBv1.0/G/DDATA/E/kiln", b"{}", 1).malformed
    assert host.receive("spBv1.0/G/XDATA/E", b"", 1).malformed == "spBv1.0/G/XDATA/E: is no message of Sparkplug B"
    assert host.receive("spBv1.0/G/NDATA/E/kiln", b"", 1).malformed
    for topic in ("spBv1.0/STATE/h", "spBv1.0/G/NCMD/E", "spBv1.0/G/DCMD/E/kiln", "other"):
        assert host.receive(topic, rebirth_command(1), 1).malformed is None


TOPICS = st.builds(
    lambda kind, edge, device: f"spBv1.0/G/{kind}/{edge}{device}",
    st.sampled_from(["NBIRTH", "DBIRTH", "NDATA", "DDATA", "NDEATH", "DDEATH", "NCMD", "X"]),
    st.sampled_from(["E", "F"]), st.sampled_from(["", "/kiln", "/mill"]),
)  # fmt: skip
METRICS = st.builds(
    metric,
    st.none() | st.sampled_from(["oil", "bdSeq", "Node Control/Rebirth", ""]),
    st.none() | st.floats(allow_nan=True, allow_infinity=True),
    alias=st.none() | st.integers(0, 3) | st.just(2**64 - 1),
    time=st.none() | st.integers(0, 2**64 - 1),
    quality=st.none() | st.sampled_from([0, 1, 192, 500]),
)
PAYLOADS = st.binary(max_size=30) | st.builds(
    lambda metrics, seq, time: payload(*metrics, seq=seq, time=time),
    st.lists(METRICS, max_size=4), st.none() | st.integers(0, 300), st.none() | st.integers(0, 2**64 - 1),
)  # fmt: skip


@given(st.lists(st.tuples(TOPICS, PAYLOADS), max_size=12))
def test_any_messages_are_readings_or_a_reason(messages: list[tuple[str, bytes]]) -> None:
    host = Host()
    for number, (topic, data) in enumerate(messages):
        for reading in host.receive(topic, data, 10_000 + number).readings:
            found = json.loads(reading.encode())
            assert found["quality"] & BAD == (BAD if found["value"] is None else 0)
            assert 0 <= found["time"] < 253_402_300_800_000
    host.away(20_000)


STEPS = st.lists(st.sampled_from(["data", "data", "data", "lost", "birth", "death", "device", "away"]), max_size=40)


def check_values(edge: Edge, readings: Any) -> None:
    """The good ones of some readings are what the edge has."""
    for one in readings:
        _, _, *place = one.tag.split("/")
        device, name = place if len(place) == 2 else ("", place[0])
        if one.quality == GOOD:
            assert one.value == edge.metrics[device][name]


@given(STEPS, st.integers(0, 1000))
def test_good_readings_are_the_values_of_the_edge(steps: list[str], seed: int) -> None:
    """Against the edge itself: what the host calls good is what the edge has, whatever is lost between them."""
    dice, host, number = Random(seed), Host(), 0
    edge, at, alive = plant(), 10_000, False

    def deliver(messages: list[tuple[str, bytes]], *, lost: bool = False) -> None:
        nonlocal asked
        for topic, data in [] if lost else messages:
            outcome = host.receive(topic, data, at)
            asked = asked or asks_for_births(outcome.commands, "E")
            check_values(edge, outcome.readings)

    asked = False
    for step in steps:
        at += 1000
        if asked and alive:
            asked = False
            deliver(edge.birth())
        match step:
            case "birth":
                alive = True
                deliver(edge.birth(), lost=dice.random() < 0.3)
            case "data" | "lost" if alive:
                device = dice.choice([*edge.metrics])
                number += 1
                deliver([edge.data(device, {dice.choice([*edge.metrics[device]]): float(number)})], lost=step == "lost")
            case "device" if alive:
                deliver([edge.death(dice.choice(["kiln", "mill"]))])
            case "death" if alive:
                alive = False
                deliver([edge.will])
            case "away":
                asked = asked or asks_for_births(host.away(at).commands, "E")


# with a broker


class Simulated:
    """An edge node on a broker, in a thread: it answers requests for births, and connects again."""

    def __init__(self, broker: Mosquitto, edge: Edge) -> None:
        self.edge, self._broker = edge, broker
        self.born, self.rebirths = False, 0
        self.states: list[dict[str, Any]] = []
        self.loses = 0.0
        self._stop, self._die = threading.Event(), False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    async def _run(self) -> None:
        dice, number = random.Random(1), 0
        while not self._stop.is_set():
            with suppress(Unavailable):
                self.edge.connections += 1
                first = self.edge.birth()
                will = Will(self.edge.will[0], self.edge.will[1], 1, retain=False)
                one = await connect(Server(name="edge", host="127.0.0.1", port=self._broker.port, client_id="edge", keepalive=2, will=will))
                await one.subscribe(f"spBv1.0/G/NCMD/{self.edge.name}", 1, retained=True)
                for message in first:
                    one.send(*message)
                await one.subscribe("spBv1.0/STATE/#", 1, retained=True)
                self.born = True  # the broker does in turn what one client asks
                while not self._stop.is_set() and not one.lost:
                    while one.arrived:
                        message = one.arrived.popleft().message
                        one.acknowledge([message.mid] if message.mid else [])
                        if message.topic.startswith(b"spBv1.0/STATE"):
                            self.states.append(json.loads(message.payload))
                        else:
                            self.rebirths += 1
                            for birth in self.edge.birth():
                                one.send(*birth)
                    number += 1
                    sent = self.edge.data("kiln", {"oil": float(number)})
                    if dice.random() >= self.loses:
                        one.send(*sent)
                    await asyncio.sleep(0.005)
                if self._die:
                    one._lose(Unavailable("it is dead"))  # without a word: the broker publishes the will
                one.close()
            await asyncio.sleep(0.02)

    def end(self, *, die: bool = False) -> None:
        self._die = die
        self._stop.set()
        self._thread.join(LIMIT)


@contextmanager
def simulated(broker: Mosquitto) -> Iterator[Simulated]:
    one = Simulated(broker, plant())
    try:
        yield one
    finally:
        one.end()


def values(log: SqliteLog, tag: str = "G/E/kiln/oil", topic: str = "t") -> list[dict[str, Any]]:
    return [one for one in came(log, 1, topic) if one["tag"] == tag]


def test_a_host_on_a_broker(log: SqliteLog, mosquitto: Mosquitto) -> None:
    address = mosquitto.address.replace("mqtt", "sparkplug") + "/G?host_id=h"
    with simulated(mosquitto) as edge:
        wait_for(lambda: edge.born, "the edge is born", seconds=LIMIT)
        with bridging(log, mosquitto, address):
            wait_for(lambda: len(values(log)) > 20, "readings", seconds=LIMIT)
            assert edge.rebirths, "it was born before the host came"
            assert edge.states[-1]["online"]
            edge.loses = 0.2
            before = edge.rebirths
            wait_for(lambda: edge.rebirths > before, "a gap asks for births", seconds=LIMIT)
            edge.loses = 0.0
            good = len(values(log))
            wait_for(lambda: [one for one in values(log)[good:] if one["quality"] == 0], "good again", seconds=LIMIT)
            edge.end(die=True)
            wait_for(lambda: values(log)[-1]["quality"] == GONE, "it is gone", seconds=LIMIT)
    assert values(log, "G/E/cpu")[-1]["quality"] == GONE
    assert '{"online":false' in (mosquitto_state(mosquitto))


def mosquitto_state(broker: Mosquitto) -> str:
    """Return the retained STATE of the host."""

    async def read() -> str:
        one = await connect(Server(name="reader", host="127.0.0.1", port=broker.port, client_id="reader"))
        await one.subscribe("spBv1.0/STATE/h", 1, retained=True)
        async with asyncio.timeout(LIMIT):
            await one.wait()
        found = one.arrived.popleft().message.payload.decode()
        one.close()
        return found

    return asyncio.run(read())


def test_a_broker_that_restarts_makes_values_stale_until_the_births(log: SqliteLog, mosquitto: Mosquitto) -> None:
    address = mosquitto.address.replace("mqtt", "sparkplug") + "/G/E?host_id=h&keepalive=2"
    with simulated(mosquitto) as edge, bridging(log, mosquitto, address):
        wait_for(lambda: len(values(log)) > 20, "readings", seconds=LIMIT)
        mosquitto.end(signal.SIGTERM)
        mosquitto.start()

        def stale_and_good() -> bool:
            qualities = [one["quality"] for one in values(log)]
            return GONE in qualities and 0 in qualities[qualities.index(GONE) :]

        wait_for(stale_and_good, "stale, then good", seconds=LIMIT)
        wait_for(lambda: edge.states[-1]["online"], "the host is online again", seconds=LIMIT)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("sparkplug://h", "FROM: has the path ''; give a group, or a group and an edge node"),
        ("sparkplug://h/a/b/c", "FROM: has the path 'a/b/c'"),
        ("sparkplug://h/a#", "FROM: has the path 'a#'"),
        ("sparkplug://h/G?host_id=a%2Fb", "FROM: parameter host_id is 'a/b'"),
        ("sparkplug://h/G?qos=1", "FROM: has no parameter 'qos'"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_wrong_address_of_sparkplug_is_one_line(capsys: pytest.CaptureFixture[str], address: str, says: str) -> None:
    assert main(["bridge", address, "topic:t"]) == 2
    assert says in capsys.readouterr().err


def test_a_payload_that_is_too_long_is_a_dead_letter_with_its_beginning() -> None:
    one = source("sparkplug://h/G?max_bytes=10")
    message = Publish(b"spBv1.0/G/NDATA/E", b"x" * 8, 7, False, False)
    connection: Any = object()
    (event,) = one._of_message(connection, "spBv1.0/G/NDATA/E", Arrived(message, 0, 92))
    assert event.malformed == "spBv1.0/G/NDATA/E: has 100 bytes, more than 10; the first of them are here"
    assert (event.value, event.token) == (b"x" * 8, (connection, 7))
