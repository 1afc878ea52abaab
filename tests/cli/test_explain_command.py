"""`headrace explain` and `headrace replay`: alarms of a live run whose wall clock the test advances, explained and computed once more."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from alarms.alarm_plant import START, command, definition, reading
from broker import Shared, kafka
from headrace._clock import now_ms
from headrace.cli.apps import plan_of
from headrace.cli.logs import KafkaOptions, open_log
from headrace.engines.embedded.live import Live, Patience
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from waiting import wait_for

__all__ = ["kafka"]

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]

PLANT = """
import headrace as hr

READING = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}
PLACE = {"partition": "partition", "offset": "offset"}


@hr.pipeline("plant", version="1")
def plant(scale: float = 1.0):
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)", metadata=PLACE)
    scaled = readings.where("tag <> 'skipped'").derive(value="value * :scale")
    return hr.alarm(scaled, hr.alarm_definitions(), hr.alarm_commands(), evidence=True).topics()


@hr.pipeline("fixed", version="1")
def fixed(limit: float = 90.0):
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    definitions = [{"tag": "a/P1", "definition": "H", "kind": "H", "limit": limit, "action": "open the valve"}]
    return hr.alarm(readings, definitions, hr.alarm_commands()).topics("fixed")


@hr.pipeline("windowed", version="1")
def windowed():
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    means = readings.window(hr.tumbling(hr.seconds(10)), by=["tag"]).aggregate(value="AVG(value)")
    definitions = [{"tag": "a/P1", "definition": "H", "kind": "H", "limit": 90}]
    return hr.alarm(means, definitions, hr.alarm_commands(), order="event_time").topics("windowed")


@hr.pipeline("detected", version="1")
def detected():
    readings = hr.stream("readings", schema=READING, event_time="TO_TIMESTAMP_LTZ(time, 3)")
    definitions = [{"tag": "a/P1", "definition": "odd", "kind": "custom"}]
    return hr.alarm(readings, definitions, hr.alarm_commands(), hr.alarm_conditions()).topics("detected")
