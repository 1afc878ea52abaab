"""The fingerprint pipeline's contract, on input written by hand: answers, dead letters and ledger."""

from __future__ import annotations

import base64
import csv
import json
import statistics
import uuid
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.cli import main

ROOT = Path(__file__).parents[2]
SKAB = ROOT.parent / "shared" / "data" / "skab" / "valve1"
T = 1_706_123_400_000
GOOD = b'{"equip_id": 110, "timestamp": 1706123401000, "data": {"0001": "45.5"}}'


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Run APP over records, and give its outputs by file name."""
    monkeypatch.chdir(tmp_path)

    def run(records: bytes, *options: str, app: str = "fingerprint", ending: str = "ndjson") -> dict[str, list]:
        source = tmp_path / f"in.{ending}"
        source.write_bytes(records)
        assert main(["run", app, "--input", str(source), "--output", "out", *options]) == 0
        files = {path.name: path.read_bytes() for path in Path("out").iterdir()}
        ledger = json.loads(files.pop("ledger.json"))
        return {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()} | {"ledger": ledger}

    return run


def message(second: float, data: dict, equip_id: object = 110) -> bytes:
    return json.dumps({"equip_id": equip_id, "timestamp": T + int(second * 1000), "data": data}).encode() + b"\n"


def test_a_fingerprint_has_the_statistics_of_each_sensor_that_has_values(answers) -> None:
    records = (
        message(0, {"0002": "4", "0001": "1.5"})
        + message(59.999, {"0001": 2.5, "0003": "null", "0002": None})
        + message(30, {"0001": " 3.5 ", "0002": 1})
        + message(60, {"0001": "100"})
        + message(61, {"0001": "7"}, "110")
        + message(62, {"0001": "7"}, "A-1")
    )
    first, *others = [one["fingerprint"] for one in answers(records)["fingerprint-output.ndjson"]]
    assert first == {
        "uuid": str(uuid.uuid5(uuid.UUID(bytes=b"headrace.uuid.v5"), f"fingerprint/1\x1f110\x1f{T}")),
        "equip_id": "110",
        "type": "kiln",
        "start_ms": T,
        "end_ms": T + 60_000,
        "data": {
            "0001": {"min": 1.5, "max": 3.5, "median": 2.5, "mean": 2.5, "std_dev": pytest.approx(statistics.pstdev([1.5, 2.5, 3.5]), rel=1e-9)},
            "0002": {"min": 1.0, "max": 4.0, "median": 2.5, "mean": 2.5, "std_dev": 1.5},
        },
    }
    assert list(first["data"]) == ["0001", "0002"]
    assert [(one["equip_id"], one["start_ms"]) for one in others] == [("110", T + 60_000), ("A-1", T + 60_000)]
    assert others[0]["data"]["0001"] == {"min": 7.0, "max": 100.0, "median": 53.5, "mean": 53.5, "std_dev": 46.5}
    assert others[1]["data"]["0001"]["std_dev"] == 0.0


def test_lateness_and_filters_are_in_the_ledger(answers) -> None:
    records = message(1, {"0001": "1"}) + message(75, {"0001": "null"}) + message(2, {"0001": "9"}) + message(70, {}) + message(66, {"0001": "2"})
    found = answers(records)
    assert found["ledger"] == {
        "pipeline": "fingerprint",
        "sources": {
            "sensor-data": {
                "received": 5, "accepted": 2, "malformed": 0, "future": 0, "duplicate": 0, "late": 1, "filtered": 2, "shed": 0,
            }
        },
    }  # fmt: skip
    assert found["fingerprint-output.ndjson"][0]["fingerprint"]["data"]["0001"]["max"] == 1.0


BAD = {
    b'{"equip_id": 110, "timestamp": 17061234': "not JSON",
    b"[1, 2]": "not a JSON object but an array",
    b"42": "not a JSON object but a number",
    b"null": "not a JSON object but null",
    b'{"equip_id": 1, "timestamp": 1706123401000}{"equip_id": 2, "timestamp": 1706123401000}': "not JSON",
    b'{"equip_id": "1, "timestamp": 1706123401000, "data": {}}': "not JSON",
    b'{"equip_id": 1, "timestamp": 1706123401000, "data": "text"}': "field 'data' is not a MAP: 'text'",
    b'{"equip_id": 1, "timestamp": true, "data": {}}': "field 'timestamp' is not a BIGINT",
    b'{"equip_id": 1, "timestamp": 1706123401000.7, "data": {}}': "field 'timestamp' is not a BIGINT",
    b'{"equip_id": 1, "timestamp": 1e300, "data": {}}': "field 'timestamp' is not a BIGINT",
    b'{"equip_id": 1, "data": {}}': "no event time",
    b'{"equip_id": 1, "timestamp": 0, "data": {}}': "event time 1970-01-01T00:00:00Z is outside",
    b'{"equip_id": 1, "timestamp": 1706123401, "data": {}}': "event time 1970-01-20",
    b'{"equip_id": 1, "timestamp": 9223372036854775807, "data": {}}': "",
    b'{"equip_id": 1, "timestamp": 9214646400000, "data": {}}': "event time 2262-01-01",
    b'{"equip_id": null, "timestamp": 1706123401000, "data": {}}': "NULL in NOT NULL column 'equip_id'",
    b'{"equip_id": 1, "timestamp": NaN, "data": {}}': "not JSON",
    b'{"equip_id": 1, "timestamp": 1706123401000, "data": {"a": -Infinity}}': "not JSON",
    b'{"equip_id": 1, "timestamp": 01706123401000, "data": {}}': "not JSON",
    b'{"equip_id": "\\ud800", "timestamp": 1706123401000, "data": {}}': "not JSON",
    b'{"equip_id": "\x01", "timestamp": 1706123401000, "data": {}}': "not JSON",
    b'{"equip_id": "\xff", "timestamp": 1706123401000, "data": {}}': "not UTF-8",
}


@pytest.mark.parametrize(("record", "detail"), BAD.items())
def test_a_bad_record_is_kept_as_it_came_and_costs_its_neighbours_nothing(answers, record, detail) -> None:
    found = answers(GOOD + b"\n\n" + record + b"\r\n" + GOOD + b"\n")
    (letter,) = found["sensor-data.dead-letter.ndjson"]
    assert detail in letter.pop("detail")
    raw = {"raw": record.decode()} if record.isascii() else {"raw_base64": base64.b64encode(record).decode()}
    assert letter == {"topic": "sensor-data", "partition": 0, "offset": 1, "reason": "malformed", "arrived_ms": None, **raw}
    (answer,) = found["fingerprint-output.ndjson"]
    assert answer["fingerprint"]["data"] == {"0001": {"min": 45.5, "max": 45.5, "median": 45.5, "mean": 45.5, "std_dev": 0.0}}
    assert found["ledger"]["sources"]["sensor-data"]["accepted"] == 2


def test_repeated_keys_byte_order_mark_and_a_line_of_10_mb_are_read(answers) -> None:
    long = b'{"equip_id": 110, "timestamp": 1706123402000, "data": {"0001": "1", "0001": "2"}, "note": "' + b"x" * 10_000_000 + b'"}'
    found = answers(b"\xef\xbb\xbf" + GOOD + b"\r\n" + long + b"\n" + GOOD)
    (answer,) = found["fingerprint-output.ndjson"]
    assert answer["fingerprint"]["data"]["0001"]["min"] == 2.0
    assert found["ledger"]["sources"]["sensor-data"]["accepted"] == 3


@pytest.mark.parametrize("file", ["0.csv", "7.csv"])
def test_the_pipeline_of_the_readme_runs_over_a_csv_file(answers, file, tmp_path) -> None:
    if not SKAB.is_dir():
        pytest.skip(f"the SKAB data set is not at {SKAB}")
    block = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "loop.py").write_text(block)
    assert main(["check", "loop.py"]) == 0
    found = answers((SKAB / file).read_bytes(), app="loop.py", ending="csv")
    expected = defaultdict(list)
    with (SKAB / file).open() as text:
        for row in csv.DictReader(text, delimiter=";"):
            minute = datetime.fromisoformat(row.pop("datetime")).replace(second=0, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            for sensor, value in row.items():
                expected[minute, sensor].append(float(value))
    rows = found["loop-statistics.ndjson"]
    assert [(row["window_start"], row["sensor"]) for row in rows] == sorted(expected)
    for row in rows:
        values = expected[row["window_start"], row["sensor"]]
        assert row["count"] == len(values)
        assert (row["min"], row["max"]) == (min(values), max(values))
        assert row["mean"] == pytest.approx(statistics.fmean(values), rel=1e-9)
        assert row["std_dev"] == pytest.approx(statistics.pstdev(values), rel=1e-9, abs=1e-9)
