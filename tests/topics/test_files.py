"""Files as topics: the same records at the same offsets however they are read, and a plain error where they cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.errors import DataError, EnvironmentFault, PlanError
from headrace.kernels.reading.batch import Lines, Records, Rows
from headrace.topics.files import ParquetFile, TextFile, open_file
from headrace.topics.protocol import PartitionReader

BOM = b"\xef\xbb\xbf"
CHUNKS = st.sampled_from([*range(1, 9), 16, 64, 1000, 1 << 16])

Taken = list[tuple[int, str | bytes]]


def taken(records: Records, first: int) -> Taken:
    """Return a batch's records with their offsets."""
    return [(first + place, records.raw(place)) for place in range(len(records))]


def rest_of(file: PartitionReader) -> Taken:
    """Read a file to its end, and return its records with their offsets."""
    found: Taken = []
    for _ in range(1_000_000):
        if file.finished:
            return found
        first = file.position["record"]
        found += taken(file.read(), first)
        assert file.position["record"] == (found[-1][0] + 1 if found else first)
    raise AssertionError("it never ends")


def all_of(path: Path, chunk: int | None = None) -> Taken:
    with closing(open_file(path, chunk)) as file:
        return rest_of(file)


def texts_of(path: Path, chunk: int | None = None) -> list[str | bytes]:
    found = all_of(path, chunk)
    assert [offset for offset, _ in found] == list(range(len(found)))
    return [record for _, record in found]


def records_in(text: bytes) -> list[str | bytes]:
    """Return the records of a text, by the contract."""
    lines = (line.removesuffix(b"\r") for line in text.removeprefix(BOM).split(b"\n"))
    return [as_text(line) for line in lines if line.strip(b" \t\r\x0b\x0c")]


def as_text(line: bytes) -> str | bytes:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


PIECES = st.sampled_from(
    [
        b"\n",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b" ",
        b"\t",
        b"\x0b",
        b"{}",
        b'{"a":1}',
        b"x",
        b'"',
        "é😀".encode(),
        BOM,
        b"\xff",
        b"\xc3",
        b"\x00",
        b"\x1c\xc2\x85",
    ]
)
CONTENTS = st.lists(PIECES, max_size=25).map(b"".join) | st.tuples(st.just(BOM), st.lists(PIECES, max_size=9).map(b"".join)).map(b"".join)


# text


@settings(deadline=None, max_examples=400)
@given(text=CONTENTS, chunk=CHUNKS)
@example(text=b"", chunk=1)
@example(text=b"\n\n\n", chunk=1)
@example(text=b"a\r\nb", chunk=2)
@example(text=BOM + b"a\n" + BOM + b"b", chunk=2)
@example(text=BOM, chunk=1)
@example(text=BOM + b"\n", chunk=4)
@example(text=b"a\nb", chunk=2)
def test_the_records_and_their_offsets_do_not_depend_on_the_size_of_chunks(folder: Path, text: bytes, chunk: int) -> None:
    path = folder / "chunks.ndjson"
    path.write_bytes(text)
    assert texts_of(path, chunk) == records_in(text)


@settings(deadline=None, max_examples=200)
@given(text=CONTENTS, chunk=CHUNKS, other=CHUNKS, ending=st.sampled_from(["ndjson", "csv"]))
def test_from_each_position_the_same_rest_is_read_again_by_another_reader(folder: Path, text: bytes, chunk: int, other: int, ending: str) -> None:
    path = folder / f"seek.{ending}"
    path.write_bytes(b"a,b\r\n" * (ending == "csv") + text)
    with closing(open_file(path, chunk)) as file:
        positions = [file.position]
        found: Taken = []
        while not file.finished:
            records = file.read()
            found += taken(records, positions[-1]["record"])
            positions.append(file.position)
        for position in positions:
            rest = [one for one in found if one[0] >= position["record"]]
            with closing(open_file(path, other)) as again:
                again.seek(position)
                assert again.position == position
                assert rest_of(again) == rest
            file.seek(position)
            assert rest_of(file) == rest


