"""Pipelines run where they are written: the same rows, dead letters and ledger as `headrace run` over a file."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from conformance import suite
from headrace.apps.fingerprint import fingerprint
from headrace.cli import main
from headrace.engines.embedded.in_process import run
from headrace.engines.embedded.output import encode_rows
from headrace.engines.embedded.results import Result
from headrace.engines.embedded.run import run_files
from topics.test_parquet_types import COLUMNS

START = 1_767_254_400_000  # 2026-01-01T08:00:00Z
DAY = datetime(2026, 1, 1, 8, tzinfo=UTC)
READINGS = [{"equip_id": f"kiln-{n % 2}", "timestamp": START + 7_000 * n, "data": {"temperature": 850.0 + n, "pressure": 1.5}} for n in range(40)]
LINES = [
    *(json.dumps(one, separators=(",", ":")).encode() for one in READINGS),
    json.dumps(READINGS[0] | {"equip_id": "too late"}).encode(),
    b'{"equip_id":"kiln-0","timestamp":"soon"}',
    b"[1,2]",
    b"\xff",
    json.dumps(READINGS[-1] | {"data": {"temperature": "null"}}).encode(),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a test, which runs in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@hr.pipeline("orders", version="1")
def orders(limit: float = 1.0, minutes: int = 1) -> dict[str, hr.Stream]:  # noqa: ARG001
    """Large orders, and sums of them."""
    given = hr.stream("orders", schema={"id": "STRING NOT NULL", "at": "TIMESTAMP_LTZ(3)", "amount": "DOUBLE"}, event_time="at")
    large = given.where("amount > :limit")
    return {
        "large": large,
        "sums": large.window(hr.tumbling(hr.minutes(minutes))).late_to("late-orders").aggregate(sum="SUM(amount)"),
    }


@hr.pipeline("pairs", version="1")
def pairs() -> dict[str, hr.Stream]:
    """Two streams, each to a topic."""
    return {f"{name}-out": hr.stream(name, schema={"n": "BIGINT"}) for name in ("left", "right")}


ORDERS = [{"id": str(n), "at": DAY + timedelta(seconds=20 * n), "amount": float(n)} for n in range(8)]


def left_by_a_command(folder: Path, *partitions: list[bytes]) -> tuple[bytes, list[dict[str, Any]], dict[str, Any]]:
    """Return rows, dead letters and ledger of `headrace run` over files."""
    files = []
    for number, lines in enumerate(partitions):
        files.append(folder / f"{number}.ndjson")
        files[-1].write_bytes(b"\n".join(lines))
    assert main(["run", "fingerprint", "--input", *map(str, files), "--output", str(folder / "out")]) == 0
    dead = [json.loads(line) for line in (folder / "out/sensor-data.dead-letter.ndjson").read_bytes().splitlines()]
    return (folder / "out/fingerprint-output.ndjson").read_bytes(), dead, json.loads((folder / "out/ledger.json").read_bytes())["sources"]


def known(letters: hr.Table) -> list[dict[str, Any]]:
    """Return dead letters as their file has them."""
    return [{name: value for name, value in letter.items() if not name.startswith("raw") or value is not None} for letter in letters.rows()]


def test_a_run_leaves_what_the_command_leaves_over_the_same_data_from_a_file(tmp_path: Path) -> None:
    rows, dead, ledger = left_by_a_command(tmp_path, LINES, LINES[20:])
    result = fingerprint.run({"sensor-data": [LINES, LINES[20:]]})
    assert encode_rows(result["fingerprint-output"].frame) == rows
    assert known(result.dead_letters) == dead
    assert len(dead) == 6
    assert result.ledger == ledger
    assert ledger["sensor-data"] | {"received": 70, "malformed": 6, "late": 2, "filtered": 2} == ledger["sensor-data"]


class Exported:
    """What pandas is to us: something that exports Arrow data, as a stream or as an array, and nothing else."""

    def __init__(self, data: Any, how: str) -> None:
        setattr(type(self), how, lambda _, requested_schema=None: getattr(data, how)(requested_schema))


class Streaming(Exported):
    """A table that exports a stream."""


class Array(Exported):
    """A batch that exports an array."""


FRAME = pl.DataFrame(READINGS)
KINDS: dict[str, Callable[[], Any]] = {
    "tuple of dicts": lambda: tuple(READINGS),
    "generator": lambda: (one for one in READINGS),
    "lines": lambda: LINES[:40],
    "Polars": lambda: FRAME,
    "Polars, lazy": FRAME.lazy,
    "Polars, cut": lambda: pl.concat([FRAME[:7], FRAME[7:]], rechunk=False),
    "Arrow table": FRAME.to_arrow,
    "Arrow reader": lambda: FRAME.to_arrow().to_reader(9),
    "Arrow batch": lambda: FRAME.to_arrow().combine_chunks().to_batches()[0],
    "stream": lambda: Streaming(FRAME.to_arrow(), "__arrow_c_stream__"),
    "array": lambda: Array(FRAME.to_arrow().combine_chunks().to_batches()[0], "__arrow_c_array__"),
    "path": lambda: Path("in.ndjson"),
    "path as text": lambda: "in.parquet",
    "list of one path": lambda: ["in.ndjson"],
    "list of one frame": lambda: [FRAME],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_input_gives_what_dicts_give(kind: str) -> None:
    Path("in.ndjson").write_bytes(b"\n".join(LINES[:40]))
    FRAME.write_parquet("in.parquet")
    result = fingerprint.run({"sensor-data": KINDS[kind]()})
    expected = fingerprint.run({"sensor-data": READINGS})
    assert len(expected["fingerprint-output"]) == 10
    assert encode_rows(result["fingerprint-output"].frame) == encode_rows(expected["fingerprint-output"].frame)
    assert result.ledger == expected.ledger


@pytest.mark.parametrize("kind", ["DOUBLE", "STRING", "TIMESTAMP_LTZ(3)", "MAP<STRING, DOUBLE>"])
@pytest.mark.parametrize("column", COLUMNS)
def test_each_type_of_arrow_is_read_as_from_a_parquet_file(column: str, kind: str) -> None:
    @hr.pipeline("typed", version="1")
    def typed() -> dict[str, hr.Stream]:
        return {"out": hr.stream("in", schema={"t": "BIGINT", "x": kind}, rest="rest", event_time="TO_TIMESTAMP_LTZ(t, 3)")}

    table = pa.table({"t": [START] * 3, "x": COLUMNS[column], "other": COLUMNS[column]})
    pq.write_table(table, "in.parquet")
    in_memory, from_file = outcome(typed, table), outcome(typed, "in.parquet")
    assert in_memory == from_file


def outcome(pipeline: hr.Pipeline, data: Any) -> Any:
    """Return what a run leaves, or what it says is wrong."""
    try:
        result = pipeline.run({"in": data})
    except hr.HeadraceError as error:
        return error.what
    return encode_rows(result["out"].frame), result.ledger, known(result.dead_letters)


def test_partitions_of_different_kinds_may_be_mixed() -> None:
    Path("in.ndjson").write_bytes(b"\n".join(LINES[10:20]))
    mixed = fingerprint.run({"sensor-data": [READINGS[:10], "in.ndjson", FRAME[20:30], FRAME[30:].to_arrow()]})
    alike = fingerprint.run({"sensor-data": [READINGS[:10], READINGS[10:20], READINGS[20:30], READINGS[30:]]})
    assert mixed["fingerprint-output"].rows() == alike["fingerprint-output"].rows()


@pytest.mark.parametrize("empty", [[], (), iter([]), FRAME.clear(), FRAME.clear().to_arrow(), [[]]])
def test_an_input_without_records_gives_tables_without_rows(empty: Any) -> None:
    result = fingerprint.run({"sensor-data": empty})
    assert result["fingerprint-output"].rows() == []
    assert result["fingerprint-output"].frame.columns == ["fingerprint"]
    assert result.ledger["sensor-data"]["received"] == len(result.dead_letters) == 0


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=4),
    st.text("\ud800é\n", max_size=2),
    st.lists(st.integers(), max_size=2),
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "equip_id": st.sampled_from(["a", "b"]) | VALUES,
            "timestamp": st.integers(START, START + 300_000) | VALUES,
            "data": st.dictionaries(st.sampled_from("xy"), VALUES) | VALUES,
            "more": VALUES,
        },
    ),
    max_size=12,
)


@given(RECORDS)
def test_dicts_are_read_as_the_lines_of_a_file_with_their_json(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> None:
    file = tmp_path_factory.mktemp("lines") / "in.ndjson"
    file.write_bytes(b"\n".join(json.dumps(record).encode() for record in records))
    from_dicts, from_file = fingerprint.run({"sensor-data": records}), fingerprint.run({"sensor-data": file})
    assert encode_rows(from_dicts["fingerprint-output"].frame) == encode_rows(from_file["fingerprint-output"].frame)
    assert from_dicts.ledger == from_file.ledger
    same = ["offset", "reason"]
    assert from_dicts.dead_letters.frame.select(same).equals(from_file.dead_letters.frame.select(same))


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.long)])
def test_cases_of_the_suite_leave_the_same_as_over_files(tmp_path: Path, step: int) -> None:
    for number, (name, case) in enumerate([*suite.cases().items()][::step]):
        job, folder = case.job(), tmp_path / str(number)
        try:
            paths = {topic: [folder / f"{topic}.{n}.ndjson" for n in range(len(parts))] for topic, parts in job.inputs.items()}
            folder.mkdir()
            for topic, parts in job.inputs.items():
                for path, records in zip(paths[topic], parts, strict=True):
                    path.write_bytes(b"".join(record + b"\n" for record in records))
            run_files(job.plan, paths, folder / "out", commit_seconds=60)
        except hr.PlanError:
            continue
        result = run(job.plan, job.inputs)
        for topic in result:
            assert encode_rows(result[topic].frame) == (folder / f"out/{topic}.ndjson").read_bytes(), (name, topic)
        assert result.ledger == json.loads((folder / "out/ledger.json").read_bytes())["sources"], name
        dead = [json.loads(line) for topic in job.inputs for line in (folder / f"out/{topic}.dead-letter.ndjson").read_bytes().splitlines()]
        assert sorted(known(result.dead_letters), key=str) == sorted(dead, key=str), name


def test_nothing_is_written_and_no_home_is_made(home: Path) -> None:
    fingerprint.run({"sensor-data": READINGS})
    list(fingerprint.stream({"sensor-data": READINGS}))
    assert list(home.parent.iterdir()) == [Path.cwd()]
    assert list(Path.cwd().iterdir()) == []


def test_times_are_typed_on_their_way_in_and_out() -> None:
    berlin = timezone(timedelta(hours=1))
    forms = [DAY, DAY.replace(tzinfo=None), DAY.astimezone(berlin), "2026-01-01T08:00:00Z"]
    result = orders.run({"orders": [{"id": "a", "at": at, "amount": 2} for at in forms]})
    assert [row["at"] for row in result["large"]] == [DAY] * 4
    assert result["large"].frame.schema["at"] == pl.Datetime("ms", "UTC")
    assert result["sums"].rows() == [{"window_start": DAY, "window_end": DAY + timedelta(minutes=1), "sum": 8.0, "revision": 0}]
    frame = pl.DataFrame({"id": "a", "at": [DAY.replace(tzinfo=None)], "amount": [2]})
    assert orders.run({"orders": frame})["large"].rows() == orders.run({"orders": frame.to_dicts()})["large"].rows()


def test_what_json_has_no_form_for_is_read_as_a_frame_gives_it() -> None:
    rows = [{"id": "a", "at": date(2026, 1, 1), "amount": Decimal("1.5")}, {"id": b"b", "at": DAY, "amount": 2}]
    with pytest.raises(hr.PlanError, match=r"^input 'orders' record 1: cannot be written as JSON: a value is of type bytes; give texts"):
        orders.run({"orders": rows})
    assert orders.run({"orders": rows[:1]})["large"].rows() == [{"id": "a", "at": datetime(2026, 1, 1, tzinfo=UTC), "amount": 1.5}]


def test_late_rows_dead_letters_and_the_ledger_are_at_hand() -> None:
    result = orders.run({"orders": [*ORDERS, {"id": "late", "at": DAY, "amount": 9}, {"id": None}]})
    assert [row["id"] for row in result["late-orders"]] == ["late"]
    assert result.late == {"late-orders": result["late-orders"]}
    assert list(result) == ["large", "sums", "late-orders"]
    assert "large" in result
    assert "orders" not in result
    (letter,) = result.dead_letters.rows()
    assert (letter["offset"], letter["reason"], letter["raw"], letter["raw_base64"]) == (9, "malformed", '{"id":null}', None)
    assert result.ledger["orders"]["received"] == 10
    assert repr(result).splitlines() == [
        "pipeline orders", "orders: 10 received = 7 accepted + 1 malformed + 2 filtered", "large: 7 rows", "sums: 3 rows", "late-orders: 1 rows",
    ]  # fmt: skip


def test_settings_are_keywords() -> None:
    assert [row["amount"] for row in orders.run({"orders": ORDERS}, limit=5)["large"]] == [6.0, 7.0]
    assert len(orders.run({"orders": ORDERS}, minutes=60)["sums"]) == 1


def test_a_table_shows_as_its_frame_and_is_taken_as_arrow() -> None:
    table = orders.run({"orders": ORDERS})["large"]
    assert repr(table) == repr(table.frame)
    assert table._repr_html_() == table.frame._repr_html_()
    assert pa.table(table).to_pylist() == table.rows() == list(table)
    assert pa.table(table.arrow()).num_rows == len(table) == 6
    assert pl.DataFrame(table).equals(table.frame)
    assert orders.run({"orders": table})["large"].frame.equals(table.frame), "what comes out may go in"
    html = orders.run({"orders": ORDERS})._repr_html_()
    assert "orders: 8 received = 6 accepted + 2 filtered" in html
    assert "<b>large</b>" in html


# a stream of rows


def test_a_stream_gives_the_rows_of_a_run_in_their_order() -> None:
    result, stream = orders.run({"orders": [*ORDERS, {}]}), orders.stream({"orders": iter([*ORDERS, {}])})
    rows = list(stream)
    for topic in result:
        assert [row for name, row in rows if name == topic] == result[topic].rows()
    assert [row["detail"] for name, row in rows if name == "orders.dead-letter"] == [letter["detail"] for letter in result.dead_letters]
    assert stream.ledger == result.ledger


def test_a_row_of_a_stream_comes_before_the_next_record_is_asked_for() -> None:
    asked = []

    def records() -> Iterator[dict[str, Any]]:
        for one in ORDERS:
            asked.append(one["id"])
            yield one

    stream = orders.stream({"orders": records()})
    assert asked == [], "nothing is asked for before the first row is"
    seen = [(topic, row, asked[-1]) for topic, row in stream]
    assert [last for topic, row, last in seen if topic == "large"] == [row["id"] for topic, row, _ in seen if topic == "large"]
    assert [last for topic, _, last in seen if topic == "sums"] == ["3", "6", "7"]


def test_a_stream_can_be_left() -> None:
    Path("in.ndjson").write_bytes(b"\n".join(LINES))
    stream = fingerprint.stream({"sensor-data": "in.ndjson"})
    assert next(stream)[0] == "sensor-data.dead-letter" or stream.ledger["sensor-data"]["received"]
    stream.close()
    assert list(stream) == []


# bad input


RENAMED = FRAME.rename({"timestamp": "Timestamp"})
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a topic that is none": (
        lambda: fingerprint.run({"sensor-dta": READINGS}), "pipeline fingerprint: reads no topic 'sensor-dta'; did you mean 'sensor-data'?",
    ),
    "a topic that is missing": (lambda: pairs.run({"left": []}), "pipeline pairs: topic 'right' has no input; add {'right': …}"),
    "no topics": (lambda: fingerprint.run(READINGS), "pipeline fingerprint: inputs are of type list; give them by topic: {'sensor-data': …}"),
    "a setting that is none": (lambda: orders.run({"orders": []}, limt=5), "pipeline orders: unknown setting 'limt'; did you mean 'limit'?"),
    "a setting of another type": (
        lambda: orders.run({"orders": []}, limit="much"), "pipeline orders: setting limit = 'much' is no float: Expected `float`, got `str`",
    ),
    "an output that is none": (
        lambda: orders.run({"orders": []})["larg"], "pipeline orders: no topic 'larg' is written; did you mean 'large'?",
    ),
    "a number": (
        lambda: orders.run({"orders": 5}),
        "input 'orders': is of type int; give a list of dicts, a Polars, pandas or Arrow table, or the path of a file",
    ),
    "one dict": (
        lambda: orders.run({"orders": {"id": "a"}}),
        "input 'orders': is one dict, not a table of records; give a list of dicts, a Polars, pandas or Arrow table, or the path of a file",
    ),
    "tuples": (lambda: orders.run({"orders": iter([("a", 1)])}), "input 'orders' record 0: is of type tuple; give each record as a dict of its columns"),
    "numbers among partitions": (
        lambda: orders.run({"orders": [ORDERS, 5]}),
        "input 'orders' partition 1: is of type int; give a list of dicts, a Polars, pandas or Arrow table, or the path of a file",
    ),
    "a set in a record": (
        lambda: orders.run({"orders": [{"id": {1}}]}),
        "input 'orders' record 0: cannot be written as JSON: a value is of type set; give texts, numbers, bools, datetimes, lists and dicts",
    ),
    "a column with another name": (
        lambda: fingerprint.run({"sensor-data": RENAMED}), "input 'sensor-data': has no column 'timestamp'; did you mean 'Timestamp'?",
    ),
    "an Arrow column with another name": (
        lambda: fingerprint.run({"sensor-data": RENAMED.to_arrow()}), "input 'sensor-data': has no column 'timestamp'; did you mean 'Timestamp'?",
    ),
    "no key": (
        lambda: fingerprint.run({"sensor-data": FRAME.drop("equip_id")}),
        "input 'sensor-data': has no column 'equip_id'; there is: data, timestamp",
    ),
    "no event time": (
        lambda: fingerprint.run({"sensor-data": [FRAME, FRAME.drop("timestamp")]}),
        "input 'sensor-data' partition 1: has no column 'timestamp'; there is: data, equip_id",
    ),
    "a column twice": (
        lambda: orders.run({"orders": pa.table([["a"], ["b"]], names=["id", "id"])}),
        "input 'orders': has column 'id' twice; give each column a name of its own",
    ),
    "a file that is not there": (lambda: orders.run({"orders": "none.csv"}), "none.csv: cannot be read: No such file or directory; name a file that exists"),
    "a file that is not there beside one that is": (
        lambda: list(orders.stream({"orders": [str(Path("there.ndjson").absolute()), "none.csv"]})),
        "none.csv: cannot be read: No such file or directory; name a file that exists",
    ),
    "a file of no known format": (lambda: orders.run({"orders": "a.xls"}), "a.xls: the format of 'a.xls' is not known; name it .ndjson, .csv or .parquet"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_use_is_one_line(name: str) -> None:
    Path("there.ndjson").write_text("{}")
    use, expected = BAD[name]
    with pytest.raises(hr.HeadraceError) as caught:
        use()
    assert str(caught.value) == expected


def test_what_is_no_table_is_one_line() -> None:
    with pytest.raises(hr.DataError, match=r"^input 'orders': is no table: [^\n]*; give a list of dicts"):
        orders.run({"orders": pl.Series([1, 2])})


def test_a_column_that_may_be_null_may_be_missing() -> None:
    result = orders.run({"orders": pl.DataFrame({"id": ["a"], "at": [DAY]})})
    assert result.ledger["orders"]["filtered"] == 1


def test_a_run_that_can_use_nothing_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        orders.run({"orders": [{"name": "a"}, {"name": "b"}]})
        orders.run({"orders": []})
    assert caplog.messages == ["pipeline orders: no record could be used of 2 received: NULL in NOT NULL column 'id'"]


def test_what_a_callers_iterator_raises_comes_through() -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield ORDERS[0]
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        orders.run({"orders": records()})
    with pytest.raises(LookupError, match="mine"):
        list(orders.stream({"orders": records()}))


# the surroundings


def test_importing_headrace_imports_no_data_library_and_a_run_neither_pandas_nor_pyarrow() -> None:
    code = """
