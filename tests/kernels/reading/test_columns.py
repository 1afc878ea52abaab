"""Batches that come as columns, CSV cells and typed rows: each value is what the rule makes of it, and none costs its neighbours."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exact import shown
from headrace.errors import DataError
from headrace.kernels.reading.batch import Lines, Read, Rows
from headrace.kernels.reading.columns import ColumnReader
from headrace.kernels.reading.rules import UNREADABLE, JsonNumber, double_of, read_text, read_value
from headrace.kernels.reading.text import polars_type, read_column
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Schema, Type, map_of, parse_type
from headrace.topics.files import open_file

TEXTS, NUMBERS = map_of(STRING, STRING), map_of(STRING, DOUBLE)
SCALARS = [STRING, BIGINT, DOUBLE, BOOLEAN, TIMESTAMP]
LONG = {"equip_id": "STRING NOT NULL", "time": "TIMESTAMP_LTZ(3)", "sensor": "STRING", "value": "DOUBLE"}


def rows_of(read: Read) -> dict[int, dict[str, Any]]:
    """Return the rows of the readable records by place."""
    assert read.frame["@record"].is_sorted()
    rows = {row.pop("@record"): row for row in read.frame.to_dicts()}
    assert not rows.keys() & read.malformed.keys()
    return rows


def read_csv(
    folder: Path,
    text: str | bytes,
    columns: dict[str, str],
    rest: str | None = None,
    rest_type: Type = TEXTS,
    chunk: int | None = None,
    decimal: str = ".",
) -> Read:
    """Return a whole CSV file as read under a schema."""
    path = folder / "input.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    frames, malformed = [], {}
    with closing(open_file(path, chunk)) as file:
        reader = ColumnReader(
            Schema.parse(columns), rest, rest_type, name=file.name, columns=file.columns or [], separator=file.separator, decimal=decimal
        )
        while not file.finished:
            first, read = file.position["record"], reader.read(file.read())
            frames.append(read.frame.with_columns(pl.col("@record") + first))
            malformed |= {first + place: detail for place, detail in read.malformed.items()}
    return Read(pl.concat(frames) if frames else reader.read(Lines.of([])).frame, malformed)


def read_rows(frame: pl.DataFrame, columns: dict[str, str], rest: str | None = None, rest_type: Type = TEXTS, unread: Sequence[str] = ()) -> Read:
    """Return typed rows as read under a schema."""
    return ColumnReader(Schema.parse(columns), rest, rest_type, name="input.parquet", columns=frame.columns, unread=unread).read(Rows(frame))


# numbers with a decimal comma


def test_numbers_of_a_csv_file_have_the_decimal_sign_of_the_stream(tmp_path: Path) -> None:
    text = 'k;x;n;other\na,b.c;1,5;7;2,5\n"d";-,25e1; 7,0 ;\ne;1.5;1;x\nf;1.234,5;1;x\ng;1;1,5;x\nh;;;x\n'
    read = read_csv(tmp_path, text, {"k": "STRING", "x": "DOUBLE", "n": "BIGINT"}, "rest", decimal=",")
    assert read.frame.select("k", "x", "n").rows() == [("a,b.c", 1.5, 7), ("d", -2.5, 7), ("h", None, None)]
    assert read.frame["rest"].to_list()[0] == {"other": "2,5"}
    assert read.malformed == {
        2: "field 'x' is not a DOUBLE: '1.5'",
        3: "field 'x' is not a DOUBLE: '1.234,5'",
        4: "field 'n' is not a BIGINT: '1,5'",
    }


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**18), 10**18).map(float), min_size=1, max_size=20))
def test_a_file_with_commas_gives_what_the_same_file_with_points_gives(values: list[float]) -> None:
    with TemporaryDirectory() as name:
        points = "k;x\n" + "".join(f"a;{value}\n" for value in values)
        mine, theirs = (
            read_csv(Path(name), text, {"x": "DOUBLE"}, decimal=sign).frame["x"] for text, sign in ((points.replace(".", ","), ","), (points, "."))
        )
        assert mine.to_list() == theirs.to_list() == values


# a column of texts against the rule for each of them


CLOCK = st.sampled_from(["00:00:00", "23:59:59", "24:00:00", "12:60:00", "23:59:60", "12:00:00.5", "12:00:00.123456789", "12:00", "1:02:03"])
DAY = st.dates().map(str) | st.sampled_from(
    ["0000-01-01", "0001-01-01", "9999-12-31", "2023-02-29", "2024-02-29", "2024-02-30", "2024-13-01", "2024-00-10", "2024-1-1"]
)
ZONE = st.sampled_from(["", "Z", "z", "+00:00", "-05:30", "+14:00", "+24:00", "+05:99", " UTC"])
TIME_TEXTS = st.builds("{}{}{}{}".format, DAY, st.sampled_from(["T", " ", "t", "  "]), CLOCK, ZONE)
NUMBER_TEXTS = (
    st.from_regex(r"\A[+-]?(\d{0,20}\.?\d{0,20})([eE][+-]?\d{0,3})?\Z", fullmatch=True)
    | st.integers(-(2**65), 2**65).map(str)
    | st.floats().map(repr)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda value: f"{Decimal(value):f}")
    | st.sampled_from(
        [
            "inf",
            "nan",
            "NaN",
            "-Infinity",
            "+inf",
            "infinity",
            "1e400",
            "0x10",
            "0x1p3",
            "1_000",
            "7d",
            "7f",
            "null",
            "None",
            "true",
            "TRUE",
            "٥",
            "1e99999999999999999999",
        ]
    )
)
ANY_TEXT = NUMBER_TEXTS | TIME_TEXTS | st.text(max_size=6) | st.sampled_from(["true", "False", " true ", "TRUE\n", "1", ""])
PADDED = st.builds(
    "{}{}{}".format, st.sampled_from(["", "", "", " ", "\t", "\u00a0", "\r\n"]), ANY_TEXT, st.sampled_from(["", "", "", " ", "\x0b\x0c", "\u2003"])
)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.none() | PADDED, max_size=12), st.sampled_from(SCALARS))
def test_a_column_of_texts_is_read_as_each_of_its_texts(texts: list[str | None], kind: Type) -> None:
    read = read_column(pl.Series("c", texts, dtype=pl.String), kind)
    assert (read.name, read.dtype) == ("c", polars_type(kind))
    assert [shown(value) for value in read.to_list()] == [shown(None if text is None else read_text(text, kind)) for text in texts]


def test_a_column_is_read_right_where_one_odd_text_stands_among_thousands() -> None:
    texts = [f"{number}.5" for number in range(5000)]
    for odd, value in ((" 7 ", 7.0), ("7d", None), ("nan", None), ("1e400", None), ("+.5e1", 5.0)):
        texts[2500] = odd
        read = read_column(pl.Series(texts), DOUBLE)
        assert read[2500] == value
        assert read.null_count() == (value is None)
        assert (read[0], read[4999]) == (0.5, 4999.5)


# CSV


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_long_file_is_read_whatever_of_four_separators_it_has(tmp_path: Path, separator: str) -> None:
    lines = ["equip_id,time,sensor,value", "k1,2024-01-15T12:00:00Z,temp,21.50", "k2,2024-01-15 12:00:01,state,", "k3,,,7"]
    read = read_csv(tmp_path, "\n".join(line.replace(",", separator) for line in lines), LONG)
    noon = datetime(2024, 1, 15, 12, tzinfo=UTC)
    assert read.malformed == {}
    assert rows_of(read) == {
        0: {"equip_id": "k1", "time": noon, "sensor": "temp", "value": 21.5},
        1: {"equip_id": "k2", "time": noon + timedelta(seconds=1), "sensor": "state", "value": None},
        2: {"equip_id": "k3", "time": None, "sensor": None, "value": 7.0},
    }


def test_the_undeclared_columns_of_a_wide_file_are_gathered_by_name_and_empty_cells_are_not_there(tmp_path: Path) -> None:
    text = "datetime;Temperature;Pressure;anomaly\n2020-03-09 10:14:33;2.50;;0.0\n2020-03-09 10:14:34;Bad Input;1e3;\n2020-03-09 10:14:35;;;\n"
    columns = {"datetime": "TIMESTAMP_LTZ(3)"}
    texts = [row["extra"] for row in rows_of(read_csv(tmp_path, text, columns, "extra")).values()]
    assert texts == [{"Temperature": "2.50", "anomaly": "0.0"}, {"Pressure": "1e3", "Temperature": "Bad Input"}, {}]
    assert list(texts[1]) == ["Pressure", "Temperature"]
    numbers = [row["extra"] for row in rows_of(read_csv(tmp_path, text, columns, "extra", NUMBERS)).values()]
    assert numbers == [{"Temperature": 2.5, "anomaly": 0.0}, {"Pressure": 1000.0, "Temperature": None}, {}]


def test_a_declared_column_that_the_file_lacks_is_null(tmp_path: Path) -> None:
    read = read_csv(tmp_path, "a\n1\n2\n", {"b": "DOUBLE", "a": "BIGINT", "m": "STRING"}, "extra")
    assert rows_of(read) == {0: {"b": None, "a": 1, "m": None, "extra": {}}, 1: {"b": None, "a": 2, "m": None, "extra": {}}}


def test_a_cell_that_cannot_be_read_makes_its_record_malformed_and_the_detail_names_the_field(tmp_path: Path) -> None:
    text = 'equip_id,time,sensor,value\nk1,,a,1\nk2,noon,a,2\nk3,,a,7d\nk4,noon,a,x\nk5,,a," 5 "\n'
    read = read_csv(tmp_path, text, LONG)
    assert read.malformed == {
        1: "field 'time' is not a TIMESTAMP_LTZ(3): 'noon'",
        2: "field 'value' is not a DOUBLE: '7d'",
        3: "field 'time' is not a TIMESTAMP_LTZ(3): 'noon'",
    }
    assert [(place, row["equip_id"], row["value"]) for place, row in rows_of(read).items()] == [(0, "k1", 1.0), (4, "k5", 5.0)]


QUOTED = {
    '"a,b",1': {"a": "a,b", "b": 1},
    '"a ""b"" c",1': {"a": 'a "b" c', "b": 1},
    '"""",1': {"a": '"', "b": 1},
    '",","1"': {"a": ",", "b": 1},
    '"",1': {"a": None, "b": 1},
    '"",""': {"a": None, "b": None},
    ",": {"a": None, "b": None},
    '5" pipe,1': {"a": '5" pipe', "b": 1},
    '"a"," 1 "': {"a": "a", "b": 1},
    '"a\rb",1': {"a": "a\rb", "b": 1},
    "{},1": {"a": "{}", "b": 1},
    "\ufeffa,1": {"a": "\ufeffa", "b": 1},
    "a\x00b,1": {"a": "a\x00b", "b": 1},
    "#a,1": {"a": "#a", "b": 1},
    " a ,1": {"a": " a ", "b": 1},
    "null,1": {"a": "null", "b": 1},
    "'a',1": {"a": "'a'", "b": 1},
    '"a,1': "not CSV: unexpected end of data",
    'a,"1': "not CSV: unexpected end of data",
    '"': "not CSV: unexpected end of data",
    '"a"b,1': "not CSV: ',' expected after '\"'",
    "a": "1 cells where the header names 2",
    "a,1,": "3 cells where the header names 2",
    '"a,1"': "1 cells where the header names 2",
    '"a,b",1,"c"': "3 cells where the header names 2",
    "a\rb,1": "not CSV: new-line character seen in unquoted field",
    "a,x": "field 'b' is not a BIGINT: 'x'",
    '"a",1.5': "field 'b' is not a BIGINT: '1.5'",
}