"""
TOPICS = ("readings", "alarm-definitions", "alarm-commands")


class Room:
    """A control room: what is appended arrives at a second of its wall clock, and the pipeline works."""

    def __init__(self, app: str, partitions: int = 1) -> None:
        self.now, self.plan = START, plan_of(app, [])
        self.log = SqliteLog(Path("home/log.db"), clock=lambda: self.now)
        for topic in (*TOPICS, "alarm-conditions"):
            self.log.create(topic, partitions if topic == "readings" else 1)
        self.start()

    def start(self, *, anew: bool = False) -> None:
        self.live = Live(self.plan, self.log, Patience(30_000, 60_000), anew=anew, clock=lambda: self.now, tick=lambda: self.now / 1000)

    def at(self, second: float, topic: str = "readings", *lines: bytes) -> None:
        self.now = START + round(second * 1000)
        if lines:
            self.log.append(topic, [*lines], [json.loads(line)["tag"].encode() for line in lines])
        while self.live.work():
            pass
        self.live.commit()

    def close(self) -> None:
        self.live.close()
        self.log.close()


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Room]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    for name in ("KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    Path("plant.py").write_text(PLANT)
    made: list[Room] = []

    def make(app: str = "plant.py:plant", **options: Any) -> Room:
        made.append(Room(app, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


DEFINITIONS = (
    definition(0, definition="H", tag="a/P1", kind="H", limit=90.0, deadband=5.0, on_delay=2.0, priority=2, action="open the valve"),
    definition(0, definition="quiet", tag="a/P2", kind="no_data", after=8.0),
    definition(0, definition="L", tag="a/P2", kind="L", limit=20.0, latching=True, escalate_after=10.0),
)


def a_day(made: Room) -> None:
    """Two alarms of one tag: one that was raised after a delay and acknowledged, and one that is active still."""
    made.at(0, "alarm-definitions", definition(0, definition="H", tag="a/P1", kind="H", limit=80.0), *DEFINITIONS)
    for second in range(1, 61):
        value = 95.5 if 20 <= second < 30 or second >= 50 else 75.0
        made.at(second + 0.01, "readings", reading(second, value), reading(second, 50.0, "a/P2"), reading(second, value, "skipped"))
    made.at(60.5)


def test_an_alarm_of_a_detector_is_explained_by_its_conditions_and_the_tags_that_contribute(run: Run, room: Callable[..., Room]) -> None:
    made = room("plant.py:detected")
    about = {"tag": "a/P1", "definition": "odd", "threshold": 2.0, "version": "abc"}
    shares = {"FIT101": 0.75, "LIT101": 0.25}
    conditions = [
        {**about, "time": START + 5000, "active": True, "value": 3.5, "contributions": shares},
        {**about, "time": START + 5000, "active": True, "value": "high", "contributions": [1], "definition": "other"},
        {**about, "time": START + 9000, "active": False, "value": 1.5, "contributions": None},
    ]
    for second in range(1, 12):
        made.at(second, "readings", reading(second, 3.5 if 5 <= second < 9 else 1.5))
        lines = [json.dumps(one).encode() for one in conditions if one["time"] == START + 1000 * second]
        made.at(second + 0.5, "alarm-conditions", *lines)
    asked = ("explain", "a/P1/odd", "--app", "plant.py:detected", "--topic", "detected")
    status, out, err = run(*asked)
    assert (status, err) == (0, "")
    assert [line.split()[4:] for line in out.splitlines() if line.startswith("alarm-conditions/0")] == [
        ["active", "3.5", "2", "FIT101", "75%,", "LIT101", "25%"],
        ["inactive", "1.5", "2", "-"],
    ]
    (found,) = map(json.loads, run(*asked, "--json", "--html", "out.html")[1].splitlines())
    assert [(one["offset"], one["contributions"]) for one in found["conditions"]] == [(0, shares), (2, None)]
    assert "<h2>Conditions</h2>" in Path("out.html").read_text()


def told(out: str, begins: str) -> list[list[str]]:
    """Return the cells of the lines that begin so."""
    return [line.split("  ") for line in out.splitlines() if line.startswith(begins)]


def test_an_alarm_is_explained_by_its_definition_readings_states_and_commands(run: Run, room: Callable[..., Room]) -> None:
    made = room()
    a_day(made)
    made.at(61, "alarm-commands", command(61, "acknowledge", sequence=2, by="ada"))
    made.at(61.2, "alarm-commands", command(61, "acknowledge", by="bob"), command(61, "reset", definition="L", tag="a/P2"))
    status, out, err = run("explain", "a/P1/H", "--app", "plant.py:plant", "--sequence", "1")
    assert (status, err) == (0, "")
    assert out.startswith("alarm a/P1/H, occurrence 1, event_id ")
    assert out.splitlines()[1] == "state before: normal, after: returned"
    assert "from alarm-definitions/0 offset 1\n" in out
    assert "action          open the valve" in out
    asked = ("explain", "a/P1/H", "--app", "plant.py:plant", "--sequence", "1", "--json", "--html", "out.html")
    (found,) = map(json.loads, run(*asked)[1].splitlines())
    page = Path("out.html").read_text()
    assert [page.count(f'class="{kind}"') for kind in ("trend", "limit", "moved", "evidence")] == [1, 1, 2, 4]
    assert "readings/0 offset 63: 95.5" in page
    assert "http" not in page
    assert "cannot be written" in run("explain", "a/P1/H", "--app", "plant.py:plant", "--html", "no/out.html")[2]
    assert (found["definition"]["limit"], found["state_before"], found["state_after"]) == (90, "normal", "returned")
    assert [(row["event"], row["time"] - START) for row in found["transitions"]] == [("raise", 22_000), ("clear", 30_000)]
    moved = {one["event"]: one for one in found["readings"] if one["event"]}
    assert [(one["time"] - START) // 1000 for one in found["readings"]] == [*range(1, 31)], "all of the tag up to the end, and none of others"
    assert (moved["raise"]["offset"], moved["raise"]["value"], moved["clear"]["offset"]) == (63, 95.5, 87)
    assert [one["offset"] for one in found["readings"] if one["evidence"]] == [57, 60, 63, 87], "those of the delay, and the one that cleared it"
    assert found["commands"] == []
    shown = told(out, "readings/0 offset")
    assert len(shown) == 8 + 8, "eight up to the raise, and eight behind it"
    assert "readings/0 offset 63  2026-01-01T08:00:22.000Z  2026-01-01T08:00:22.010Z  95.5" in out

    (found,) = map(json.loads, run("explain", "a/P1/H", "--app", "plant.py:plant", "--json")[1].splitlines())
    assert (found["sequence"], found["state_after"]) == (2, "acknowledged")
    assert [(one["command"], one["by"], one["offset"]) for one in found["commands"]] == [("acknowledge", "ada", 0), ("acknowledge", "bob", 1)]
    (by_event,) = map(json.loads, run("explain", found["event_id"], "--app", "plant.py:plant", "--json")[1].splitlines())
    assert by_event == found
    Path("headrace.toml").write_text(f"""