import sys, headrace
assert not {"polars", "arro3.core", "headrace.alarms", "headrace.detect.scorer"} & {*sys.modules}
from headrace.apps.fingerprint import fingerprint
fingerprint.run({"sensor-data": []})
assert not {"pandas", "pyarrow", "numpy"} & {*sys.modules}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_names_that_are_imported_when_they_are_used_are_there_whatever_was_imported_before() -> None:
    code = """
import headrace.detect.model, headrace.alarms.rules
import headrace as hr
assert {*hr.__all__} <= {*dir(hr)}
assert all(callable(getattr(hr, name)) for name in hr.__all__)
assert not hasattr(hr, "alarms_of_all")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_results_are_typed_for_editors_and_checkers(tmp_path: Path) -> None:
    """The lines marked are errors: a mark without one is an error too."""
    code = """
import polars as pl
import headrace as hr
from collections.abc import Iterator
from pathlib import Path

@hr.pipeline("p", version="1")
def p(limit: float = 1.0) -> dict[str, hr.Stream]:
    return {"out": hr.stream("in", schema={"a": "BIGINT"})}

def records() -> Iterator[dict[str, int]]:
    yield {"a": 1}

result: hr.Result = p.run({"in": [{"a": 1}]}, limit=5)
p.run({"in": pl.DataFrame()}); p.run({"in": Path("a.csv")}); p.run({"in": ["a.csv", "b.csv"]}); p.run({"in": records()}); p.run({"in": result["out"]})
frame: pl.DataFrame = result["out"].frame
number: int = result.ledger["in"]["received"]
for topic, row in p.stream({"in": records()}):
    topic.upper(), row["a"]