@pytest.mark.parametrize(("line", "expected"), QUOTED.items(), ids=ascii)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_of_csv_is_read_or_malformed_alone_and_costs_its_neighbours_nothing(
    tmp_path: Path, line: str, expected: dict[str, Any] | str, place: int
) -> None:
    lines = ['"x,y",1', "z,2"]
    lines.insert(place, line)
    read = read_csv(tmp_path, "\n".join(["a,b", *lines]), {"a": "STRING", "b": "BIGINT"})
    rows: list[Any] = [{"a": "x,y", "b": 1}, {"a": "z", "b": 2}]
    rows.insert(place, expected)
    assert rows_of(read) == {number: row for number, row in enumerate(rows) if not isinstance(row, str)}
    assert list(read.malformed) == [place] * isinstance(expected, str)
    assert isinstance(expected, dict) or read.malformed[place].startswith(expected)


def test_a_file_of_one_column_has_no_separator(tmp_path: Path) -> None:
    read = read_csv(tmp_path, 'a\n1\n"2"\n3,4\n""\n', {"a": "BIGINT"})
    assert rows_of(read) == {0: {"a": 1}, 1: {"a": 2}, 3: {"a": None}}
    assert read.malformed == {2: "2 cells where the header names 1"}


def test_bom_crlf_and_blank_lines_are_accepted(tmp_path: Path) -> None:
    read = read_csv(tmp_path, '\ufeffa,b\r\n1,x\r\n\r\n \t\r\n2,"y"\r\n3,z', {"a": "BIGINT", "b": "STRING"})
    assert read.malformed == {}
    assert rows_of(read) == {0: {"a": 1, "b": "x"}, 1: {"a": 2, "b": "y"}, 2: {"a": 3, "b": "z"}}


