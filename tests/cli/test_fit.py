"""`headrace fit` on files: what is a tag, what is normal, and history that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from headrace.cli import main
from headrace.detect.model_file import load

BEGAN = 1_767_225_600_000


def rows(count: int = 200) -> list[dict[str, Any]]:
    random = np.random.default_rng(4)
    found = []
    for place, (flow, level) in enumerate(random.normal(size=(count, 2)).round(4).tolist()):
        valve = "Open" if place // 10 % 2 else "Closed"
        found.append({"t_stamp": f"{BEGAN + 1000 * place}000000", "flow": str(flow), "level": str(flow - level), "valve": valve, "spare": "1"})
    return found


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)

    def call(given: list[dict[str, Any]] | str, *arguments: str, kind: str = "robust_z") -> tuple[int, str]:
        text = given if isinstance(given, str) else "".join(json.dumps(row) + "\n" for row in given)
        Path("h.ndjson").write_text(text)
        status = main(["fit", kind, "--input", "h.ndjson", "--to", "m.json", *arguments])
        out, err = capsys.readouterr()
        return status, out + err

    return call


def test_a_model_is_written_and_what_was_fitted_is_printed(fit: Callable[..., tuple[int, str]]) -> None:
    given = rows()
    given[3]["flow"] = "Bad Input"
    given[7] = {**given[7], "level": "null"}
    status, out = fit(given, "--set", "lags=1", "--k", "2", "--n", "3", kind="var")
    model = load("m.json")
    assert status == 0, out
    assert out.splitlines()[:4] == [
        "var of 3 tags: flow, level, valve",
        "fitted to 140 rows from 2026-01-01T00:00:00.000Z on, one every 1 s; 60 rows up to 2026-01-01T00:03:19.000Z held out",
        "left out, constant: spare",
        "missing values: flow 1, level 1",
    ]
    assert out.splitlines()[4].startswith(f"threshold {model.threshold:.6g}: ")
    assert out.splitlines()[-1] == f"model m.json, version {model.version}"
    assert (model.name, model.tags, model.states) == ("m", ("flow", "level", "valve"), {"valve": ("Closed", "Open")})
    assert (model.training.rows, model.training.held_out, model.training.start, model.k, model.n) == (140, 60, BEGAN, 2, 3)


def test_the_same_model_comes_of_ndjson_csv_parquet_and_readings(fit: Callable[..., tuple[int, str]]) -> None:
    given = rows()
    assert fit(given)[0] == 0
    expected = load("m.json")
    pl.DataFrame(given).write_csv("h.csv", separator=";")
    pl.DataFrame(given).write_parquet("h.parquet")
    readings = [{"tag": tag, "time": int(row["t_stamp"]) // 1_000_000, "value": row[tag]} for row in given for tag in list(row)[1:]]
    Path("r.ndjson").write_text("".join(json.dumps(one) + "\n" for one in readings))
    for name in ("h.csv", "h.parquet", "r.ndjson"):
        assert main(["fit", "robust_z", "--input", name, "--to", "m.json"]) == 0
        assert load("m.json") == expected


def test_rows_of_events_and_outside_of_normal_stretches_are_left_out(fit: Callable[..., tuple[int, str]]) -> None:
    given = rows()
    for place in range(50, 60):
        given[place]["flow"] = "1000"
    Path("l.csv").write_text("start,end,name\n2026-01-01T00:00:50Z,2026-01-01T00:00:57Z,attack\n")
    status, out = fit(given, "--labels", "l.csv", "--grace", "2s", kind="range")
    assert (status, load("m.json").training.excluded) == (0, 10), out
    assert "excluded: 10 rows that are not normal" in out
    assert max(load("m.json").fitted.bounds.high) < 10  # type: ignore[union-attr]
    status, out = fit(given, "--normal", "2026-01-01T00:01:00Z..2026-01-01T00:03:00Z", kind="range")
    assert (status, load("m.json").training.excluded) == (0, 79), out


def test_units_come_from_the_tag_list(fit: Callable[..., tuple[int, str]]) -> None:
    Path("tags.csv").write_text("path,unit\nw/flow,MQH\nw/level,MMT\n")
    assert fit(rows(), "--tag-list", "tags.csv", "--name", "tank")[0] == 0
    assert (load("m.json").units, load("m.json").name) == ({"flow": "MQH", "level": "MMT"}, "tank")


def test_rows_of_one_asset_and_tags_in_an_object(fit: Callable[..., tuple[int, str]]) -> None:
    given = [
        {"equip": equip, "time": int(row["t_stamp"]) // 1_000_000, "data": {"flow": float(row["flow"]) * factor, "note": f"note {place}"}}
        for place, row in enumerate(rows())
        for equip, factor in (("a", 1.0), ("b", 1000.0))
    ]
    status, out = fit(given, "--only", "equip=a", "--values", "data", kind="range")
    assert status == 0, out
    assert load("m.json").tags == ("flow",)
    assert max(load("m.json").fitted.bounds.high) < 10  # type: ignore[union-attr]
    assert "left out, 200 different texts: note" in out


def test_lines_that_cannot_be_read_cost_none_of_their_neighbours(fit: Callable[..., tuple[int, str]]) -> None:
    lines = [json.dumps(row) for row in rows()]
    status, out = fit("\n".join([*lines[:5], "{not json", "[1]", *lines[5:], lines[-1]]) + "\n")
    assert status == 0
    assert "headrace: 2 lines could not be read; the first is h.ndjson record 6" in out
    assert "left out: 1 row with a time that there was already" in out
    assert load("m.json").training.rows == 140


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tags", "flow,levels"], "--tags: there is no column 'levels'; did you mean 'level'?"),
        (["--tags", "flow,spare"], "--tags: column 'spare' cannot be used: constant; leave it out"),
        (["--time", "stamp"], "h.ndjson record 1: has no time in column 'stamp'; name it: --time; did you mean 't_stamp'?"),
        (["--time", "valve"], "h.ndjson record 1, column valve: 'Closed' is not a time; write ISO 8601, or a number of s, ms, µs or ns since 1970"),
        (
            ["--normal", "2027-01-01..2027-01-02"],
            "--normal: no part of it is within the history, which is from 2026-01-01T00:00:00Z to 2026-01-01T00:03:19Z",
        ),
        (["--normal", "today"], "--normal: 'today' is not a stretch of time START..END; write 2026-01-01T00:00Z..2026-01-01T06:00Z"),
        (["--labels", "l.csv"], "--labels: no part of it is within the history"),
        (["--labels", "all.csv"], "no row of the history is normal"),
        (["--only", "equip=a"], "--only: the first row has no column 'equip'; there is: flow, level, spare, t_stamp, valve"),
        (["--only", "valve=Shut"], "--only: no row has valve=Shut; the first row has valve=Closed"),
        (["--only", "valve=Open", "--only", "valve=Closed"], "--only: column 'valve' has two values; fit a model for each asset"),
        (["--values", "data"], "--values: no row has an object in column 'data'; name the column with the object of all tags"),
        (["--grace", "5m"], "--grace: there are no labels that it is after; give --labels, or leave it out"),
        (["--grace", "-5s"], "parameter --grace requires an argument.\n"),
        (["--tail", "lognormal", "--false-alarm-rate", "1e-300"], "false_alarm_rate: is 1e-300; give a rate of 1e-15 or more, or tail=quantile"),
        (["--set", "lag=3"], "fit robust_z: robust_z has no parameter 'lag'; leave it out"),
        (["--set", "lag"], "--set: 'lag' is not KEY=VALUE"),
        (["--false-alarm-rate", "1.5"], "false_alarm_rate: is 1.5; give a number between 0 and 1"),
        (["--holdout", "0.95"], "there are 10 rows to fit and 190 to calibrate the threshold"),
        (["--input", "h.xls"], "the format of 'h.xls' is not known"),
    ],
)
def test_what_cannot_be_is_refused(fit: Callable[..., tuple[int, str]], arguments: list[str], message: str) -> None:
    Path("l.csv").write_text("start,end,name\n2025-01-01,2025-01-02,attack\n")
    Path("all.csv").write_text("start,end,name\n2025-01-01,2027-01-02,attack\n")
    status, out = fit(rows(), *arguments)
    assert status in {1, 2}
    assert message in out
    assert not Path("m.json").exists()


def test_an_unknown_kind_an_empty_file_and_a_model_in_place_of_the_history_are_refused(
    fit: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "fit: unknown kind 'pcs'; did you mean 'pca'?" in fit(rows(), kind="pcs")[1]
    assert "the history has no rows" in fit("")[1]
    assert main(["fit", "pca", "--input", "h.ndjson", "--to", "./h.ndjson"]) == 2
    assert "is also the file of an input" in capsys.readouterr().err


HUGE = "1" + "0" * 400


@pytest.mark.parametrize("kind", ["range", "rate", "states", "robust_z", "ewma", "ar", "mahalanobis"])
def test_values_beyond_the_range_of_squares_are_missing_and_the_model_can_be_read(
    fit: Callable[..., tuple[int, str]], recwarn: pytest.WarningsRecorder, kind: str
) -> None:
    lines = [json.dumps(row) for row in rows()]
    for place, value in ((5, "1e308"), (6, "-1e308"), (7, HUGE), (8, f'"{HUGE}"')):
        lines[place] = lines[place].replace(f'"flow": "{rows()[place]["flow"]}"', f'"flow": {value}')
    status, out = fit("\n".join(lines) + "\n", kind=kind)
    assert status == 0, out
    assert "missing values: flow 4" in out
    assert load("m.json").tags[:2] == ("flow", "level")
    assert not recwarn.list


@pytest.mark.parametrize("time", [None, True, "soon", 1e300, 10**30, "0001-01-01T00:00:00+14:00", "", [], {}], ids=str)
def test_a_row_without_a_time_costs_none_of_its_neighbours(fit: Callable[..., tuple[int, str]], time: object) -> None:
    given = rows()
    given[5]["t_stamp"] = time  # type: ignore[assignment]
    status, out = fit([*given, {"flow": 1}])
    assert status == 0, out
    assert "headrace: 2 rows left out that had no time; the first: h.ndjson record 6, column t_stamp: " in out
    assert load("m.json").training.rows + load("m.json").training.held_out == 199


def test_a_line_with_too_many_brackets_is_counted(fit: Callable[..., tuple[int, str]]) -> None:
    lines = [json.dumps(row) for row in rows()]
    status, out = fit("\n".join([*lines[:5], '{"t_stamp": 1, "flow": ' + "[" * 5000 + "]" * 5000 + "}", *lines[5:]]) + "\n")
    assert status == 0, out
    assert "headrace: 1 line could not be read; the first is h.ndjson record 6" in out


def test_too_few_times_are_reported_before_constant_columns(fit: Callable[..., tuple[int, str]]) -> None:
    assert "there are 1 rows to fit and 0 to calibrate the threshold" in fit(rows(1))[1]
    out = fit([{**row, "t_stamp": "1"} for row in rows()])[1]
    assert "fit: 200 rows have only 1 different times; name the column with the time: --time" in out


@pytest.mark.usefixtures("fit")
def test_bad_readings_of_csv_files_are_missing_and_decimals_are_numbers() -> None:
    lines = ["tag,time,value,quality"]
    for place, row in enumerate(rows()):
        bad = place % 10 == 0
        lines.append(f"flow,{BEGAN + 1000 * place},{1000 if bad else row['flow']},{2147483648 if bad else 0}")
    Path("r.csv").write_text("\n".join(lines) + "\n")
    assert main(["fit", "range", "--input", "r.csv", "--to", "m.json"]) == 0
    assert max(load("m.json").fitted.bounds.high) < 10  # type: ignore[union-attr]
    pl.DataFrame(rows()).with_columns(pl.col("flow").cast(pl.Decimal(20, 6))).write_parquet("d.parquet")
    assert main(["fit", "range", "--input", "d.parquet", "--to", "m.json"]) == 0
    assert load("m.json").tags[0] == "flow"