[plant]
name = "north"
external = {json.dumps(TOPICS)}

[[pipeline]]
app = "plant.py:plant"
""")
    assert json.loads(run("explain", "a/P1/H", "--json")[1]) == found, "the pipeline is that of the plant file"


def test_alarms_of_a_pipeline_with_its_own_definitions_are_explained_and_replayed(run: Run, room: Callable[..., Room]) -> None:
    made = room("plant.py:fixed")
    for second in range(1, 2_000, 50):
        made.at(second, "readings", reading(second, 95.5 if second == 1_951 else 75.0, quality=0x80000000 if second == 1_901 else 0))
    asked = ("a/P1/H", "--app", "plant.py:fixed", "--topic", "fixed")
    status, out, _ = run("explain", *asked)
    assert (status, "from the pipeline\n" in out, "readings/0 offset 39" in out, "bad 0x80000000" in out) == (0, True, True, True)
    assert "from the pipeline, which has changed since: it now has version " in run("explain", *asked, "--set", "limit=91")[1]
    assert run("replay", *asked)[:2] == (
        0, "alarm a/P1/H, occurrence 1: reproduced. 1 transition of the alarm, from its first to this occurrence, identical to the byte.\n",
    )  # fmt: skip
    status, out, err = run("replay", *asked, "--set", "limit=91")
    assert (status, out) == (1, "")
    assert "transition 1 differs: the log has {" in err
    assert err.endswith("; the pipeline has changed since its last commit: other settings\n")
    status, _, err = run("replay", *asked, "--set", "limit=99")
    assert (status, "the replay gives nothing" in err) == (1, True)


def test_of_readings_with_one_time_the_one_that_moved_the_alarm_is_marked(run: Run, room: Callable[..., Room]) -> None:
    made = room("plant.py:fixed")
    for second, values in ((1, [75.0, 75.0]), (5, [85.0, 95.5, 97.0]), (9, [96.0, 70.0, 60.0])):
        made.at(second, "readings", *[reading(second, value) for value in values])
    (found,) = map(json.loads, run("explain", "a/P1/H", "--app", "plant.py:fixed", "--topic", "fixed", "--json")[1].splitlines())
    assert [(one["value"], one["event"]) for one in found["readings"]][2:] == [
        (85.0, None), (95.5, "raise"), (97.0, None), (96.0, None), (70.0, "clear"), (60.0, None),
    ]  # fmt: skip


def test_alarms_of_windows_are_explained_and_replayed(run: Run, room: Callable[..., Room]) -> None:
    made = room("plant.py:windowed")
    made.at(99, "alarm-commands", command(55, "acknowledge"), command(75, "acknowledge"))
    made.at(100, "readings", *[reading(second, 95.0 if 40 <= second < 60 else 75.0) for second in range(90)])
    made.at(102, "readings", reading(100, 75.0))
    made.at(200, "readings", reading(200, 75.0))
    asked = ("a/P1/H", "--app", "plant.py:windowed", "--topic", "windowed")
    (found,) = map(json.loads, run("explain", *asked, "--json")[1].splitlines())
    assert [(row["event"], row["time"] - START) for row in found["transitions"]][:2] == [("raise", 49_999), ("acknowledge", 55_000)]
    assert [(one["value"], one["offset"], one["event"]) for one in found["readings"]] == [
        *[(75.0, None, None)] * 4, (95.0, None, "raise"), (95.0, None, None), (75.0, None, "clear"),
    ]  # fmt: skip
    assert [one["time"] - START for one in found["commands"]] == [55_000, 75_000], "the second was refused"
    assert "derived  2026-01-01T08:00:49.999Z" in run("explain", *asked)[1]
    assert run("replay", *asked)[0] == 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 15))])
def test_each_alarm_of_a_live_run_is_replayed_to_the_byte(seed: int, run: Run, room: Callable[..., Room]) -> None:
    made, dice = room(partitions=2), random.Random(seed)
    made.at(0, "alarm-definitions", *DEFINITIONS)
    second = 1.0
    for _ in range(45):
        second = round(second + dice.choice([0.2, 1.0, 3.0, 40.0]), 3)
        tag = dice.choice(["a/P1", "a/P2"])
        made.at(second, "readings", reading(second - dice.choice([0, 0, 2.5]), dice.choice([10.0, 50.0, 93.0, None]), tag))
        if dice.random() < 0.3:
            name = dice.choice(["acknowledge", "reset", "shelve", "unshelve"])
            more = {"until": made.now + 5_000} if name == "shelve" else {}
            made.at(second + 0.1, "alarm-commands", command(second, name, dice.choice(["H", "L"]), tag, **more))
        if dice.random() < 0.1:
            made.live.close()
            made.start()
    made.close()
    with closing(SqliteLog(Path("home/log.db"))) as log:
        before = [(info.name, [part.end for part in info.partitions]) for info in log.topics()]
        rows = [json.loads(entry.value) for entry in log.entries("alarms", 0, 0, 10_000)]
    assert {row["event"] for row in rows} >= {"raise", "clear"}
    assert any(row["arrived"] != row["time"] + 0 and row["event"] == "raise" for row in rows)
    last = {row["alarm_id"]: row["sequence"] for row in rows if row["sequence"]}
    assert len(last) == 3
    for alarm in last:
        status, out, err = run("replay", alarm, "--app", "plant.py:plant")
        assert (status, "identical to the byte" in out) == (0, True), err
    with closing(SqliteLog(Path("home/log.db"))) as log:
        assert before == [(info.name, [part.end for part in info.partitions]) for info in log.topics()], "nothing is written"


def test_what_cannot_be_explained_or_replayed_is_refused_with_the_reason(run: Run, refused: Refused, room: Callable[..., Room]) -> None:
    made = room()
    a_day(made)
    app = ("--app", "plant.py:plant")
    for command_name in ("explain", "replay"):
        for words, said in [
            (("a/P1/HH", *app), "topic alarms: no alarm 'a/P1/HH' has had a transition; did you mean 'a/P1/H'?"),
            (("a/P1/H", *app, "--sequence", "9"), "topic alarms: alarm a/P1/H has no occurrence 9; there is: 1, 2"),
            (("a/P1/H",), "--app: the pipeline is not known; name it: --app plant.py; or call this in the folder of headrace.toml"),
            (("a/P1/H", "--set", "scale=2"), "--set: belongs to --app, which is not given; add --app"),
            (
                ("a/P1/H", *app, "--topic", "alarm"),
                "--topic: pipeline plant writes no transitions of hr.alarm to topic 'alarm'; did you mean 'alarms'?",
            ),
            (("a/P1/H", "--app", "plant.py:fixed"), "--topic: pipeline fixed writes no transitions of hr.alarm to topic 'alarms'; there is: fixed"),
        ]:
            assert said in refused(command_name, *words)
    for file in (".", "/", "home"):
        assert "Is a directory; name a file" in run("explain", "a/P1/H", *app, "--html", file)[2]
    assert not [*Path().glob(".*.new")]
    assert "no alarm 'x\\x1b[31m' has had" in refused("explain", "x\x1b[31m", *app)
    status, _, err = run("replay", "a/P1/H", *app, "--set", "scale=2")
    assert (status, "the pipeline has changed since its last commit: other settings" in err) == (1, True)

    less = PLANT.replace("hr.alarm_definitions()", '[{"tag": "a/P1", "definition": "H", "kind": "H", "limit": 90}]')
    Path("less.py").write_text(less)
    status, _, err = run("replay", "a/P1/H", "--app", "less.py:plant")
    assert (status, "replay: the pipeline reads 2 partitions, and the one that has written the alarms read 3; give that" in err) == (2, True), err

    Path("never.py").write_text(PLANT.replace('"plant", version', '"never", version'))
    status, _, err = run("replay", "a/P1/H", "--app", "never.py:never")
    assert (status, "replay: no run of pipeline never is recorded in these topics, so the order" in err) == (1, True), err

    step = made.log.entries("plant.clock", 0, 0, 10_000)[-1].value
    made.log.alter("plant.clock", retention_ms=1_000, retention_bytes=None)
    for _ in range(2):
        made.now += 100_000_000
        made.log.append("plant.clock", [step])
    status, _, err = run("replay", "a/P1/H", *app)
    assert (status, "replay: the steps of plant.clock before offset " in err) == (1, True), err

    made.log.alter("readings", retention_ms=1_000, retention_bytes=None)
    made.now += 100_000_000
    made.log.append("readings", [reading(100_061, 1.0)], [b"a/P1"])
    made.now += 100_000
    made.log.append("readings", [reading(100_161, 1.0)], [b"a/P1"])
    first = made.log.topic("readings").partitions[0].first
    assert first > 100
    status, _, err = run("replay", "a/P1/H", *app)
    assert status == 1
    assert f"the records of readings/0 before offset {first} have expired, and the alarm's state came from them" in err
    status, out, _ = run("explain", "a/P1/H", *app)
    assert run("explain", "a/P1/H", *app, "--html", "none.html")[0] == 0
    assert "No reading is retained" in Path("none.html").read_text()
    assert (status, "readings: none is retained" in out, "from alarm-definitions/0 offset 1\n" in out) == (0, True, True)

    made.live.close()
    made.start(anew=True)
    for second in range(100_162, 100_170):
        made.at((made.now - START) / 1000 + 1, "readings", reading(second, 95.5))
    status, out, err = run("replay", "a/P1/H", *app)
    assert (status, "occurrence 1: reproduced. 1 transition" in out) == (0, True), err

    # A topic that the pipeline does not read, a partition that it has no more, and an occurrence whose raise has expired.
    row = json.loads(made.log.entries("alarms", 0, 0, 1)[0].value)
    for place in ({"topic": "gone", "records": [[0, 1]]}, {"topic": "readings", "records": [[9, 1]]}):
        made.log.append("alarms", [json.dumps({**row, "alarm_id": "a/P1/odd", "event_id": "e", "evidence": {**place, "window": None}}).encode()])
        assert run("explain", "e", *app)[0] == 0
    made.log.append("alarms", [json.dumps({**row, "alarm_id": "a/P1/late", "from": "normal", "to": "refused"}).encode()])
    assert "state before: normal, after: normal" in run("explain", "a/P1/late", *app)[1]
    made.log.append("alarms", [b"[1]"])
    assert "is no transition of an alarm; name the topic with --topic" in run("explain", "a/P1/H", *app)[2]


def test_an_alarm_is_explained_from_topics_of_kafka(run: Run, room: Callable[..., Room], kafka: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    room().close()  # for its folder; the log of the home stays empty
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", f"explain-{uuid.uuid4().hex[:8]}.")
    at = ("--kafka-servers", kafka.servers)
    for topic, lines in (
        ("alarm-definitions", [definition(0, definition="H", tag="a/P1", kind="H", limit=90.0)]),
        ("readings", [reading(second, 95.5 if second > 20 else 75.0) for second in range(1, 25)]),
        ("alarm-commands", []),
    ):
        Path("lines.ndjson").write_bytes(b"\n".join(lines))
        status, _, err = run("topics", "create", topic, "--if-missing", *at)  # a broker that is slow may have made it though it did not answer
        assert status == 0, err
        if lines:
            assert run("topics", "append", topic, "lines.ndjson", *at)[0] == 0
    status, _, err = run("run", "plant.py:plant", "--until", "latest", *at)
    assert status == 0, err
    (found,) = map(json.loads, run("explain", "a/P1/H", "--app", "plant.py:plant", "--json", *at)[1].splitlines())
    assert (found["definition"]["from"], found["definition"]["limit"]) == ("alarm-definitions/0 offset 0", 90)
    assert [one["value"] for one in found["readings"] if one["evidence"]] == [95.5]
    assert [one["offset"] for one in found["readings"] if one["event"] == "raise"] == [20]
    for topic in ("readings", "alarm-definitions", "alarm-commands"):
        assert run("topics", "delete", topic, *at)[0] == 0


ON_KAFKA = ("readings", "alarm-definitions", "alarm-commands")


@contextmanager
def plant_on(servers: str) -> Iterator[tuple[Log, tuple[str, str]]]:
    """Make the plant's topics on Kafka, with a backlog of readings in two partitions and acknowledgements between them."""
    at = ("--kafka-servers", servers)
    log = open_log(KafkaOptions(kafka_servers=servers))
    for topic in ON_KAFKA:
        log.create(topic, 2 if topic == "readings" else 1)
    log.append("alarm-definitions", [*DEFINITIONS])
    for second in range(1, 41):
        for tag in ("a/P1", "a/P2"):
            log.append("readings", [reading(second, 95.5 if second % 10 < 5 else 10.0, tag)], [tag.encode()])
        if second % 5 == 4:
            log.append("alarm-commands", [command(second, "acknowledge", tag="a/P1"), command(second, "acknowledge", "L", "a/P2")])
    try:
        yield log, at
    finally:
        for topic in ON_KAFKA:
            log.delete(topic)
        log.close()


