"""MQTT out: every record is a message that the broker has acknowledged, or a dead letter."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from contextlib import closing
from typing import Any

import pytest
from outside import told_while_away
from test_mqtt import bridging, came, ended, mosquitto, start

from forking import Forked, started
from headrace.cli import main
from headrace.cli.bridge import target_of
from headrace.connectors.forward import Forward
from headrace.connectors.progress import ledger_of
from headrace.topics.protocol import Commit, Log, Outgoing
from headrace.topics.sqlite import SqliteLog
from mosquitto import LIMIT, Mosquitto
from ports import free_port
from waiting import wait_for

__all__ = ["ended", "mosquitto"]


def fill(log: Log, topic: str, *records: Any) -> None:
    if topic not in {info.name for info in log.topics()}:
        log.create(topic)
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    with closing(Closing(log.claim("filler"))) as claim:
        claim.claim.commit(Commit(b"{}", {}, (), [Outgoing(topic, b"\n".join(lines), len(lines))], {}))


class Closing:
    def __init__(self, claim: Any) -> None:
        self.claim = claim

    def close(self) -> None:
        self.claim.release()


def send(log: Log, topic: str, address: str) -> list[str]:
    told: list[str] = []
    with closing(Forward(log, topic, target_of(address), f"forward:{topic}:mqtt", latest=True, told=told.append)) as one:
        asyncio.run(asyncio.wait_for(one.run(), LIMIT))
    return told


def test_records_are_messages_and_what_cannot_be_one_is_a_dead_letter(log: SqliteLog, mosquitto: Mosquitto) -> None:
    fill(log, "in", {"tag": "kiln/1", "v": 1.5}, b"[1]", {"tag": "a+b", "v": 2}, {"v": 3}, {"tag": "kiln/2", "v": "ON"})
    with bridging(log, mosquitto, f"{mosquitto.address}/plant/#?topic_field=topic", "back"):
        told = send(log, "in", f"{mosquitto.address}/plant/{{tag}}")
        found = came(log, 2, "back")
    assert found == [{"tag": "kiln/1", "v": 1.5, "topic": "plant/kiln/1"}, {"tag": "kiln/2", "v": "ON", "topic": "plant/kiln/2"}]
    assert [one["detail"] for one in came(log, 3, "in.dead-letter")] == [
        "has no text at $['tag'], which the topic asks for", "makes the topic 'plant/a+b', and a topic has no + and #",
        "has no text at $['tag'], which the topic asks for",
    ]  # fmt: skip
    assert len(told) == 3
    assert ledger_of(log.manifest("forward:in:mqtt") or b"") == {"in": {"received": 5, "accepted": 2, "refused": 3}}


def test_the_last_value_of_each_topic_is_retained(log: SqliteLog, mosquitto: Mosquitto) -> None:
    fill(log, "in", *({"tag": f"t{number % 3}", "value": number} for number in range(300)), {"tag": "s", "value": "ON"}, {"tag": "n", "value": None})
    for version in ("5", "3.1.1"):
        fill(log, "in", {"tag": "version", "value": version})
        send(log, "in", f"{mosquitto.address}/last/{{tag}}?value=$.value&retain=yes&version={version}")
    with bridging(log, mosquitto, f"{mosquitto.address}/last/+?as=reading&tag={{2}}", "back"):
        found = came(log, 6, "back")
    assert {one["tag"]: one["value"] for one in found} == {"t0": 297, "t1": 298, "t2": 299, "s": "ON", "n": None, "version": 3.1} | {
        "version": "3.1.1"
    }


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
def test_nothing_is_lost_when_the_bridge_is_killed_and_the_broker_restarts(log: SqliteLog, mosquitto: Mosquitto, seed: int) -> None:
    dice, count = random.Random(seed), 5000
    start(mosquitto, "keepalive=2")
    wait_for(lambda: "Sending SUBACK" in mosquitto.log, "the bridge subscribes", seconds=LIMIT)
    fill(log, "in", *({"number": number} for number in range(count)))

    def outward() -> Forked:
        return started("bridge", "topic:in", f"{mosquitto.address}/m?keepalive=2", stderr=subprocess.DEVNULL)

    def sent() -> int:
        return next((cursor.offset for cursor in log.cursors() if cursor.group == "forward:in:mqtt"), 0)

    process = outward()
    try:
        for fault in ("kill", "restart", "kill"):
            goal = min(sent() + dice.randrange(300, 1200), count)
            wait_for(lambda goal=goal: sent() >= goal, "records are sent", seconds=LIMIT, every=0.005)
            if fault == "kill":
                process.kill()
                process.wait()
                process = outward()
            else:
                mosquitto.end(signal.SIGTERM)
                mosquitto.start()
        wait_for(lambda: sent() == count, "all records are sent", seconds=LIMIT)
        wait_for(lambda: len({one["number"] for one in came(log, 1)}) == count, "all messages are back", seconds=LIMIT, every=0.5)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mqtt://h", "TO: has the topic ''"),
        ("mqtt://h/a/+", "TO: has the topic 'a/+'; give a topic without + and #"),
        ("mqtt://h/a/{b", "TO: has the topic 'a/{b'"),
        ("mqtt://h/a?qos=1", "TO: has no parameter 'qos'"),
        ("mqtt://h/a?value=x", "TO: parameter value is 'x'"),
        ("mqtt://h/a?value=$.*", "TO: parameter value is '$.*'; give a path without *"),
        ("mqtt://h/a?retain=true", "TO: parameter retain is 'true'"),
    ],
)
def test_a_wrong_target_is_one_line(log: SqliteLog, capsys: pytest.CaptureFixture[str], address: str, says: str) -> None:
    fill(log, "in", {})
    assert main(["bridge", "topic:in", address]) == 2
    assert says in (err := capsys.readouterr().err)
    assert err.count("\n") == 1


def test_a_broker_that_is_away_is_waited_for(log: SqliteLog) -> None:
    fill(log, "in", {"a": 1})
    away = f"mqtt://127.0.0.1:{free_port()}/m"
    assert told_while_away(log, "in", target_of(away)) == [
        f"{away}: connection refused (is a broker listening at {away[7:-2]}?); tried again until it answers"
    ]
