"""The simulated water plant: balance and bounds in normal operation, scenarios that manipulate their targets alone, labels, and equal bytes."""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import os
import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main
from headrace.errors import PlanError
from headrace.plant.quality import Quality
from headrace.simulate import Water
from headrace.simulate.source import source
from headrace.simulate.water import SCENARIOS, water_tags
from headrace.simulate.water.plant import NOISE, Row
from headrace.simulate.water.process import ACTUATORS, FULL_MM, MM_PER_SECOND, SENSORS

START = 1_704_067_200_000
AFTER = 400
TANKS = {"LIT101": ("FIT101", "FIT201"), "LIT301": ("FIT201", "FIT301"), "LIT401": ("FIT301", "FIT401")}
QUIET: dict[str, Any] = {"bad_share": 0.0, "maintenance": False}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)


def rows(water: Water, ticks: int, interval_ms: float = 1000) -> list[Row]:
    return list(itertools.islice(water.rows(START, interval_ms), ticks))


def lines(water: Water, ticks: int) -> list[bytes]:
    return [line for batch in itertools.islice(water.line_batches(START), ticks) for line in batch]


def number(row: Row, tag: str) -> float:
    value = row.values[tag]
    assert isinstance(value, float)
    return value


def test_a_row_has_the_51_tags_as_texts_and_its_time_in_ns() -> None:
    assert len(water_tags()) == 51 == len({*SENSORS, *ACTUATORS})
    message = json.loads(lines(Water(), 3)[-1])
    assert list(message) == ["t_stamp", *(tag.name for tag in water_tags())]
    assert message["t_stamp"] == "1704067202000000000"
    assert all(isinstance(value, str) for value in message.values())
    assert (message["MV101"], message["P101"], message["P102"]) == ("Open", "2", "1")


