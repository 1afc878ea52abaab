"""Files of public data sets: each layout to samples and spans, through `headrace import`, on real files where they are there."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from headrace.backtest.labels import labels_of
from headrace.cli import main
from headrace.plant.datasets import FORMATS

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


def imported(*command: str) -> list[dict[str, Any]]:
    assert main(["import", *command, "--to", "out.ndjson", "--labels", "labels.csv"]) == 0
    return [json.loads(line) for line in Path("out.ndjson").read_text().splitlines()]


def labels() -> list[str]:
    """The labels, which a backtest can read."""
    assert len(labels_of(Path("labels.csv"))) == len(Path("labels.csv").read_text().splitlines()) - 1
    return Path("labels.csv").read_text().splitlines()[1:]


SWAT = """,,P1,,P2
 Timestamp,FIT101, MV101,P101,Normal/Attack
 28/12/2015 10:00:00 AM,2.427057,2,2,Normal
 28/12/2015 10:00:01 AM,Bad Input,2,2,A ttack
 28/12/2015 12:00:02 PM,2.5,1,2,Attack
 28/12/2015 12:00:03 PM,2.5,1,2,Normal
 28/12/2015 12:00:04 PM,2.5,1,2,Attack
"""
HAI = """time;P1_B2004;P1_B2016;attack;attack_P1;attack_P2;attack_P3
2019-10-31 15:00:00;0.1;1.5;0;0;0;0
2019-10-31 15:00:01;0.1;1.5;1;0;1;0
2019-10-31 15:00:02;0.1;1.5;0;0;0;0
"""
NEW_HAI = """timestamp,P1_FCV01D,Attack
2021-07-10 00:00:01,29.5,0
2021-07-10 00:00:02,29.6,1
"""
BATADAL = """DATETIME, L_T1, S_PU1, ATT_FLAG
04/07/16 00,2.44,1,-999
04/07/16 01,2.66,1,1
04/07/16 02,2.7,0,-999
"""
TEP = "".join(" ".join(f"{row + column / 100:.7e}" for column in range(52)) + "\n" for row in range(163))


@pytest.mark.parametrize(
    ("format", "name", "text", "first", "spans"),
    [
        ("swat", "a.csv", SWAT, {"t_stamp": "1451296800000000000", "FIT101": "2.427057", "MV101": "2", "P101": "2"},
         ["2015-12-28T10:00:01Z,2015-12-28T12:00:03Z,attack 1", "2015-12-28T12:00:04Z,2015-12-28T12:00:05Z,attack 2"]),
        ("swat", "a.csv", SWAT.replace(",", ";").replace("2.4", "2,4"), {"t_stamp": "1451296800000000000", "FIT101": "2.427057", "MV101": "2", "P101": "2"},
         ["2015-12-28T10:00:01Z,2015-12-28T12:00:03Z,attack 1", "2015-12-28T12:00:04Z,2015-12-28T12:00:05Z,attack 2"]),
        ("hai", "a.csv", HAI, {"t_stamp": "1572534000000000000", "P1_B2004": "0.1", "P1_B2016": "1.5"},
         ["2019-10-31T15:00:01Z,2019-10-31T15:00:02Z,attack_p2 1"]),
        ("hai", "a.csv", NEW_HAI, {"t_stamp": "1625875201000000000", "P1_FCV01D": "29.5"},
         ["2021-07-10T00:00:02Z,2021-07-10T00:00:03Z,attack 1"]),
        ("batadal", "a.csv", BATADAL, {"t_stamp": "1467590400000000000", "L_T1": "2.44", "S_PU1": "1"},
         ["2016-07-04T01:00:00Z,2016-07-04T02:00:00Z,attack 1"]),
        ("tep", "d05_te.dat", TEP,
         {"t_stamp": "946684800000000000", "XMEAS(1)": "0.0000000e+00"} | {f"XMEAS({n})": f"{(n - 1) / 100:.7e}" for n in range(2, 42)}
         | {f"XMV({n})": f"{(n + 40) / 100:.7e}" for n in range(1, 12)},
         ["2000-01-01T08:00:00Z,2000-01-01T08:09:00Z,fault 05 1"]),
        ("tep", "d00_te.dat", TEP, None, []),
    ],
)  # fmt: skip
def test_each_layout_gives_rows_and_labels(format: str, name: str, text: str, first: dict[str, str] | None, spans: list[str]) -> None:
    Path(name).write_text(text)
    rows = imported(format, name, "--rows")
    if first is not None:
        assert rows[0] == first
    assert labels() == spans
    assert (sum("attack_type" in row for row in rows) > 0) == bool(spans)


def test_values_without_a_number_have_bad_quality_and_bad_lines_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    lines = SWAT.splitlines()
    Path("a.csv").write_text("\n".join([*lines[:3], "28/12/2015,1", " 32/12/2015 10:00:00 AM,1,2,2,Normal", *lines[3:]]))
    readings = imported("swat", "a.csv", "--zone", "Asia/Singapore")
    assert len(readings) == 5 * 3
    assert readings[0] == {"tag": "FIT101", "time": 1_451_268_000_000, "value": 2.427057, "quality": 0}
    assert readings[3] == {"tag": "FIT101", "time": 1_451_268_001_000, "value": None, "quality": 0x809B0000}
    told = capsys.readouterr()
    assert told.out == "5 samples, 2 labels\n"
    assert told.err == "headrace: 2 lines could not be read; the first is a.csv line 4: has 2 cells where the header has 5\n"


def test_the_files_of_skab() -> None:
    files = [str(path) for path in sorted(data("skab/valve1").glob("*.csv"), key=lambda path: int(path.stem))]
    for file in files[:2]:
        rows = imported("skab", file, "--rows")
        marked = [line.split(";")[9] for line in Path(file).read_text().splitlines()[1:]]
        assert sum("attack_type" in row for row in rows) == marked.count("1.0") > 0
        assert len(labels()) == sum(one == "1.0" != other for one, other in zip(marked, ["0.0", *marked], strict=False))
    assert set(rows[0]) == {
        "t_stamp", "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple", "Voltage", "Volume Flow RateRMS",
    }  # fmt: skip


def test_a_series_of_nab_with_its_windows() -> None:
    series, windows = data("nab/data/realKnownCause/nyc_taxi.csv"), data("nab/labels/combined_windows.json")
    readings = imported("nab", str(series), "--windows", str(windows))
    assert readings[0] == {"tag": "nyc_taxi", "time": 1_404_172_800_000, "value": 10844.0, "quality": 0}
    assert len(readings) == len(series.read_text().splitlines()) - 1
    assert len(labels()) == len(json.loads(windows.read_text())["realKnownCause/nyc_taxi.csv"]) == 5


def test_the_files_of_the_tennessee_eastman_process() -> None:
    training, testing = data("tep/d00.dat"), data("tep/d01_te.dat")
    readings = imported("tep", str(training), str(testing), "--start", "2024-01-01T00:00:00Z")
    assert Counter(one["tag"] for one in readings) == Counter({f"XMEAS({n})": 1460 for n in range(1, 42)} | {f"XMV({n})": 1460 for n in range(1, 12)})
    assert readings[0]["value"] == 0.24987
    assert labels() == ["2024-01-01T08:00:00Z,2024-01-03T00:00:00Z,fault 01 1"]


def test_wrong_use_is_reported_with_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text(BATADAL)
    for command, says in {
        ("skap", "a.csv"): "did you mean 'skab'?",
        ("skab", "a.csv", "--windows", "w.json"): "leave it out",
        ("swat", "a.csv"): "a.csv: is not a file of swat; name a file whose header has a column 'timestamp'",
        ("tep", "a.csv"): "is not a file of tep",
        ("swat", "a.csv", "--zone", "Asia/Singapur"): "unknown time zone",
        ("swat", "none.csv"): "none.csv: cannot be read",
    }.items():
        assert main(["import", *command]) in {1, 2}
        assert says in capsys.readouterr().err


def test_files_may_be_compressed_and_a_header_may_be_quoted() -> None:
    Path("plain.csv").write_text(SWAT)
    plain = imported("swat", "plain.csv", "--rows")
    quoted = [line if place != 1 else '" Timestamp", "FIT101"," MV101",P101,"Normal/Attack"' for place, line in enumerate(SWAT.splitlines())]
    Path("a.csv.gz").write_bytes(gzip.compress("\r\n".join(quoted).encode("utf-8-sig")))
    assert imported("swat", "a.csv.gz", "--rows") == plain
    Path("d05_te.dat.gz").write_bytes(gzip.compress(TEP.encode()))
    imported("tep", "d05_te.dat.gz")
    assert labels() == ["2000-01-01T08:00:00Z,2000-01-01T08:09:00Z,fault 05 1"]


def test_a_compressed_file_that_is_cut_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv.gz").write_bytes(gzip.compress(SWAT.encode())[:-20])
    assert main(["import", "swat", "a.csv.gz"]) == 1
    assert "a.csv.gz: is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "marks", "span"),
    [
        ("5", "1", "2020-01-01T00:00:05Z,2020-01-01T00:00:05Z,attack 1"),  # a single sample has no step
        ("56", "01", "2020-01-01T00:00:06Z,2020-01-01T00:00:07Z,attack 1"),
        ("564", "110", "2020-01-01T00:00:05Z,2020-01-01T00:00:06Z,attack 1"),  # times that go back
        ("9875", "0110", "2020-01-01T00:00:07Z,2020-01-01T00:00:08Z,attack 1"),
        ("577", "011", "2020-01-01T00:00:07Z,2020-01-01T00:00:09Z,attack 1"),
    ],
)
def test_a_label_ends_a_step_after_its_last_sample_and_never_before_its_start(seconds: str, marks: str, span: str) -> None:
    lines = (f"2020-01-01 00:00:0{second},1,{mark}" for second, mark in zip(seconds, marks, strict=True))
    Path("a.csv").write_text("\n".join(["time,P1,attack", *lines]))
    imported("hai", "a.csv")
    assert labels() == [span]


def test_no_output_destroys_another_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text(SWAT)
    Path("link.csv").symlink_to("a.csv")
    for command, says in {
        ("a.csv", "--to", "./a.csv"): "--to a.csv: is also the file of an input",
        ("a.csv", "--labels", "link.csv"): "--labels link.csv: is also the file of an input",
        ("a.csv", "--to", "out", "--labels", "out"): "--labels out: is also the file of --to",
    }.items():
        assert main(["import", "swat", *command]) == 2
        assert says in capsys.readouterr().err
    assert Path("a.csv").read_text() == SWAT
    assert main(["import", "swat", "a.csv", "a.csv", "--to", "/dev/null", "--labels", "/dev/null"]) == 0


def test_two_columns_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("time,P1,P1,attack\n2020-01-01 00:00:00,1,2,0\n")
    assert main(["import", "hai", "a.csv"]) == 2
    assert "a.csv: has two columns 'P1'" in capsys.readouterr().err


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("noise", [b"", b"\x00\xff\xfe;,\n" * 5, b'timestamp,datetime,time\n\x00,1,2\n"', b"1 2 3\n" * 60])
def test_no_file_leads_to_a_traceback(format: str, noise: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_bytes(noise)
    assert main(["import", format, "a.csv"]) in {0, 2}
    assert "Traceback" not in capsys.readouterr().err