def test_blank_lines_are_no_records_and_take_no_offset(tmp_path: Path) -> None:
    path = tmp_path / "blank.ndjson"
    path.write_bytes(b'\n \n\t\n{"a":1}\n\r\n\x0b\x0c\n{"a":2}\n   ')
    for chunk in (1, 4, 1000):
        assert all_of(path, chunk) == [(0, '{"a":1}'), (1, '{"a":2}')]


def test_a_bom_is_dropped_at_the_start_of_the_file_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "bom.ndjson"
    path.write_bytes(BOM + b"{}\n" + BOM + b"{}\n" + BOM)
    for chunk in (1, 3, 4, 7, 1000):
        assert texts_of(path, chunk) == ["{}", "\ufeff{}", "\ufeff"]


def test_of_crlf_the_line_keeps_neither_and_a_lone_cr_stays(tmp_path: Path) -> None:
    path = tmp_path / "crlf.ndjson"
    path.write_bytes(b"{}\r\na\rb\r\nc\r\r\n\r\nd\r")
    for chunk in (1, 3, 4, 7, 1000):
        assert texts_of(path, chunk) == ["{}", "a\rb", "c\r", "d"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_the_last_line_needs_no_end(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "end.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}' + end)
    for chunk in (1, 8, 1000):
        assert texts_of(path, chunk) == ['{"a":1}', '{"a":2}']


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    path = tmp_path / "separators.ndjson"
    path.write_text("a\u2028b\u0085c\x0bd\x1ce\n", encoding="utf-8")
    assert texts_of(path) == ["a\u2028b\u0085c\x0bd\x1ce"]


@pytest.mark.parametrize("chunk", [1 << 16, None])
def test_a_line_of_10_mb_is_one_record(tmp_path: Path, chunk: int | None) -> None:
    path, line = tmp_path / "long.ndjson", '{"a":"' + "x" * 10_000_000 + '"}'
    path.write_text(f"{{}}\n{line}\n{{}}\n{line}")
    found = texts_of(path, chunk)
    assert [len(record) for record in found] == [2, len(line), 2, len(line)]
    assert found == ["{}", line, "{}", line]


def test_an_empty_file_is_at_its_end_at_once(tmp_path: Path) -> None:
    path = tmp_path / "empty.ndjson"
    path.touch()
    with closing(open_file(path)) as file:
        assert file.finished
        assert file.position == {"byte": 0, "record": 0, "size": 0}


@settings(deadline=None, max_examples=150)
@given(before=CONTENTS, after=CONTENTS, chunk=CHUNKS, reads=st.integers(0, 3))
@example(before=b"a\nb", after=b"c\nd", chunk=1000, reads=0)
@example(before=b"a\nb", after=b"c\nd", chunk=1, reads=1)
@example(before=b"a\n", after=b"b\n", chunk=1, reads=0)
@example(before=b"a\nb", after=b"", chunk=1, reads=0)
def test_of_what_is_appended_while_the_file_is_read_only_a_begun_line_is_read_to_its_end(
    folder: Path, before: bytes, after: bytes, chunk: int, reads: int
) -> None:
    path = folder / "growing.ndjson"
    path.write_bytes(before)
    with closing(open_file(path, chunk)) as file:
        found: Taken = []
        for _ in range(reads):
            if not file.finished:
                first = file.position["record"]
                found += taken(file.read(), first)
        finished = file.finished
        with path.open("ab") as writer:
            writer.write(after)
        found += rest_of(file)
        position = file.position
    begun = b"" if before.endswith(b"\n") or not before or finished else (after + b"\n")[: (after + b"\n").index(b"\n")]
    assert [record for _, record in found] == records_in(before + begun)
    with closing(open_file(path, chunk)) as file:
        file.seek(position)
        assert file.finished


def test_a_resumed_reader_goes_up_to_the_size_that_the_first_one_saw(tmp_path: Path) -> None:
    path = tmp_path / "resumed.ndjson"
    path.write_bytes(b"1\n2\n3\n")
    with closing(open_file(path, 2)) as file:
        file.read()
        position = file.position
    with path.open("ab") as writer:
        writer.write(b"4\n5\n")
    with closing(open_file(path, 2)) as file:
        file.seek(position)
        assert rest_of(file) == [(1, "2"), (2, "3")]


@pytest.mark.parametrize("chunk", [1, 3, 4, 1000])
def test_a_file_that_shrinks_while_it_is_read_is_an_error_that_says_so(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "shrinking.ndjson"
    path.write_bytes(b"1234567\n" * 10_000)
    with closing(open_file(path, chunk)) as file:
        file.read()
        os.truncate(path, 3)
        with pytest.raises(EnvironmentFault, match=r"shrinking\.ndjson: has become shorter while it was read; let its writer finish"):
            rest_of(file)


def test_a_file_that_shrank_before_it_is_resumed_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "shrunk.ndjson"
    path.write_bytes(b"1\n2\n3\n")
    with closing(open_file(path, 2)) as file:
        file.read()
        position = file.position
    path.write_bytes(b"1\n2\n")
    with (
        closing(open_file(path)) as file,
        pytest.raises(EnvironmentFault, match=r"shrunk\.ndjson: has shrunk from 6 to 4 bytes; bring the file back"),
    ):
        file.seek(position)


def test_a_file_that_is_removed_while_it_is_read_is_still_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "vanishing.ndjson"
    path.write_bytes(b"1\n2\n3\n")
    with closing(open_file(path, 2)) as file:
        file.read()
        path.unlink()
        assert rest_of(file) == [(1, "2"), (2, "3")]


READ_STANDARD_INPUT = """
import json
from pathlib import Path
from headrace.topics.files import open_file

file = open_file(Path("-"), 4)
while not file.finished:
    records = file.read()
    print(json.dumps([file.position["record"], [records.raw(place) for place in range(len(records))]]), flush=True)
"""


def test_standard_input_is_read_as_it_comes() -> None:
    with subprocess.Popen([sys.executable, "-c", READ_STANDARD_INPUT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdin
        assert reader.stdout
        reader.stdin.write(BOM + b"1\n2")
        reader.stdin.flush()
        assert json.loads(reader.stdout.readline()) == [1, ["1"]]
        reader.stdin.write(b"3\r\n\n456789\n7")
        reader.stdin.close()
        seen = [json.loads(line) for line in reader.stdout]
        assert reader.wait() == 0
    assert [record for _, records in seen for record in records] == ["23", "456789", "7"]
    assert seen[-1][0] == 4


# Parquet


def parquet(path: Path, rows: int, *, row_group: int = 7) -> Path:
    pl.DataFrame({"n": range(rows), "s": [f"é{number}" for number in range(rows)]}, schema={"n": pl.Int64, "s": pl.String}).write_parquet(
        path, row_group_size=row_group
    )
    return path


def numbers_of(file: ParquetFile) -> list[int]:
    found: list[int] = []
    for _ in range(10_000):
        if file.finished:
            return found
        assert file.position["record"] == (found[-1] + 1 if found else file.position["record"])
        batch = file.read()
        assert isinstance(batch, Rows)
        found += batch.frame["n"].to_list()
    raise AssertionError("it never ends")


@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 50, 1000, None])
@pytest.mark.parametrize("rows", [0, 1, 7, 50])
def test_the_rows_of_a_parquet_file_do_not_depend_on_the_size_of_chunks(tmp_path: Path, chunk: int | None, rows: int) -> None:
    with closing(ParquetFile(parquet(tmp_path / "rows.parquet", rows), chunk)) as file:
        assert file.columns == ["n", "s"]
        assert numbers_of(file) == list(range(rows))
        assert file.position == {"record": rows, "size": rows}


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 50])
def test_from_each_row_the_same_rest_of_a_parquet_file_is_read_again(tmp_path: Path, chunk: int) -> None:
    path = parquet(tmp_path / "seek.pq", 20)
    with closing(ParquetFile(path, chunk)) as file:
        for first in range(21):
            file.seek({"record": first, "size": 20})
            assert numbers_of(file) == list(range(first, 20))


def test_a_parquet_file_whose_name_looks_like_a_pattern_is_just_that_file(tmp_path: Path) -> None:
    parquet(tmp_path / "a1.parquet", 3)
    for name in ("a[1].parquet", "a*.parquet", "a?.parquet", "k=v.parquet"):
        with closing(open_file(parquet(tmp_path / name, 5))) as file:
            assert len(rest_of(file)) == 5
            assert file.columns == ["n", "s"]
    folder = tmp_path / "day=2024-01-15"
    folder.mkdir()
    with closing(open_file(parquet(folder / "a.parquet", 2))) as file:
        assert file.columns == ["n", "s"]


def test_a_parquet_file_that_was_replaced_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = parquet(tmp_path / "replaced.parquet", 20)
    with closing(ParquetFile(path, 5)) as file:
        file.read()
        position = file.position
    parquet(path, 10)
    with (
        closing(ParquetFile(path, 5)) as file,
        pytest.raises(EnvironmentFault, match=r"replaced\.parquet: had 20 rows and has 10 now; bring the file back"),
    ):
        file.seek(position)


@pytest.mark.parametrize("what", ["fewer rows", "cut short", "removed", "other columns", "no parquet"])
@pytest.mark.parametrize("reads", [0, 1])
def test_a_parquet_file_that_changes_while_it_is_read_is_an_error_that_says_so(tmp_path: Path, what: str, reads: int) -> None:
    path = parquet(tmp_path / "changing.parquet", 50_000, row_group=1000)
    with closing(ParquetFile(path, 5000)) as file:
        for _ in range(reads):
            file.read()
        match what:
            case "fewer rows":
                parquet(path, 10)
            case "cut short":
                os.truncate(path, 100)
            case "removed":
                path.unlink()
            case "other columns":
                pl.DataFrame({"x": [1]}).write_parquet(path)
            case "no parquet":
                path.write_bytes(b"x" * 1000)
        with pytest.raises(EnvironmentFault, match=r"changing\.parquet: has changed while it was read; let its writer finish, then run again"):
            numbers_of(file)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" + b"\x00" * 100 + b"PAR1", b"n,s\n1,2\n", None], ids=["empty", "a mark", "two marks", "text", "half a file"]
)
def test_a_file_that_is_no_parquet_is_an_error_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(parquet(tmp_path / "whole.parquet", 100).read_bytes()[:500] if content is None else content)
    with pytest.raises(DataError, match=r"broken\.parquet: is no Parquet file: ") as caught:
        open_file(path)
    assert "\n" not in str(caught.value)