def test_a_line_that_is_not_utf_8_is_malformed_alone(tmp_path: Path) -> None:
    read = read_csv(tmp_path, b'a,b\n1,x\n2,caf\xe9\n3,caf\xc3\xa9\n"4,\xff\n', {"a": "BIGINT", "b": "STRING"})
    assert rows_of(read) == {0: {"a": 1, "b": "x"}, 2: {"a": 3, "b": "café"}}
    assert {place: detail.split(":")[0] for place, detail in read.malformed.items()} == {1: "not UTF-8", 3: "not UTF-8"}


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_cell_of_10_mb_is_a_cell_and_its_detail_is_cut_short(tmp_path: Path, quote: str) -> None:
    text = f"a,b\n1,x\n2,{quote}{'y' * 10_000_000}{quote}\n{quote}{'z' * 10_000_000}{quote},3\n4,w\n"
    read = read_csv(tmp_path, text, {"a": "BIGINT", "b": "STRING"})
    assert {place: len(row["b"]) for place, row in rows_of(read).items()} == {0: 1, 1: 10_000_000, 3: 1}
    assert list(read.malformed) == [2]
    assert len(read.malformed[2]) < 150


CELL = st.text("ab \"',;|\t.5\r\ufeffé\x00", max_size=5) | st.sampled_from(["5", "-2.50", "2024-01-15T12:00:00Z", "true", "", "NaN", "null"])