@pytest.mark.parametrize("seed", [0, 1])
def test_normal_operation_stays_within_the_limits_of_the_tag_list(seed: int) -> None:
    tags = {tag.name: tag for tag in water_tags()}
    switched = dict.fromkeys(ACTUATORS, 0)
    before: Row | None = None
    for row in rows(Water(seed, **QUIET), 4 * 3600 // 2, 2000):
        for name in SENSORS:
            tag, value = tags[name], number(row, name)
            assert tag.low is not None and tag.high is not None
            assert (tag.low if tag.l is None else tag.l) <= value <= (tag.high if tag.h is None else tag.h), name
        if before is not None:
            for name in ACTUATORS:
                switched[name] += before.states[name] != row.states[name]
        before = row
    # The controllers work: tanks are filled and emptied, chemicals dosed, filters rinsed.
    assert all(switched[name] >= 4 for name in ("MV101", "P101", "P201", "P203", "P205", "P301", "P403", "P602"))


@pytest.mark.parametrize("interval_ms", [250.0, 1000.0, 3000.0])
def test_the_mass_balance_of_each_tank_closes_within_the_noise(interval_ms: float) -> None:
    block = 600
    found = rows(Water(5, **QUIET), 8 * block, interval_ms)
    for level, (into, out) in TANKS.items():
        for start in range(0, len(found) - block, block):
            first, rest = found[start], found[start + 1 : start + block + 1]
            # With steps shorter than the interval, the flow that is measured at its end stands for all of it.
            gain = MM_PER_SECOND * interval_ms / 1000 * sum(number(row, into) - number(row, out) for row in rest)
            slack = 2 * NOISE[level] + 0.5 + 3 * (interval_ms > 1000) * interval_ms / 1000
            assert number(rest[-1], level) - number(first, level) == pytest.approx(gain, abs=slack)


@cache
def undisturbed() -> tuple[list[Row], list[bytes]]:
    """The rows of normal operation for as long as the longest scenario takes, and its first lines."""
    water = Water(2, **QUIET)
    return rows(water, AFTER + max(one.seconds for one in SCENARIOS.values())), lines(water, AFTER)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_changes_its_targets_from_its_start_to_its_end(name: str) -> None:
    scenario = SCENARIOS[name]
    end = AFTER + scenario.seconds
    water = Water(2, (name,), after_s=AFTER, **QUIET)
    normal, usual = undisturbed()
    assert lines(water, AFTER) == usual
    found = rows(water, end + 300)
    for tick, row in enumerate(found):
        active = AFTER <= tick < end
        assert [event.name for event in row.events] == [name] * active
        for tag in SENSORS:
            # What is not manipulated shows what is true.
            if not (active and tag in scenario.sensors):
                assert abs(number(row, tag) - row.true[tag]) <= NOISE[tag]
    during = [(row, other) for row, other in zip(found[AFTER:end], normal[AFTER:end], strict=True)]
    for tag in scenario.targets:
        if tag in SENSORS:
            assert any(row.values[tag] != other.values[tag] for row, other in during)
    switched = [tag for tag in scenario.actuators if any(row.states[tag] != other.states[tag] for row, other in during)]
    assert switched or scenario.shown or not scenario.actuators
    assert all(0 <= row.true[level] <= FULL_MM for row in found for level in TANKS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_manipulated_sensor_shows_what_its_scenario_says(name: str) -> None:
    scenario = SCENARIOS[name]
    shown = rows(Water(3, (name,), after_s=AFTER, **QUIET), AFTER + 60)[AFTER:]
    for tag, effect in scenario.sensors.items():
        values = [row.values[tag] for row in shown]
        match type(effect).__name__:
            case "NoValue":
                assert set(values) == {"Bad Input"}
            case "Hold" | "Freeze":
                assert len(set(values)) == 1
            case "Drift":
                assert number(shown[-1], tag) - shown[-1].true[tag] == pytest.approx(effect.per_second * 59)  # type: ignore[union-attr]
            case "Replay":
                before = rows(Water(3, **QUIET), AFTER)
                assert values == [row.values[tag] for row in before[AFTER - 300 :][:60]]
    for tag, forced in scenario.actuators.items():
        states = [row.states[tag] for row in shown]
        assert len(set(states)) == (2 if type(forced).__name__ == "Toggle" else 1)


def test_there_are_attacks_and_faults_with_technique_and_extent() -> None:
    assert len(SCENARIOS) >= 15
    assert all((one.technique.startswith("T0") and len(one.technique) == 5) == (one.kind == "attack") for one in SCENARIOS.values())
    assert {one.extent for one in SCENARIOS.values()} == {"SSSP", "SSMP", "MSSP", "MSMP"}


def test_the_page_lists_all_scenarios() -> None:
    page = (Path(__file__).parents[2] / "docs" / "water.md").read_text()
    for one in SCENARIOS.values():
        assert f"| `{one.name}` | {one.technique or '–'} | {one.extent} | {one.seconds // 60} min | {one.description} |" in page


def test_scenarios_follow_each_other_and_do_not_overlap() -> None:
    water = Water(4, tuple(SCENARIOS))
    planned = list(itertools.islice(water.planned(), 4 * len(SCENARIOS)))
    assert [event.start_s for event in planned] == sorted(event.start_s for event in planned)
    assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(planned))
    assert [event.name for event in planned if event.scenario is not None][: len(SCENARIOS)] == list(SCENARIOS)
    assert planned != list(itertools.islice(replace(water, seed=5).planned(), len(planned)))


def test_bad_quality_and_maintenance_come_by_themselves_and_change_no_noise() -> None:
    usual, spoilt = rows(Water(6, **QUIET), 2000), rows(Water(6, bad_share=0.1, maintenance=False), 2000)
    bad = [[tag for tag in SENSORS if row.values[tag] == "Bad Input"] for row in spoilt]
    assert {tag for tags in bad for tag in tags} == {*SENSORS}
    assert 0.5 < sum(map(len, bad)) / len(bad) < 2
    first = next(tick for tick, tags in enumerate(bad) if tags)
    assert first > 0
    assert [row.values for row in spoilt[:first]] == [row.values for row in usual[:first]]
    kept = rows(Water(6, bad_share=0.0), 3600 * 2)
    calibrated = {row.time_ms for row in kept if row.values["AIT201"] == "Bad Input"}
    assert (min(calibrated), max(calibrated)) == (START + 60_000, START + 359_000)
    assert any(row.states["P102"] for row in kept) and not any(row.states["P101"] and row.states["P102"] for row in kept)


def test_equal_seeds_give_equal_bytes_in_another_process() -> None:
    options = ["--records", "1500", "--seed", "7", "--start", "2024-01-01T00:00:00Z", "--scenarios", "all", "--scenarios-after", "5m"]
    assert main(["simulate", "water", "--to", "here.ndjson", "--labels", "here.csv", *options]) == 0
    there = ["simulate", "water", "--to", "there.ndjson", "--labels", "there.csv", *options]
    environment = {**os.environ, "PYTHONHASHSEED": "12"}
    subprocess.run([sys.executable, "-m", "headrace", *there], check=True, stdout=subprocess.DEVNULL, env=environment, timeout=180)
    for name in ("ndjson", "csv", "details.csv"):
        assert Path(f"here.{name}").read_bytes() == Path(f"there.{name}").read_bytes()
    assert lines(Water(7), 5) != lines(Water(8), 5)


def test_rows_of_attacks_go_to_a_topic_of_their_own_and_labels_say_when() -> None:
    options = ["--records", "1400", "--seed", "1", "--start", "2024-01-01T00:00:00Z", "--scenarios", "uv_off_hidden,filter_tank_leak"]
    targets = ["--to", "normal.ndjson", "--attacks-to", "attacks.ndjson", "--labels", "out/labels.csv"]
    assert main(["simulate", "water", *targets, *options, "--scenarios-after", "30s"]) == 0
    attacks = [json.loads(line) for line in Path("attacks.ndjson").read_text().splitlines()]
    assert {row["attack_type"] for row in attacks} == {"uv_off_hidden"}
    assert {row["UV401"] for row in attacks} == {"2"}
    assert [int(row["t_stamp"]) // 1_000_000_000 - START // 1000 for row in attacks] == list(range(30, 1230))
    assert len(Path("normal.ndjson").read_text().splitlines()) == 200
    assert Path("out/labels.csv").read_text() == ("start,end,name,tags\n2024-01-01T00:00:30Z,2024-01-01T00:20:30Z,uv_off_hidden,UV401\n")
    with Path("out/labels.details.csv").open(newline="") as file:
        details = list(csv.DictReader(file))
    assert [(one["name"], one["kind"], one["technique"], one["extent"]) for one in details] == [("uv_off_hidden", "attack", "T0832", "SSSP")]


def test_rows_of_attacks_go_to_topics_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--records", "90", "--rate", "10000", "--scenarios", "feed_pump_toggled", "--scenarios-after", "0s", "--labels", "labels.csv"]
    assert main(["simulate", "water", "--to", "topic:scada.normal", "--attacks-to", "topic:scada.attacks", *options]) == 0
    capsys.readouterr()
    assert main(["topics", "tail", "scada.attacks", "--lines", "1000"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 90


def test_readings_are_the_values_of_the_rows() -> None:
    water = Water(9, bad_share=0.02)
    tags = {tag.path: tag for tag in water_tags()}
    found = iter([json.loads(line) for line in lines(replace(water, readings=True), 100)])
    for row in map(json.loads, lines(water, 100)):
        for reading in itertools.islice(found, 51):
            tag, text = tags[reading["tag"]], row[tags[reading["tag"]].name]
            expected: dict[str, Any] = {"tag": tag.path, "time": int(row["t_stamp"]) // 1_000_000, "value": text, "quality": 0, "unit": tag.unit}
            if text == "Bad Input":
                expected |= {"value": None, "quality": int(Quality.BAD_NO_DATA)}
            elif tag.name in SENSORS:
                expected["value"] = float(text)
            assert reading == expected
    assert not list(found)


def test_a_plant_file_names_scenarios_and_when_they_begin() -> None:
    async def first(count: int) -> list[dict[str, str]]:
        events = await source("simulate:water?seed=3&interval=500&after=1&scenarios=uv_off_hidden,flows_frozen").open(None)
        assert events is not None
        async with aclosing(events):
            return [json.loads((await anext(events)).value) for _ in range(count)]

    rows = asyncio.run(first(3))
    assert [row.get("attack_type") for row in rows] == [None, None, "uv_off_hidden"]
    for address, says in {
        "simulate:water?scenarios=uv_of_hidden": "did you mean 'uv_off_hidden'",
        "simulate:water?scenario=all": "did you mean 'scenarios'",
        "simulate:kiln?scenarios=all": "has no parameter 'scenarios'",
        "simulate:water?after=soon": "parameter after is 'soon'",
    }.items():
        with pytest.raises(PlanError) as caught:
            source(address)
        assert says in str(caught.value)


IMPOSSIBLE: list[dict[str, Any]] = [
    {"scenarios": ("uv_of",)},
    {"bad_share": 1.5},
    {"after_s": -1.0},
    {"after_s": float("nan")},
    {"marked": True, "readings": True},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_an_impossible_plant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        Water(**wrong)


def test_wrong_use_is_reported_with_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "water", "--records", "1", "--scenarios", "uv_of_hidden"]) == 2
    assert "did you mean 'uv_off_hidden'?" in capsys.readouterr().err
    assert main(["simulate", "kiln", "--records", "1", "--scenarios", "all"]) == 2
    assert "options of water are given" in capsys.readouterr().err
    assert main(["simulate", "water", "--records", "1", "--to", "x.ndjson", "--labels", "x.ndjson/labels.csv"]) == 1
    assert "labels.csv: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--labels", "."), ".: is a folder; name a file"),
        (("--to", "x.nd", "--attacks-to", "x.nd"), "--attacks-to: is the target of --to"),
        (("--to", "topic:x", "--attacks-to", "topic:x"), "--attacks-to: is the target of --to"),
        (("--to", "x.nd", "--attacks-to", "./a/../x.nd"), "is also the file of --to"),
        (("--to", "x.nd", "--labels", "x.nd"), "--labels x.nd: is also the file of --to"),
        (("--to", "x.details.csv", "--labels", "x.csv"), "the details of --labels x.details.csv: is also the file of --to"),
        (("--rate", "1e-300"), "days between messages; give a higher rate"),
        (("--rate", "1e-9"), "days between messages; give a higher rate"),
    ],
)
def test_targets_that_destroy_each_other_and_endless_intervals_are_refused(
    options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "water", "--records", "1", *options]) == 2
    assert says in capsys.readouterr().err
    assert not any(Path().iterdir())


def test_a_source_with_more_than_a_day_between_messages_is_refused() -> None:
    with pytest.raises(PlanError, match="parameter interval is '86400001'"):
        source("simulate:water?interval=86400001")
    assert source("simulate:water?interval=86400000").name == "simulate:water"