# what cannot be opened

ENDINGS = ["ndjson", "jsonl", "json", "csv", "tsv", "parquet", "pq", "NDJSON", "Csv"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"missing.{ending}"
    with pytest.raises(EnvironmentFault) as caught:
        open_file(path)
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory; name a file that exists"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_is_no_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"folder.{ending}"
    path.mkdir()
    with pytest.raises(EnvironmentFault, match=rf"folder\.{ending}: cannot be read: Is a directory; name a file"):
        open_file(path)


@pytest.mark.parametrize("name", ["data.xlsx", "data", "data.ndjson.gz", "data.txt", ".ndjson", "data."])
def test_a_file_whose_name_says_nothing_of_its_format_is_wrong_use(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}\n")
    with pytest.raises(PlanError, match=r"the format of .* is not known; name it \.ndjson, \.csv or \.parquet") as caught:
        open_file(tmp_path / name)
    assert caught.value.exit_status == 2


@contextmanager
def not_as_root() -> Iterator[None]:
    """Be nobody for a while, if this is root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("ending", ["ndjson", "csv", "parquet"])
def test_a_file_that_this_user_may_not_read_is_an_error_that_says_so(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"secret.{ending}"
    path.touch(mode=0)
    with pytest.raises(EnvironmentFault) as caught, not_as_root():
        open_file(path)
    assert str(caught.value) == f"{path}: cannot be read: Permission denied; name a file that this user may read"


def test_text_files_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"{}")
    (tmp_path / "a.csv").write_bytes(b"a;b\n1;2\n")
    with closing(open_file(tmp_path / "a.ndjson")) as file:
        assert (file.name, file.columns, file.separator) == (str(tmp_path / "a.ndjson"), None, None)
    with closing(open_file(tmp_path / "a.csv")) as file:
        assert (file.name, file.columns, file.separator) == (str(tmp_path / "a.csv"), ["a", "b"], ";")
        assert isinstance(file, TextFile)
        batch: Any = file.read()
        assert isinstance(batch, Lines)
        assert [batch.raw(0), file.position["record"]] == ["1;2", 1]