def test_an_alarm_is_replayed_from_topics_of_kafka_also_after_a_kill(
    run: Run, room: Callable[..., Room], kafka: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    room().close()  # for its folder; the log of the home stays empty
    prefix = f"replay-{uuid.uuid4().hex[:8]}."
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", prefix)
    with plant_on(kafka.servers) as (log, at):
        words = [sys.executable, "-m", "headrace", "run", "plant.py:plant", *at, "--batch-records", "5", "--commit-every", "1ms"]
        killed = subprocess.run(words, check=False, env={**os.environ, "HEADRACE_KILL_AT": "commit.cursors:4"}, capture_output=True, timeout=300)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        live = Live(plan_of("plant.py:plant", []), log, batch_records=5)
        wait_for(lambda: not live.work() and not any(live.feed.lag().values()), "the backlog", seconds=120, every=0.001)
        assert 0 < live.epoch < live.commit().epoch, "the killed run had committed, and this one went on"
        # What a transaction wrote is there a moment after it was committed.
        rows = wait_for(lambda: log.entries("plant.clock", 0, 0, 10_000), "the steps", seconds=120)
        assert sum(len(json.loads(row.value)["cuts"]) for row in rows) > 1, "records were taken behind others that arrived later"
        live.close()
        before = {info.name: [part.end for part in info.partitions] for info in log.topics() if info.name in {*live.plan.topics, "plant.clock"}}
        for alarm in ("a/P1/H", "a/P2/L"):
            status, out, err = run("replay", alarm, "--app", "plant.py:plant", *at)
            assert (status, "identical to the byte" in out) == (0, True), err
        assert before == {info.name: [part.end for part in info.partitions] for info in log.topics() if info.name in before}, "nothing is written"

        gone, admin = TopicPartition(f"{prefix}readings", 0, 3), AdminClient({"bootstrap.servers": kafka.servers})
        admin.delete_records([gone])[gone].result(120)
        status, _, err = run("replay", "a/P1/H", "--app", "plant.py:plant", *at)
        assert (status, "the records of readings/0 before offset 3 have expired" in err) == (1, True), err


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_each_alarm_of_a_live_run_on_kafka_is_replayed_to_the_byte(
    seed: int, run: Run, room: Callable[..., Room], kafka: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    room().close()  # for its folder; the log of the home stays empty
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", f"replay-{uuid.uuid4().hex[:8]}.")
    dice, ahead = random.Random(seed), 0
    with plant_on(kafka.servers) as (log, at):
        plan, patience = plan_of("plant.py:plant", []), Patience(4_000, 8_000)

        def live_now(*, anew: bool = False) -> Live:
            clock = (lambda: now_ms() + ahead, lambda: time.monotonic() + ahead / 1000)
            return Live(plan, log, patience, dice.choice([None, 1, 5, 20]), anew=anew, clock=clock[0], tick=clock[1])

        live = live_now(anew=dice.random() < 0.3)
        for nth in range(60):
            second = 41 + nth + dice.choice([0, 0, -2.5])
            for tag in dice.sample(["a/P1", "a/P2"], dice.randint(0, 2)):
                log.append("readings", [reading(second, dice.choice([10.0, 50.0, 93.0, None]), tag)], [tag.encode()])
            if dice.random() < 0.3:
                name, tag = dice.choice(["acknowledge", "reset", "unshelve"]), dice.choice(["a/P1", "a/P2"])
                log.append("alarm-commands", [command(second, name, dice.choice(["H", "L"]), tag)])
            ahead += dice.choice([0, 300, 3_000, 9_000])
            for _ in range(dice.randint(0, 4)):
                live.work()
            if dice.random() < 0.3:
                live.commit()
            if dice.random() < 0.1:  # what was not committed is done again
                live.close()
                live = live_now()
        wait_for(lambda: not live.work() and not any(live.feed.lag().values()), "the backlog", seconds=120, every=0.001)
        live.commit()
        live.close()
        end = [p.next_offset for p in live.run.partitions]
        wait_for(lambda: sum(one.offset for one in log.cursors() if one.group == "plant") == sum(end), "the commit", seconds=120)
        names = {row["alarm_id"] for entry in log.entries("alarms", 0, 0, 10_000) if (row := json.loads(entry.value))["sequence"]}
        assert names == {"a/P1/H", "a/P2/L", "a/P2/quiet"}
        for alarm in names:
            status, out, err = run("replay", alarm, "--app", "plant.py:plant", *at)
            assert (status, "identical to the byte" in out) == (0, True), err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": 10**15}, "is no transition of an alarm: Expected `int` <"),
        ({"sequence": "1"}, "is no transition of an alarm: Expected `int | null`, got `str` - at `$.sequence`; name the topic"),
        ({"evidence": {"topic": "readings"}}, "is no transition of an alarm: Object missing required field `records`"),
    ],
)
def test_a_record_that_is_no_transition_is_named_with_its_place(run: Run, room: Callable[..., Room], change: dict[str, Any], said: str) -> None:
    made = room()
    made.at(0, "alarm-definitions", definition(0, definition="H", tag="a/P1", kind="H", limit=80.0))
    made.at(1, "readings", reading(1, 95.0))
    row = json.loads(made.log.entries("alarms", 0, 0, 1)[0].value)
    made.log.append("alarms", [json.dumps({**row, **change}).encode()])
    status, _, err = run("explain", "a/P1/H", "--app", "plant.py:plant")
    assert (status, err.count("\n"), f"topic alarms/0 offset 1: {said}" in err) == (1, 1, True), err
