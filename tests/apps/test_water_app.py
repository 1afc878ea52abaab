"""The water plant's pipeline: the documents' own messages, alerts and severity against plain Python, numbers that last, and kills."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from headrace.apps.water import Alerts, Limits, metrics, water
from headrace.cli import main
from headrace.plant.tags import Tag, csv_of_tags
from headrace.simulate import Water
from headrace.simulate.water import water_tags

Row = dict[str, Any]

NORMAL = {"t_stamp": "1574649591000000000", "P1": "100.5", "P2": "98.2", "P1_STATE": "Open", "FIT101": "45.6"}
ATTACK = {**NORMAL, "attack_type": "attack_1"}
START = 1_704_067_200_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)


def written(path: str, rows: Iterable[Row]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: str) -> list[Row]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def run(normal: list[Row], attacks: list[Row], *settings: str, app: str = "water", out: str = "out") -> None:
    inputs = ["--input", f"scada.normal={written('normal.ndjson', normal)}", "--input", f"scada.attacks={written('attacks.ndjson', attacks)}"]
    assert main(["run", app, *inputs, "--output", out, *itertools.chain.from_iterable(("--set", one) for one in settings)]) == 0


def at(second: float, **fields: str) -> Row:
    return {"t_stamp": str(int((1_574_649_591 + second) * 1000)) + "000000", **fields}


def simulated(scenario: str, seconds: int, seed: int = 0, **faults: Any) -> tuple[list[Row], list[Row]]:
    plant = Water(seed, (scenario,), after_s=60, marked=True, **faults)
    rows = [json.loads(line) for batch in itertools.islice(plant.line_batches(START), seconds) for line in batch]
    return [row for row in rows if "attack_type" not in row], [row for row in rows if "attack_type" in row]


def test_the_messages_of_the_documents() -> None:
    run([NORMAL], [ATTACK])
    normal, attack = sorted(read("out/scada.processed.ndjson"), key=lambda row: row["data_type"], reverse=True)
    assert normal == {
        **NORMAL, "processed_at": "2019-11-25T02:39:51", "avg_pressure": 99.35, "pressure_variance": pytest.approx(2.645),
        "data_type": "normal", "severity": "low",
    }  # fmt: skip
    assert attack == {**normal, "attack_type": "attack_1", "data_type": "attack", "severity": "high"}
    sensors = {name: text for name, text in NORMAL.items() if name != "t_stamp"}
    assert read("out/scada.alerts.ndjson") == [
        {
            "alert_id": "ALERT_000001", "timestamp": "1574649591000000000", "sensor_data": sensors, "alert_type": "attack",
            "severity": "high", "message": "Attack detected: attack_1",
        }
    ]  # fmt: skip


def test_pressures_are_those_of_the_tag_list_and_states_are_none() -> None:
    rows = [
        at(0, P1="100.5", P2="98.2", P1_STATE="2"), at(1, P1="Bad Input", P2="98.2"), at(2, LIT101="600.0"), at(3, **{"PIT501.Pv": "250", "PIT 502": "1"}),
    ]  # fmt: skip
    run(rows, [], "variance=population")
    found = [(row["avg_pressure"], row["pressure_variance"]) for row in read("out/scada.processed.ndjson")]
    assert found == [(99.35, pytest.approx(1.3225)), (98.2, 0.0), (None, None), (125.5, pytest.approx(124.5**2))]
    run(rows, [], out="sample")
    assert [row["pressure_variance"] for row in read("sample/scada.processed.ndjson")] == [
        pytest.approx(2.645),
        None,
        None,
        pytest.approx(2 * 124.5**2),
    ]


def test_an_attack_alerts_once_until_it_was_quiet() -> None:
    attacks = [at(second, P1="1", attack_type="one") for second in (0, 1, 30, 200)] + [at(201, P1="1", attack_type="two"), at(202, P1="1")]
    run([at(second, P1="1") for second in range(0, 300, 10)], attacks)
    assert [(row["alert_id"], row["message"]) for row in read("out/scada.alerts.ndjson")] == [
        ("ALERT_000001", "Attack detected: one"),
        ("ALERT_000002", "Attack detected: one"),
        ("ALERT_000003", "Attack detected: two"),
        ("ALERT_000004", "Attack detected: unknown"),
    ]
    run([], attacks, "every_record=true", out="each")
    assert len(read("each/scada.alerts.ndjson")) == len(attacks)


def test_attacks_at_the_same_time_alert_once_each() -> None:
    attacks = [at(second, P1="1", attack_type=name) for second, name in enumerate(["one", "two"] * 3 + [""] * 3 + ["two"] * 60 + ["one"])]
    run([at(second, P1="1", attack_type="") for second in range(0, 200, 10)], attacks, "active=true")
    assert [(row["alert_id"], row["active"], row["message"]) for row in read("out/scada.alerts.ndjson")] == [
        ("ALERT_000001", 1, "Attack detected: one"),
        ("ALERT_000002", 1, "Attack detected: two"),
        ("ALERT_000003", 1, "Attack detected: unknown"),
        ("ALERT_000001", 0, "Attack ended: one"),
        ("ALERT_000003", 0, "Attack ended: unknown"),
        ("ALERT_000004", 1, "Attack detected: one"),
        ("ALERT_000002", 0, "Attack ended: two"),
        ("ALERT_000004", 0, "Attack ended: one"),
    ]


def test_limits_of_a_tag_list_alert_with_a_deadband() -> None:
    Path("tags.csv").write_text(csv_of_tags([Tag("plant/LIT101", low=0, high=1000, ll=250, l=400, h=850, hh=950, deadband=10)]))
    levels = [600, 849, 851, 845, 951, 860, 839, 399, 240, 395, 1200]
    run([at(second, LIT101=str(level)) for second, level in enumerate(levels)], [], "tags=tags.csv", "active=true")
    assert [(row["alert_id"], row["severity"], row["active"], row["message"]) for row in read("out/scada.alerts.ndjson")] == [
        ("ALERT_000001", "medium", 1, "Anomaly detected: LIT101 is 851, above H 850"),
        ("ALERT_000001", "low", 0, "Replaced by ALERT_000002"),
        ("ALERT_000002", "high", 1, "Anomaly detected: LIT101 is 951, above HH 950"),
        ("ALERT_000002", "low", 0, "LIT101 is 839, within its limits"),
        ("ALERT_000003", "medium", 1, "Anomaly detected: LIT101 is 399, below L 400"),
        ("ALERT_000003", "low", 0, "Replaced by ALERT_000004"),
        ("ALERT_000004", "high", 1, "Anomaly detected: LIT101 is 240, below LL 250"),
        ("ALERT_000004", "low", 0, "Replaced by ALERT_000005"),
        ("ALERT_000005", "high", 1, "Anomaly detected: LIT101 is 1200, above HH 950"),
    ]
    assert [row["severity"] for row in read("out/scada.processed.ndjson")] == [
        "low", "low", "medium", "low", "high", "medium", "low", "medium", "high", "medium", "high",
    ]  # fmt: skip


def expected(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """The alerts of rows in the order of time, in plain Python: type and tag or attack."""
    tags = [tag for tag in water_tags() if tag.low is not None]
    levels: dict[str, str] = {}
    attack, last = None, 0
    for row in rows:
        time = int(row["t_stamp"]) // 1_000_000
        if "attack_type" in row:
            if row["attack_type"] != attack or time - last > 60_000:
                yield "attack", row["attack_type"]
            attack, last = row["attack_type"], time
        for tag in tags:
            if row[tag.name] == "Bad Input":
                continue
            value, before, level = float(row[tag.name]), levels.get(tag.name, ""), ""
            deadband = tag.deadband or 0.0
            for name, limit in (("HH", tag.hh), ("LL", tag.low if tag.ll is None else tag.ll), ("H", tag.h), ("L", tag.l)):
                slack = deadband if before == name else 0.0
                if not level and limit is not None and (value > limit - slack if "H" in name else value < limit + slack):
                    level = name
            levels[tag.name] = level
            if level not in ("", before) and before != 2 * level:
                yield "anomaly", f"{tag.name} {level}"


@pytest.mark.parametrize("scenario", ["filter_outlet_closed", "pressure_drop_spoofed"])
def test_alerts_of_the_simulated_plant_are_those_of_plain_python(scenario: str) -> None:
    normal, attacks = simulated(scenario, 1300, bad_share=0.02)
    run(normal, attacks, "tags=swat")
    found = []
    for alert in read("out/scada.alerts.ndjson"):
        words = alert["message"].replace(",", "").split()
        found.append((alert["alert_type"], words[-1] if alert["alert_type"] == "attack" else f"{words[2]} {words[-2]}"))
    wanted = list(expected(sorted([*normal, *attacks], key=lambda row: int(row["t_stamp"]))))
    assert found == wanted
    assert {kind for kind, _ in wanted} == {"attack", "anomaly"}
    processed = {row["t_stamp"]: row for row in read("out/scada.processed.ndjson")}
    for row in [*normal, *attacks]:
        made = processed[row["t_stamp"]]
        assert {name: made[name] for name in row} == row
        pressures = [float(row[name]) for name in ("PIT501", "PIT502", "PIT503") if row[name] != "Bad Input"]
        assert made["avg_pressure"] == (pytest.approx(statistics.fmean(pressures)) if pressures else None)
        assert made["pressure_variance"] == (pytest.approx(statistics.variance(pressures), abs=1e-9) if len(pressures) > 1 else None)


@pytest.mark.parametrize("seed", range(4))
def test_a_value_in_the_band_of_a_level_is_of_that_level_again(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        ll, l, h, hh = (limit if dice.random() < 0.8 else None for limit in sorted(dice.sample(range(100), 4)))  # noqa: E741
        low, high = (
            max((one for one in (ll, l) if one is not None), default=-math.inf),
            min((one for one in (h, hh) if one is not None), default=math.inf),
        )
        limits = Limits("T", ll, l, h, hh, dice.choice([0.0, 0.1, 3.0, 60.0]), low, high)
        for before in (None, "LL", "L", "H", "HH"):
            least, most = limits.band(before)
            near = [end + step for end in (ll, l, h, hh, least, most) if end is not None for step in (-0.1, 0.0, 0.1)]
            for value in [*near, dice.uniform(-20, 120)]:
                if least <= value <= most and math.isfinite(value):
                    assert limits.level(value, before) == before


@pytest.mark.parametrize("fields", [(), ("fields=LIT101,FIT101,FIT101.Pv,attack_type",)])
def test_rows_that_the_process_is_not_called_with_alert_of_nothing(fields: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(len(fields))
    level, rows, calls = 600.0, [], list[int]()
    for second in range(600):
        level = min(1000.0, max(0.0, level + dice.gauss(0, 12)))
        row = at(second / 2 - (3 if dice.random() < 0.05 else 0), LIT101=f"{level:.1f}", FIT101=dice.choice(["2.1", " 4.9 ", "Bad Input", "0.0"]))
        more = {"FIT101.Pv": "4.7"} if dice.random() < 0.02 else {"attack_type": f"attack_{second // 200}"} if dice.random() < 0.02 else {}
        rows.append(row | more)
    called = Alerts.on_record
    monkeypatch.setattr(Alerts, "on_record", lambda self, row, state: calls.append(1) or called(self, row, state))
    counts = []
    for name, per_key in {"every": 10**9, "needed": 1}.items():
        monkeypatch.setattr("headrace.engines.embedded.skipping._PER_KEY", per_key)
        monkeypatch.setattr("headrace.engines.embedded.skipping._AGAIN", 16)
        run(rows, [], "tags=swat", "active=true", "quiet_seconds=5", *fields, out=name)
        counts.append(len(calls))
        calls.clear()
    for name in ("scada.alerts.ndjson", "scada.processed.ndjson", "ledger.json"):
        assert Path("needed", name).read_bytes() == Path("every", name).read_bytes()
    assert Path("every/scada.alerts.ndjson").read_bytes()
    assert counts[1] < counts[0]


def topic(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["topics", "tail", name, "--lines", "100000"]) == 0
    return capsys.readouterr().out.splitlines()


def test_alerts_have_the_same_numbers_after_restarts_and_in_a_replay(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    normal, attacks = simulated("feed_pump_toggled", 700)
    live = ["run", "water", "--until", "latest", "--set", "tags=swat", "--set", "every_record=true"]
    found = []
    for home, cuts in (("pieces", [0, 100, 300, 1000]), ("replay", [0, 1000])):
        monkeypatch.setenv("HEADRACE_HOME", home)
        for begin, end in itertools.pairwise(cuts):
            for name, rows in (("scada.normal", normal), ("scada.attacks", attacks)):
                part = [row for row in rows if begin <= int(row["t_stamp"]) // 1_000_000_000 - START // 1000 < end]
                if begin == 0:
                    assert main(["topics", "create", name]) == 0
                assert main(["topics", "append", name, written("part.ndjson", part)]) == 0
            assert main(live) == 0
        found.append(topic("scada.alerts", capsys))
    pieces, replay = found
    assert pieces == replay
    numbers = [json.loads(line)["alert_id"] for line in pieces]
    assert numbers == [f"ALERT_{number:06}" for number in range(1, len(numbers) + 1)]
    assert len(numbers) > 500


def test_a_few_kills(capfd: pytest.CaptureFixture[str]) -> None:
    normal, attacks = simulated("feed_pump_toggled", 260)
    inputs = ["--input", f"scada.normal={written('n.ndjson', normal)}", "--input", f"scada.attacks={written('a.ndjson', attacks)}"]
    assert main(["prove", "water", "--kills", "1", "--partitions", "1", *inputs, "--set", "every_record=true"]) == 0
    assert "water: proved" in capfd.readouterr().out


def test_statistics_of_each_tag_without_states() -> None:
    rows = [at(second, LIT101=str(600 + second % 7), MV101="2", P1_STATE="1", FIT101="Bad Input") for second in range(0, 400, 5)]
    run(rows[::2], rows[1::2], app="water:metrics")
    for name, length in (("1m", 60), ("5m", 300)):
        for row in read(f"out/scada.metrics.{name}.ndjson"):
            end = int(row["window_end"][14:16]) * 60 + int(row["window_end"][17:19])
            times = [(int(one["t_stamp"]) // 10**9, float(one["LIT101"])) for one in rows]
            values = [value for time, value in times if end - length <= time % 3600 < end]
            assert (row["tag"], row["readings"], row["minimum"], row["maximum"]) == ("LIT101", len(values), min(values), max(values))
            assert row["average"] == pytest.approx(statistics.fmean(values))
            assert row["deviation"] == (pytest.approx(statistics.stdev(values)) if len(values) > 1 else None)


def test_the_whole_gives_the_bytes_that_its_parts_give() -> None:
    normal, attacks = simulated("raw_level_raised", 700, bad_share=0.02)
    run(normal, attacks, "tags=swat", out="parts")
    run(normal, attacks, "tags=swat", app="water:metrics", out="statistics")
    Path("none.ndjson").write_text("")
    inputs = [
        f"--input={topic}={path}.ndjson" for topic, path in (("scada.normal", "normal"), ("scada.attacks", "attacks"), ("alarm-commands", "none"))
    ]
    assert main(["run", "water:alarms", *inputs, "--output", "alarms"]) == 0
    assert main(["run", "water:whole", *inputs, "--output", "whole"]) == 0
    topics = [path.name for path in Path("whole").glob("*.ndjson") if not path.name.endswith("dead-letter.ndjson")]
    parts = {name: next(Path(part, name) for part in ("parts", "statistics", "alarms") if Path(part, name).exists()) for name in topics}
    assert len(parts) == 10
    assert {name: Path("whole", name).read_bytes() for name in topics} == {name: path.read_bytes() for name, path in parts.items()}


def test_fields_that_are_named_are_those_of_the_rows() -> None:
    normal, attacks = simulated("raw_level_raised", 400, bad_share=0.02)
    names = [name for name in normal[0] if name != "t_stamp"]
    run(normal, attacks, "tags=swat", out="free")
    run(normal, attacks, "tags=swat", f"fields={','.join(names)}", out="named")
    assert read("named/scada.alerts.ndjson") == read("free/scada.alerts.ndjson")
    assert read("named/scada.processed.ndjson") == [
        {name: value for name, value in row.items() if name != "attack_type"} for row in read("free/scada.processed.ndjson")
    ]
    run([at(0, **{"FIT 101": "4.7", "P 1": "x"}), at(1, P1="7")], [], "tags=swat", "fields=FIT 101, P 1", out="odd")
    assert [(row["P 1"], row["severity"], row["avg_pressure"]) for row in read("odd/scada.processed.ndjson")] == [
        ("x", "medium", None),
        (None, "low", None),
    ]


def test_changes_of_states_and_no_other_values() -> None:
    rows = [
        at(0, MV101="Open", P1_STATE="1", LIT101="1"),
        at(1, MV101="Closed", P1_STATE="1", LIT101="2"),
        at(2, P1_STATE="2"),
        at(3, MV101="Closed"),
    ]
    run(rows, [at(4, **{"MV101": "Open", "P101 Status": "2"}), at(5, **{"P101 Status": "1"})], app="water:states")
    assert [(row["tag"], row["before"], row["state"], row["t_stamp"][9]) for row in read("out/scada.states.ndjson")] == [
        ("MV101", "Open", "Closed", "2"), ("P1_STATE", "1", "2", "3"), ("MV101", "Closed", "Open", "5"), ("P101 Status", "2", "1", "6"),
    ]  # fmt: skip


def test_the_alerts_are_judged_by_the_labels_of_the_simulator() -> None:
    options = ["--records", "500", "--start", "2024-01-01T00:00:00Z", "--scenarios", "filter_outlet_closed", "--scenarios-after", "1m"]
    assert main(["simulate", "water", "--to", "rows.ndjson", "--labels", "labels.csv", *options]) == 0
    Path("none.ndjson").write_text("")
    inputs = ["--input", "scada.normal=rows.ndjson", "--input", "scada.attacks=none.ndjson"]
    judged = ["--topic", "scada.alerts", "--time", "time", "--set", "time=true", "--set", "tags=swat", "--report", "report"]
    assert main(["backtest", "water", "--labels", "labels.csv", *inputs, *judged]) == 0
    found = json.loads(Path("report/report.json").read_text())
    assert (found["events"], found["detected"], found["false_alarms_per_day"]) == (1, 1, 0)


def test_bad_rows_are_dead_letters_and_their_neighbours_are_processed() -> None:
    bad = ["{", '{"P1": "1"}', '{"t_stamp": "soon"}', '{"t_stamp": "1574649591"}', "[]"]
    Path("n.ndjson").write_text("\n".join([json.dumps(at(0, P1="1")), *bad, json.dumps(at(1, P1="2", LIT101="null", P2="NaN"))]))
    Path("a.ndjson").write_text("")
    assert (
        main(["run", "water", "--input", "scada.normal=n.ndjson", "--input", "scada.attacks=a.ndjson", "--output", "out", "--set", "tags=swat"]) == 0
    )
    assert len(read("out/scada.normal.dead-letter.ndjson")) == len(bad)
    assert [row["avg_pressure"] for row in read("out/scada.processed.ndjson")] == [1.0, 2.0]


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_a_cluster_refuses_the_rows_and_takes_the_statistics(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "water:metrics", "--engine", engine]) == 0
    assert "scada.metrics.5m" in capsys.readouterr().out
    assert main(["plan", "water:states", "--engine", engine]) == 0
    assert "scada.states" in capsys.readouterr().out
    assert main(["plan", "water", "--engine", engine]) == 2
    assert "writes the entries of 'fields' as fields" in capsys.readouterr().err
    assert main(["plan", "water", "--engine", engine, "--set", "fields=P1,P2"]) == 0
    assert "scada.alerts" in capsys.readouterr().out


SETTINGS = [
    ("variance=other", "sample or population"),
    ("tags=none.csv", "none.csv"),
    ("quiet_seconds=-1", "quiet_seconds is -1; give 0 to 31536000, a year"),
    ("fields=P1,severity", "fields names 'severity'; leave it out"),
    ("fields=t_stamp", "fields names 't_stamp'; leave it out"),
]


@pytest.mark.parametrize(("setting", "says"), SETTINGS)
def test_a_wrong_setting_is_reported(setting: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "water", "--set", setting]) != 0
    assert says in capsys.readouterr().err


def test_alarms_by_the_limits_of_the_tags_name_the_rows_that_raised_them() -> None:
    plant = Water(0, ("filter_outlet_closed",), after_s=60, bad_share=0, maintenance=False)
    rows = [json.loads(line) for batch in itertools.islice(plant.line_batches(START), 90) for line in batch]
    command = {
        "tag": "water/stage3/DPIT301",
        "definition": "HH",
        "time": int(rows[80]["t_stamp"]) // 1_000_000,
        "command": "acknowledge",
        "by": "ada",
    }
    inputs = [
        f"scada.normal={written('n.ndjson', rows)}",
        f"scada.attacks={written('a.ndjson', [])}",
        f"alarm-commands={written('c.ndjson', [command])}",
    ]
    assert main(["run", "water:alarms", *itertools.chain.from_iterable(("--input", one) for one in inputs), "--output", "out"]) == 0
    readings = read("out/scada.readings.ndjson")
    assert len(readings) == 90 * 51
    of = {(one["tag"], one["time"]): one["value"] for one in readings}
    found = [(one["alarm_id"], one["event"], one["by"]) for one in read("out/alarms.ndjson")]
    assert found == [
        ("water/stage3/DPIT301/H", "raise", "system"),
        ("water/stage3/DPIT301/HH", "raise", "system"),
        ("water/stage3/DPIT301/HH", "acknowledge", "ada"),
    ]
    for one in read("out/alarms.ndjson")[:2]:
        assert one["evidence"]["topic"] == "scada.normal"
        for _, offset in one["evidence"]["records"]:
            row = rows[offset]
            assert of[one["tag"], int(row["t_stamp"]) // 1_000_000] == float(row["DPIT301"]) > one["limit"]
    assert main(["run", "water:causes", "--input", "alarms=out/alarms.ndjson", "--output", "out"]) == 0
    (group,) = read("out/alarms.causes.ndjson")
    assert (group["event"], group["alarm_id"], group["cause"]) == ("grouped", "water/stage3/DPIT301/HH", "water/stage3/DPIT301/H")
    assert {of["water/stage3/MV302", int(row["t_stamp"]) // 1_000_000] for row in rows[60:]} == {1.0}, "the valve is closed"


def raised(name: str, rows: list[Row]) -> list[tuple[str, str, int, float | None]]:
    """Return the transitions of the alarms of the simulated plant that rows give."""
    inputs = [f"scada.normal={written('n.ndjson', rows)}", f"scada.attacks={written('a.ndjson', [])}", f"alarm-commands={written('c.ndjson', [])}"]
    words = itertools.chain.from_iterable(("--input", one) for one in inputs)
    assert main(["run", "water:alarms", *words, "--output", name]) == 0
    begin = int(rows[0]["t_stamp"]) // 1_000_000_000
    return [(one["alarm_id"], one["event"], one["time"] // 1000 - begin, one["value"]) for one in read(f"{name}/alarms.ndjson")]


@pytest.mark.parametrize("bad", ["Bad Input", "null", "NaN", "inf", "1e999", "", "12,5", "0x10", "9 mm"])
def test_what_is_no_number_moves_no_alarm_of_a_limit_and_its_neighbours_are_judged(bad: str) -> None:
    rows = [at(second, LIT101=bad if 2 <= second < 40 else "1150", LIT301="1150", UNKNOWN_7=bad) for second in range(50)]
    found = raised("out", rows)
    name = "water/stage1/LIT101"
    assert {(one, event) for one, event, *_ in found} == {
        *((f"{tag}/{kind}", "raise") for tag in (name, "water/stage3/LIT301") for kind in ("H", "HH")),
        (f"{name}/bad", "raise"),
        (f"{name}/bad", "clear"),
    }
    assert [(second, value) for one, _, second, value in found if one == f"{name}/bad"] == [(32, 1150.0), (40, 1150.0)]
    quality = {one["quality"] for one in read("out/scada.readings.ndjson") if one["tag"] == name}
    assert len(quality) == 2
    assert {one["tag"] for one in read("out/scada.readings.ndjson")} == {name, "water/stage3/LIT301"}, "a tag that is not in the list is none"


def test_a_tag_that_was_renamed_to_another_spelling_is_the_same_tag() -> None:
    rows = [
        at(second, **{"LIT101" if second < 5 else "LIT 101" if second < 9 else "LIT101.Pv": "1150" if second < 20 else "600"}) for second in range(30)
    ]
    assert [(one, event) for one, event, *_ in raised("out", rows)] == [
        (f"water/stage1/LIT101/{kind}", event) for event in ("raise", "clear") for kind in ("H", "HH")
    ]


def test_duplicates_and_rows_in_disorder_raise_what_the_rows_in_order_do() -> None:
    rows = [at(second, LIT101="1150" if 5 <= second < 20 else "600") for second in range(40)]
    expected = raised("in-order", rows)
    assert len(expected) == 4
    assert raised("twice", [row for row in rows for _ in range(2)]) == expected
    mixed = [row for row in rows for row in (row, rows[max(0, rows.index(row) - 3)])]  # each is followed by one that is 3 s older
    assert raised("mixed", mixed) == expected
    older = read("mixed/alarms.older.ndjson")
    assert len(older) == 39
    assert [one["older"] for one in older] == [*range(1, 40)]


@pytest.mark.long
def test_the_alarms_and_their_commands_are_proved_by_kills(capfd: pytest.CaptureFixture[str]) -> None:
    rows = [at(second, LIT101="1150" if second % 40 >= 20 else "600") for second in range(200)]
    tag = {"tag": "water/stage1/LIT101", "by": "ada", "reason": "a test"}
    commands: list[Row] = [
        {
            **tag,
            "definition": kind,
            "time": 1_574_649_591_000 + (25 + 40 * nth) * 1_000,
            "command": name,
            "one_shot": True if name == "shelve" else None,
        }
        for kind in ("H", "HH")
        for nth, name in enumerate(["acknowledge", "shelve", "acknowledge", "reset", "comment"])
    ]
    commands.sort(key=lambda one: one["time"])
    inputs = [
        f"scada.normal={written('n.ndjson', rows)}",
        f"scada.attacks={written('a.ndjson', [])}",
        f"alarm-commands={written('c.ndjson', commands)}",
    ]
    words = itertools.chain.from_iterable(("--input", one) for one in inputs)
    assert main(["prove", "water:alarms", "--kills", "2", "--partitions", "1", *words]) == 0
    assert "alarms: proved" in capfd.readouterr().out


def test_the_picture_of_the_template_names_each_tag_of_the_plant() -> None:
    drawing = ET.fromstring((files("headrace.cli") / "templates" / "shared" / "water.svg").read_bytes())
    named = [one.get("data-tag") for one in drawing.iter() if one.get("data-tag")]
    assert sorted(named) == sorted(tag.path for tag in water_tags())


def test_the_pipelines_have_plans() -> None:
    assert [sink.operator.topic for sink in water.plan().sinks] == ["scada.processed", "scada.alerts"]
    assert len(metrics.plan().sinks) == 2
    assert "active" not in Alerts({}, 0, sensor_data="MAP<STRING, STRING>", active=False, every_record=False).output
