"""The simulated kiln plant (F1) and what writes it out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.errors import EnvironmentFault, PlanError
from headrace.simulate import Kiln, format_ids, parse_ids, simulate
from headrace.simulate.writing import banner, batch_line

START = 1_705_314_601_000  # 2024-01-15 10:30:01 UTC
RULE = "=" * 60
seeds = st.integers(-(2**70), 2**70)


class Clock:
    """A clock in ms that only sleeping moves on; it keeps the length of each sleep, in seconds."""

    def __init__(self, now: int = START) -> None:
        self.now, self.slept = now, list[float]()

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += round(seconds * 1000)


class Arrivals(io.BytesIO):
    """A sink that keeps the clock's time at each flush and so when lines could be read."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.seen = clock, list[tuple[int, int]]()

    def flush(self) -> None:
        lines = self.getvalue().count(b"\n")
        if lines > (self.seen[-1][1] if self.seen else 0):
            self.seen.append((self.clock(), lines))


def first(count: int, plant: Kiln, interval_ms: float = 1000) -> list[bytes]:
    return list(islice(plant.lines(START, interval_ms), count))


def write(plant: Kiln, clock: Clock, sink: io.BytesIO | None = None, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """Return the messages written and the report's text."""
    sink, report = sink or io.BytesIO(), io.StringIO()
    sent = simulate(plant, sink, clock=clock, sleep=clock.sleep, target="out.ndjson", report=report, **options)
    messages = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert sent == len(messages)
    return messages, report.getvalue()


def times(messages: list[dict[str, Any]]) -> list[int]:
    """The seconds since START of each batch's messages."""
    return sorted({(message["timestamp"] - START) // 1000 for message in messages})


def well_formed(line: bytes) -> bool:
    """Whether DESIGN 4 takes the line for a record of F2, event times from 2000 to 2100 believed."""
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return (
        isinstance(message, dict)
        and message["equip_id"] is not None
        and isinstance(message["timestamp"], int)
        and 946_684_800_000 <= message["timestamp"] < 4_102_444_800_000
        and isinstance(message["data"], dict)
    )


# What it sends


@given(seed=seeds)
def test_the_same_seed_gives_the_same_bytes(seed: int) -> None:
    def plant() -> Kiln:
        return Kiln(seed, disorder_ms=5000, number_share=0.3, bad_share=0.1)

    assert first(50, plant()) == first(50, plant())


@given(one=seeds, other=seeds)
@example(one=1, other=-1)
def test_different_seeds_give_different_bytes(one: int, other: int) -> None:
    assert (first(20, Kiln(one)) == first(20, Kiln(other))) is (one == other)


def test_the_bytes_are_these_on_every_machine() -> None:
    assert first(1, Kiln(42)) == [
        b'{"equip_id":110,"timestamp":1705314601000,"data":{"0001":"null","0002":"11.712","0003":"41.093","0004":"0.660","0005":"29.296"}}'
    ]
    faulty = Kiln(42, disorder_ms=5000, number_share=0.3, bad_share=0.1)
    assert hashlib.sha256(b"\n".join(first(10_000, faulty))).hexdigest() == "1cb0dcdf77e58e18d8356582038256a4076432c9f443ffc68c6bf0ca7718b1e3"


def test_each_equipment_sends_one_message_each_second() -> None:
    batches = list(islice(Kiln().batches(START), 3))
    assert [[message["equip_id"] for message in batch] for batch in batches] == [[110, 111, 112, 113, 114]] * 3
    assert [{message["timestamp"] for message in batch} for batch in batches] == [{START}, {START + 1000}, {START + 2000}]
    assert all(list(message) == ["equip_id", "timestamp", "data"] for batch in batches for message in batch)
    assert all(list(message["data"]) == ["0001", "0002", "0003", "0004", "0005"] for batch in batches for message in batch)


def test_values_are_text_with_three_decimals_from_0_to_100_or_null() -> None:
    values = [value for line in first(10_000, Kiln(1)) for value in json.loads(line)["data"].values()]
    assert len(values) == 50_000
    assert values.count("null") / len(values) == pytest.approx(0.15, abs=0.01)
    numbers = [value for value in values if value != "null"]
    assert all(re.fullmatch(r"[0-9]{1,3}\.[0-9]{3}", value) for value in numbers)
    assert all(0 <= float(value) <= 100 for value in numbers)
    tenths = [sum(float(value) // 10 == tenth for value in numbers) / len(numbers) for tenth in range(10)]
    assert tenths == pytest.approx([0.1] * 10, abs=0.01)


def test_every_value_or_none_may_be_null() -> None:
    assert {value for line in first(100, Kiln(null_share=1)) for value in json.loads(line)["data"].values()} == {"null"}
    assert b"null" not in b"".join(first(100, Kiln(null_share=0)))


def test_other_equipment_and_sensors_can_be_asked_for() -> None:
    messages = [json.loads(line) for line in first(2, Kiln(equipment=(7, "öfen-2"), sensors=("t",)))]
    assert [(message["equip_id"], list(message["data"])) for message in messages] == [(7, ["t"]), ("öfen-2", ["t"])]


@pytest.mark.parametrize(
    "wrong",
    [
        {"equipment": ()},
        {"equipment": (1, "1")},
        {"sensors": ("a", "a")},
        {"null_share": 1.1},
        {"bad_share": -0.1},
        {"number_share": float("nan")},
        {"disorder_ms": -1},
    ],
)
def test_a_plant_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=next(iter(wrong))):
        Kiln(**wrong)


# Faults


@given(seed=seeds, disorder_ms=st.integers(1, 10_000))
def test_disorder_moves_times_back_by_no_more_than_asked_and_changes_nothing_else(seed: int, disorder_ms: int) -> None:
    for clean, moved in zip(first(50, Kiln(seed)), first(50, Kiln(seed, disorder_ms=disorder_ms)), strict=True):
        was, now = json.loads(clean), json.loads(moved)
        assert 0 <= was.pop("timestamp") - now.pop("timestamp") <= disorder_ms
        assert was == now


def test_disorder_uses_all_of_its_range() -> None:
    back = {START - json.loads(line)["timestamp"] for line in first(1000, Kiln(disorder_ms=3), interval_ms=1e-9)}
    assert back == {0, 1, 2, 3}


def test_the_number_share_of_the_values_are_equal_numbers() -> None:
    clean, mixed = ([json.loads(line)["data"] for line in first(10_000, Kiln(3, number_share=share))] for share in (0, 0.3))
    pairs = [(text, row[sensor]) for data, row in zip(clean, mixed, strict=True) for sensor, text in data.items() if text != "null"]
    numbers = [(text, value) for text, value in pairs if isinstance(value, float)]
    assert len(numbers) / len(pairs) == pytest.approx(0.3, abs=0.01)
    assert all(float(text) == value for text, value in numbers)
    assert all(text == value for text, value in pairs if isinstance(value, str))


def test_the_bad_share_of_the_lines_are_spoilt_and_no_others_touched() -> None:
    clean, spoilt = (first(20_000, Kiln(4, disorder_ms=5000, number_share=0.3, bad_share=share)) for share in (0, 0.05))
    assert all(well_formed(line) for line in clean)
    bad = [line for was, line in zip(clean, spoilt, strict=True) if was != line]
    assert len(bad) / len(clean) == pytest.approx(0.05, abs=0.005)
    assert not any(well_formed(line) for line in bad)


def test_bad_lines_are_bad_in_every_way() -> None:
    def kind(line: bytes) -> str:
        try:
            message = json.loads(line)
        except ValueError:
            return "truncated"
        if not isinstance(message, dict):
            return "not an object"
        if message["equip_id"] is None:
            return "no equipment"
        return "absurd time" if isinstance(message["timestamp"], int) and isinstance(message["data"], dict) else "wrong type"

    kinds = [kind(line) for line in first(5000, Kiln(5, bad_share=1))]
    shares = {kind: kinds.count(kind) / 5000 for kind in set(kinds)}
    assert shares == pytest.approx(dict.fromkeys(("truncated", "not an object", "no equipment", "absurd time", "wrong type"), 0.2), abs=0.03)


@given(seed=seeds)
def test_a_bad_line_is_malformed_and_still_one_line_with_text_in_it(seed: int) -> None:
    for line in first(100, Kiln(seed, bad_share=1)):
        assert not well_formed(line)
        assert line.strip()
        assert b"\n" not in line


# Lists of ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("110-114,120", (110, 111, 112, 113, 114, 120)),
        ("0001-0003", ("0001", "0002", "0003")),
        (" 98 - 101 , kiln-1,", (98, 99, 100, 101, "kiln-1")),
        ("0098-0101", ("0098", "0099", "0100", "0101")),
        ('[110, "0001", "5-6"]', (110, "0001", "5-6")),
    ],
)
def test_ids_are_read_from_a_list_with_ranges_or_from_json(text: str, ids: tuple[int | str, ...]) -> None:
    assert parse_ids(text) == ids


@pytest.mark.parametrize("text", ["", " , ", "[]", "114-110", "01-003", "1-999999999", "1,1", "[1.5]", "[1", '["1", 1]'])
def test_a_list_of_ids_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        parse_ids(text)


number_ids = st.integers(0, 300)
padded_ids = st.integers(0, 99).map("{:04d}".format)


@given(st.lists(number_ids | padded_ids, min_size=1, unique_by=str))
def test_formatted_ids_are_read_back(ids: list[int | str]) -> None:
    assert parse_ids(format_ids(ids)) == tuple(ids)


# The report


def test_the_banner_is_as_the_seed_shows_it() -> None:
    head = f"{RULE}\nSensor Data Generator\n{RULE}\n"
    assert banner("t", servers="kafka:9093", topic="sensor-data") == head + "Bootstrap servers: kafka:9093\nTopic: sensor-data\n"
    assert banner("out.ndjson") == head + "Target: out.ndjson\n"


def test_the_report_is_the_banner_and_a_line_for_each_batch() -> None:
    _, report = write(Kiln(), Clock(), duration_ms=2000, servers="kafka:9093", topic="sensor-data")
    assert report.splitlines() == [
        RULE,
        "Sensor Data Generator",
        RULE,
        "Bootstrap servers: kafka:9093",
        "Topic: sensor-data",
        "[2024-01-15 10:30:01] Batch #1: Sent 5 messages (equip_ids: 110-114)",
        "[2024-01-15 10:30:02] Batch #2: Sent 5 messages (equip_ids: 110-114)",
    ]


def test_a_batch_line_names_just_those_who_sent() -> None:
    assert batch_line(3, START, (110, 111, 120)) == "[2024-01-15 10:30:01] Batch #3: Sent 3 messages (equip_ids: 110-111, 120)\n"
    assert write(Kiln(), Clock(), records=7)[1].endswith("Batch #2: Sent 2 messages (equip_ids: 110-111)\n")


# Pacing and limits


def test_live_ticks_come_a_second_apart_and_can_be_read_at_once() -> None:
    clock = Clock()
    sink = Arrivals(clock)
    messages, _ = write(Kiln(), clock, sink, records=15)
    assert sink.seen == [(START, 5), (START + 1000, 10), (START + 2000, 15)]
    assert times(messages) == [0, 1, 2]
    assert clock.slept == [1, 1]


def test_the_lines_are_the_plants_own() -> None:
    sink = io.BytesIO()
    simulate(Kiln(6), sink, clock=Clock(), sleep=Clock().sleep, target="-", records=12, pace=False)
    assert sink.getvalue() == b"".join(line + b"\n" for line in first(12, Kiln(6)))


def test_a_rate_is_in_messages_a_second() -> None:
    clock = Clock()
    messages, _ = write(Kiln(), clock, rate=15, duration_ms=1000)
    assert [message["timestamp"] - START for message in messages[::5]] == [0, 333, 666]
    assert clock.now == START + 1000


def test_a_rate_of_several_batches_a_millisecond_is_kept_up() -> None:
    clock = Clock()
    messages, _ = write(Kiln(), clock, rate=20_000, duration_ms=100)
    assert len(messages) == 2000
    assert clock.now == START + 100


def test_a_late_tick_is_made_up_for_with_the_time_it_should_have_had() -> None:
    clock = Clock()

    def oversleep(seconds: float) -> None:
        clock.sleep(seconds + 2.5)

    sink = io.BytesIO()
    simulate(Kiln(), sink, clock=clock, sleep=oversleep, target="-", records=20)
    assert times([json.loads(line) for line in sink.getvalue().splitlines()]) == [0, 1, 2, 3]
    assert clock.now == START + 3500


def test_duration_is_live_time_and_is_used_up() -> None:
    clock = Clock()
    messages, _ = write(Kiln(), clock, duration_ms=3500, history_ms=60_000)
    assert times(messages) == list(range(-60, 4))
    assert clock.now == START + 3500


def test_a_sink_slower_than_the_rate_does_not_prolong_the_duration() -> None:
    clock = Clock()

    class Slow(io.BytesIO):
        def flush(self) -> None:
            clock.now += 5000

    messages, _ = write(Kiln(), clock, Slow(), duration_ms=10_000)
    assert times(messages) == [0, 1]


def test_history_comes_at_once_and_ends_where_live_begins() -> None:
    clock = Clock()
    sink = Arrivals(clock)
    messages, _ = write(Kiln(), clock, sink, history_ms=3000, records=25)
    assert times(messages) == [-3, -2, -1, 0, 1]
    assert sink.seen == [(START, 20), (START + 1000, 25)]


def test_history_alone_needs_no_live_tick() -> None:
    clock = Clock()
    messages, _ = write(Kiln(), clock, history_ms=600_000, duration_ms=0)
    assert len(messages) == 3000
    assert times(messages)[-1] == -1
    assert not clock.slept


def test_records_end_the_run_without_waiting_for_another_tick() -> None:
    clock = Clock()
    assert len(write(Kiln(), clock, records=5, history_ms=5000)[0]) == 5
    assert len(write(Kiln(), clock, records=5)[0]) == 5
    assert not clock.slept


@pytest.mark.parametrize("limit", [{"records": 500}, {"duration_ms": 100_000}])
def test_a_run_that_is_not_paced_never_sleeps_and_starts_where_told(limit: dict[str, int]) -> None:
    clock = Clock(now=START + 999_999)
    messages, _ = write(Kiln(), clock, pace=False, start_ms=START, **limit)
    assert times(messages) == list(range(100))
    assert not clock.slept


def test_a_paced_run_may_tell_of_another_time() -> None:
    clock = Clock(now=START + 999_999)
    messages, _ = write(Kiln(), clock, start_ms=START, duration_ms=2000)
    assert times(messages) == [0, 1]
    assert clock.slept == [1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"records": 0},
        {"duration_ms": -1},
        {"history_ms": -1},
        {"rate": 0},
        {"interval_ms": 0},
        {"interval_ms": float("nan")},
        {"rate": 1, "interval_ms": 1000},
        {"pace": False},
        {"start_ms": START * 1000},
        {"start_ms": 0, "history_ms": 1000},
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(wrong: dict[str, Any]) -> None:
    sink = io.BytesIO()
    with pytest.raises(PlanError):
        simulate(Kiln(), sink, clock=Clock(), sleep=Clock().sleep, target="-", **wrong)
    assert not sink.getvalue()


# A sink that fails


def test_a_pipe_that_nobody_reads_ends_the_run_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    clock = Clock()
    with open(writing, "wb") as sink:
        assert simulate(Kiln(), sink, clock=clock, sleep=clock.sleep, target="stdout") == 0


def test_a_reader_who_leaves_early_sees_no_complaint() -> None:
    program = (
        "import sys; from headrace.simulate import Kiln, simulate\n"
        "simulate(Kiln(), sys.stdout.buffer, clock=lambda: 0, sleep=None, target='-', records=100_000, pace=False)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'{"equip_id":110,')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("pace", [True, False])
def test_a_full_disk_is_told_with_its_name_and_the_mend(pace: bool) -> None:
    clock = Clock()
    with pytest.raises(EnvironmentFault, match=r"^/dev/full: .*No space left.*; free some space"), open("/dev/full", "wb") as sink:
        simulate(Kiln(), sink, clock=clock, sleep=clock.sleep, target="/dev/full", records=100_000, pace=pace)