p.run([{"a": 1}])  # type: ignore[arg-type]
p.run({"in": 5})  # type: ignore[dict-item]
result.rows  # type: ignore[attr-defined]
"""
    (tmp_path / "typed.py").write_text(code)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), str(tmp_path / "typed.py")],
        cwd=root, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_help_of_a_pipeline_says_how_it_is_run() -> None:
    assert 'result["fingerprint-output"].rows()' in str(hr.Pipeline.run.__doc__)
    assert isinstance(fingerprint.run({"sensor-data": []}), Result)


def test_a_file_with_decimal_commas_is_read_as_the_stream_says(tmp_path: Path) -> None:
    """Declared columns by the option, what `rest` collects by TO_DOUBLE; local times in their zone."""

    def build() -> dict[str, hr.Stream]:
        rows = hr.stream(
            "export",
            schema={"time": "STRING NOT NULL", "load": "DOUBLE"},
            rest="tags",
            event_time="TO_TIMESTAMP_LTZ(time, 'dd.MM.yyyy HH:mm', 'Europe/Berlin')",
            decimal=",",
        )
        values = rows.unnest("tags", key="tag", value="raw").derive(value="TO_DOUBLE(raw, ',')")
        days = hr.tumbling(hr.days(1), zone="Europe/Berlin", offset=hr.hours(6))
        return {"out": values.window(days, by=["tag"]).aggregate(load="SUM(load)", total="SUM(value)")}

    (tmp_path / "export.csv").write_text("time;load;a\n25.10.2026 05:59;0,5;1,25\n25.10.2026 06:00;1,5;2,5\n26.10.2026 05:59;2,0;4.5\n1.1;1;1\n")
    result = hr.pipeline("commas", version="1")(build).run({"export": tmp_path / "export.csv"})
    rows = [(row["load"], row["total"], row["window_start"], row["window_end"]) for row in result["out"].rows()]
    six = [datetime(2026, 10, 24, 4, tzinfo=UTC), datetime(2026, 10, 25, 5, tzinfo=UTC), datetime(2026, 10, 26, 5, tzinfo=UTC)]
    assert rows == [(0.5, 1.25, six[0], six[1]), (3.5, 2.5, six[1], six[2])]
    assert result.ledger["export"]["malformed"] == 1