def written(cell: str, separator: str, *, quoted: bool) -> str:
    """Return a cell as CSV writes it."""
    return f'"{cell.replace(chr(34), chr(34) * 2)}"' if quoted or set(cell) & {'"', "\r", separator} else cell


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(st.tuples(CELL, st.booleans()), min_size=5, max_size=5), max_size=12),
    separator=st.sampled_from(",;\t|"),
    chunk=st.sampled_from([1, 30, 1000]),
    kind=st.sampled_from([TEXTS, NUMBERS]),
)
def test_a_csv_file_is_each_of_its_cells_read_by_the_rule(
    tmp_path: Path, rows: list[list[tuple[str, bool]]], separator: str, chunk: int, kind: Type
) -> None:
    columns = {"s": "STRING", "d": "DOUBLE", "t": "TIMESTAMP_LTZ(3)"}
    header = ["d", "x", "t", "s", "@x"]
    lines = [separator.join(written(cell, separator, quoted=quoted) for cell, quoted in row) for row in rows]
    expected: dict[int, Any] = {}
    for row in (row for row, line in zip(rows, lines, strict=True) if line.strip(" \t\r\x0b\x0c")):
        cells = {name: cell or None for name, (cell, _) in zip(header, row, strict=True)}
        values = {name: read_value(cells[name], parse_type(kind_)) for name, kind_ in columns.items()}
        others = {name: cells[name] for name in ("@x", "x") if cells[name] is not None}
        bad = [name for name, value in values.items() if value is UNREADABLE]
        expected[len(expected)] = f"field {bad[0]!r} is not a {columns[bad[0]]}" if bad else shown(values | {"rest": read_value(others, kind)})
    read = read_csv(tmp_path, "\n".join([separator.join(header), *lines]), columns, "rest", kind, chunk)
    found = {place: shown(row) for place, row in rows_of(read).items()} | {place: detail.split(": ")[0] for place, detail in read.malformed.items()}
    assert found == expected


# headers


def test_a_header_that_lacks_a_column_that_must_not_be_null_is_an_error_that_names_a_near_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("input.csv: has no column 'equip_id'; did you mean 'Equip_ID'?")):
        read_csv(tmp_path, "time,Equip_ID\n", {"equip_id": "STRING NOT NULL"})
    with pytest.raises(DataError, match="there is: a, b"):
        read_csv(tmp_path, "a,b\n", {"equip_id": "STRING NOT NULL"})
    with pytest.raises(DataError, match="has no column 'equip_id'"):
        read_rows(pl.DataFrame({"Equip_ID": ["x"]}), {"equip_id": "STRING NOT NULL"})


def test_a_header_with_a_column_twice_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has column 'b' twice"):
        read_csv(tmp_path, "a,b, b\n1,2,3\n", {"a": "BIGINT"})


@pytest.mark.parametrize("text", ["", "\n", "\r\n1,2\n", "\ufeff", "  \n1\n"], ids=ascii)
def test_a_file_without_a_header_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="has no header line"):
        read_csv(tmp_path, text, {"a": "BIGINT"})


def test_a_header_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="header is not UTF-8"):
        read_csv(tmp_path, b"a,Temp \xb0C\n1,2\n", {"a": "BIGINT"})


@pytest.mark.parametrize("header", ["a,b", "a,b\n", "\ufeffa,b\r\n", "a,b\n\n \n"], ids=ascii)
def test_a_header_alone_is_a_file_of_no_records(tmp_path: Path, header: str) -> None:
    read = read_csv(tmp_path, header, {"a": "BIGINT"}, "extra")
    assert (len(read.frame), read.malformed) == (0, {})


def test_quoted_names_in_the_header_hold_separators_and_quotes(tmp_path: Path) -> None:
    text = '"time, UTC";"a;b";"say ""x""";" c "\n1;2;3;4\n'
    read = read_csv(tmp_path, text, {"time, UTC": "BIGINT", "a;b": "BIGINT", 'say "x"': "BIGINT", "c": "BIGINT"})
    assert rows_of(read) == {0: {"time, UTC": 1, "a;b": 2, 'say "x"': 3, "c": 4}}


def test_a_container_cannot_be_in_a_cell(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("a cell cannot be a MAP<STRING, DOUBLE>, which 'data' is; declare it STRING")):
        read_csv(tmp_path, "data\n{}\n", {"data": "MAP<STRING, DOUBLE>"})


@pytest.mark.parametrize("name", ["@record", "@time", "@x", "key 0", "value 0", "extra", "", "key"])
@pytest.mark.parametrize("kind", [TEXTS, NUMBERS])
def test_a_column_may_have_any_name(tmp_path: Path, name: str, kind: Type) -> None:
    value = "5" if kind == TEXTS else 5.0
    for read in (
        read_csv(tmp_path, f"a,x,{name}\n1,,5\n2,5,\n", {"a": "BIGINT"}, "extra", kind),
        read_rows(pl.DataFrame({"a": [1, 2], "x": [None, 5], name: [5, None]}), {"a": "BIGINT"}, "extra", kind),
    ):
        assert rows_of(read) == {0: {"a": 1, "extra": {name: value}}, 1: {"a": 2, "extra": {"x": value}}}


# typed rows


def as_json_gives_it(value: Any) -> Any:
    """Return a typed value as the parser of JSON gives it."""
    match value:
        case float():
            return JsonNumber(Decimal(value))
        case Decimal():
            return JsonNumber(f"{value:f}")
        case dict():
            return {key: as_json_gives_it(inner) for key, inner in value.items()}
        case list():
            return [as_json_gives_it(inner) for inner in value]
        case date():
            return str(value)
    return value


BERLIN = ZoneInfo("Europe/Berlin")
TIMES = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))  # noqa: DTZ001
FLOATS = st.floats() | st.sampled_from([5.0, -0.0, 2.0**53 + 2, 2.0**63, -(2.0**63), 9.3e18, 1e22, math.nan, math.inf])
COLUMNS: dict[str, tuple[pl.DataType, st.SearchStrategy[Any]]] = {
    "texts": (pl.String(), NUMBER_TEXTS | TIME_TEXTS | st.text(max_size=4)),
    "bytes that are texts": (pl.Binary(), NUMBER_TEXTS.map(str.encode)),
    "categories": (pl.Categorical(), st.sampled_from(["5", "2.50", "on", "", "true"])),
    "small integers": (pl.Int16(), st.integers(-(2**15), 2**15 - 1)),
    "integers": (pl.Int64(), st.integers(-(2**63), 2**63 - 1)),
    "great integers": (pl.UInt64(), st.integers(0, 2**64 - 1)),
    "doubles": (pl.Float64(), FLOATS),
    "floats": (pl.Float32(), st.floats(width=32)),
    "booleans": (pl.Boolean(), st.booleans()),
    "decimals": (
        pl.Decimal(38, 4),
        st.decimals(-(10**33), 10**33, places=4) | st.sampled_from(["5.0000", "9223372036854775807.0000", "9223372036854775808.0000"]).map(Decimal),
    ),
    "times in us": (pl.Datetime("us"), TIMES),
    "times in ns": (pl.Datetime("ns"), st.datetimes(datetime(1680, 1, 1), datetime(2260, 1, 1))),  # noqa: DTZ001
    "times with a zone": (pl.Datetime("us", "Europe/Berlin"), TIMES.map(lambda time: time.replace(tzinfo=UTC).astimezone(BERLIN))),
    "dates": (pl.Date(), st.dates()),
    "nothing": (pl.Null(), st.none()),
    "lists of floats": (pl.List(pl.Float32()), st.lists(st.none() | st.floats(width=32), max_size=3)),
    "lists of doubles": (pl.List(pl.Float64()), st.lists(st.none() | FLOATS, max_size=3)),
    "lists of integers": (pl.List(pl.Int32()), st.lists(st.none() | st.integers(-9, 9), max_size=3)),
    "lists of texts": (pl.List(pl.String()), st.lists(st.none() | NUMBER_TEXTS, max_size=3)),
    "rows": (pl.Struct({"a": pl.Int32(), "b": pl.Float64()}), st.fixed_dictionaries({"a": st.none() | st.integers(-9, 9), "b": st.none() | FLOATS})),
    "maps of doubles": (pl.Map(pl.String(), pl.Float64()), st.dictionaries(st.sampled_from("abc"), st.none() | FLOATS, max_size=3)),
    "maps of texts": (pl.Map(pl.String(), pl.String()), st.dictionaries(st.sampled_from("abc"), st.none() | NUMBER_TEXTS, max_size=3)),
}
KINDS = ["STRING", "BIGINT", "DOUBLE", "BOOLEAN", "TIMESTAMP_LTZ(3)", "ARRAY<DOUBLE>", "ARRAY<BIGINT>", "ARRAY<STRING>",
         "ROW<a BIGINT, b DOUBLE>", "ROW<b STRING, c DOUBLE>", "MAP<STRING, DOUBLE>", "MAP<STRING, STRING>", "MAP<STRING, BIGINT>"]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("columns") / "input.parquet"


def in_parquet(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame as it comes out of a Parquet file."""
    frame.write_parquet(path)
    if frame.is_empty():
        return frame
    with closing(open_file(path)) as file:
        batch = file.read()
        assert file.finished
    assert isinstance(batch, Rows)
    return batch.frame


def rule_for(value: Any, dtype: pl.DataType, kind: Type) -> Any:
    """Return what the rule makes of a typed value, or UNREADABLE."""
    if kind == TIMESTAMP and isinstance(dtype, pl.Date) and value is not None:
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if kind == TIMESTAMP and isinstance(dtype, pl.Datetime) and value is not None:
        return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)
    if kind == STRING and isinstance(dtype, pl.List | pl.Struct | pl.Map) and "nan" in repr(value) + repr(value).replace("inf", "nan"):
        return ...
    return read_value(value.decode() if isinstance(value, bytes) else as_json_gives_it(value), kind)


@settings(deadline=None, max_examples=600)
@given(
    st.sampled_from(sorted(COLUMNS)).flatmap(lambda name: st.tuples(st.just(name), st.lists(st.none() | COLUMNS[name][1], max_size=6))),
    st.sampled_from(KINDS),
)
def test_a_typed_column_is_each_of_its_values_read_by_the_rule(path: Path, column: tuple[str, list[Any]], kind_text: str) -> None:
    name, values = column
    dtype, kind = COLUMNS[name][0], parse_type(kind_text)
    frame = in_parquet(path, pl.DataFrame({"x": pl.Series(values, dtype=dtype, strict=False), "n": range(len(values))}))
    expected = [rule_for(value, dtype, kind) for value in frame["x"].to_list()]
    if (name, kind) == ("decimals", STRING):
        return
    read = read_rows(frame, {"x": kind_text, "n": "BIGINT"})
    assert read.frame.schema["x"] == polars_type(kind)
    rows = rows_of(read)
    assert sorted([*rows, *read.malformed]) == list(range(len(values)))
    for place, value in enumerate(expected):
        if value is UNREADABLE:
            assert read.malformed[place].startswith(f"field 'x' is not a {kind.kind}: ")
        elif value is not ...:
            assert shown(rows[place]["x"]) == shown(value)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from([name for name, (dtype, _) in COLUMNS.items() if not dtype.is_nested() and name != "decimals"]), min_size=1, max_size=4
    ).flatmap(lambda names: st.tuples(*(st.tuples(st.just(name), st.lists(st.none() | COLUMNS[name][1], min_size=3, max_size=3)) for name in names))),
    st.sampled_from(["STRING", "DOUBLE", "BIGINT"]),
)
def test_rest_gathers_what_is_there_of_typed_columns_and_what_cannot_be_read_is_null(
    path: Path, columns: tuple[tuple[str, list[Any]], ...], inner: str
) -> None:
    kind = map_of(STRING, parse_type(inner))
    frame = in_parquet(path, pl.DataFrame({f"c{number}": pl.Series(values, dtype=COLUMNS[name][0]) for number, (name, values) in enumerate(columns)}))
    read = read_rows(frame, {}, "extra", kind)
    assert read.malformed == {}
    for place, row in rows_of(read).items():
        found = {name: frame[name][place] for name in sorted(frame.columns) if frame[name][place] is not None}
        expected = {name: rule_for(value, frame.schema[name], kind.element) for name, value in found.items()}
        assert shown(row["extra"]) == shown({name: None if value is UNREADABLE else value for name, value in expected.items()})


def test_a_parquet_file_is_read_with_its_own_types(tmp_path: Path) -> None:
    noon = datetime(2024, 1, 15, 12, 0, 0, 123_456)  # noqa: DTZ001
    frame = pl.DataFrame(
        {
            "time": [noon, noon.replace(year=1969), None], "zoned": pl.Series([noon] * 3).dt.replace_time_zone("Europe/Berlin"),
            "count": pl.Series([1, 2, 3], dtype=pl.Int32), "value": [1.5, math.nan, None], "price": [Decimal("2.50"), Decimal(5), None],
            "tags": [["a"], [], None], "place": [{"x": 1.5, "y": 2}] * 3, "data": pl.Series([{"b": 1.0, "a": math.inf}, {}, None], dtype=pl.Map(pl.String, pl.Float64)),
        }
    )  # fmt: skip
    frame.write_parquet(tmp_path / "input.parquet")
    file = open_file(tmp_path / "input.parquet")
    columns = {
        "time": "TIMESTAMP_LTZ(3)", "zoned": "TIMESTAMP_LTZ(3)", "count": "BIGINT", "price": "DOUBLE", "tags": "ARRAY<STRING>", "place": "ROW<y STRING, x DOUBLE>",
        "data": "MAP<STRING, DOUBLE>",
    }  # fmt: skip
    batch = file.read()
    read = ColumnReader(Schema.parse(columns), "extra", NUMBERS, name=file.name, columns=file.columns or []).read(batch)
    utc, place = noon.replace(microsecond=123_000, tzinfo=UTC), {"y": "2", "x": 1.5}
    assert read.malformed == {}
    assert list(rows_of(read).values()) == [
        {
            "time": utc,
            "zoned": utc - timedelta(hours=1),
            "count": 1,
            "price": 2.5,
            "tags": ["a"],
            "place": place,
            "data": {"b": 1.0, "a": None},
            "extra": {"value": 1.5},
        },
        {
            "time": utc.replace(year=1969),
            "zoned": utc - timedelta(hours=1),
            "count": 2,
            "price": 5.0,
            "tags": [],
            "place": place,
            "data": {},
            "extra": {"value": None},
        },
        {"time": None, "zoned": utc - timedelta(hours=1), "count": 3, "price": None, "tags": None, "place": place, "data": None, "extra": {}},
    ]
    read = ColumnReader(Schema.parse({"value": "DOUBLE", "tags": "BIGINT"}), None, TEXTS, name=file.name, columns=file.columns or []).read(batch)
    assert read.malformed == {0: "field 'tags' is not a BIGINT: ['a']", 1: "field 'value' is not a DOUBLE: nan"}


def test_a_typed_record_can_be_had_again_as_one_json_object() -> None:
    noon = datetime(2024, 1, 15, 12)  # noqa: DTZ001
    frame = pl.DataFrame(
        {
            "n": pl.Series([2**60, 1], dtype=pl.Int64), "u": pl.Series([2**64 - 1, 1], dtype=pl.UInt64), "d": [1.5, math.nan], "b": [b"x", b"\xff"], "t": [noon, None],
            "day": [date(2024, 1, 15), None], "l": [[1.5, math.inf], []], "m": pl.Series([{"é": 1.0}, None], dtype=pl.Map(pl.String, pl.Float64)), "s": ["a\n", ""],
        }
    )  # fmt: skip
    first, second = (json.loads(Rows(frame).raw(place)) for place in (0, 1))
    assert first == {
        "n": 2**60, "u": 2**64 - 1, "d": 1.5, "b": "x", "t": "2024-01-15 12:00:00", "day": "2024-01-15", "l": [1.5, "inf"], "m": {"é": 1.0}, "s": "a\n",
    }  # fmt: skip
    assert second == {"n": 1, "u": 1, "d": "nan", "b": "\\xff", "t": None, "day": None, "l": [], "m": None, "s": ""}
    assert "\n" not in Rows(frame).raw(0)


@pytest.mark.parametrize("dtype", [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("us", "UTC"), pl.Date()], ids=str)
def test_a_time_beyond_the_calendar_is_no_time_and_its_record_can_still_be_had(dtype: pl.DataType) -> None:
    absurd = 2**31 - 1 if dtype == pl.Date() else 2**63 - 1
    frame = pl.DataFrame({"t": pl.Series([0, absurd, -absurd, None], dtype=pl.Int64).cast(pl.Int32 if dtype == pl.Date() else pl.Int64).cast(dtype)})
    for kind in ("TIMESTAMP_LTZ(3)", "STRING", "BIGINT"):
        read = read_rows(frame, {"t": kind})
        assert {1, 2} <= read.malformed.keys()
        assert all(str(absurd) in read.malformed[place] for place in (1, 2))
    assert json.loads(Rows(frame).raw(1)) == {"t": absurd}
    assert rows_of(read_rows(frame, {}, "extra"))[1] == {"extra": {"t": None}}


def test_columns_that_are_about_to_be_unnested_come_side_by_side() -> None:
    frame = pl.DataFrame({"b": ["x", None], "a": ["5", ""]})
    assert read_rows(frame, {}, "extra", NUMBERS, unread=["extra"]).frame["extra"].to_list() == [{"a": "5", "b": "x"}, {"a": "", "b": None}]
    frame = pl.DataFrame({"b": ["x", None], "a": [5, None], "c": [math.nan, 1.5]})
    rows = read_rows(frame, {}, "extra", NUMBERS, unread=["extra"]).frame["extra"].to_list()
    assert shown(rows) == shown([{"a": 5.0, "b": math.nan, "c": math.nan}, {"a": None, "b": None, "c": 1.5}])
    assert double_of("x") is None
