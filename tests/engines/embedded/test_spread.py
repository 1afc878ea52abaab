"""`spread`: undeclared fields go from the input to the output as they came, in files, on topics and in a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.cli import main

PIPELINE = """
import headrace as hr


@hr.pipeline("through", version="1")
def through(order: str = "first"):
    rows = hr.stream("rows", schema={"id": "STRING NOT NULL"}, rest="fields").derive(size="CHAR_LENGTH(id)")
    columns = {"first": ["fields", "id", "size"], "middle": ["id", "fields", "size"], "last": ["id", "size", "fields"], "alone": ["fields"]}
    return {"out": rows.select(*columns[order]).spread("fields"), "nested": rows}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADRACE_HOME", raising=False)
    Path("through.py").write_text(PIPELINE)


ROWS: list[dict[str, Any]] = [
    {"id": "ab", "P 1": "1.50", 'ü"\n\\': "text\r\u2028", "size": "its own"},
    {"id": "c"},
    {"id": "", "x": 5, "y": {"z": [1]}, "n": None, "t": True, "fields": "of its own", "@spread": "too"},
]
SPREAD: list[dict[str, Any]] = [
    {"id": "ab", "size": 2, "P 1": "1.50", 'ü"\n\\': "text\r\u2028"},
    {"id": "c", "size": 1},
    {"id": "", "size": 0, "x": "5", "y": '{"z":[1]}', "t": "true", "fields": "of its own", "@spread": "too"},
]


@pytest.mark.parametrize("order", ["first", "middle", "last"])
@pytest.mark.usefixtures("folder")
def test_fields_are_beside_the_columns_where_the_map_is(order: str) -> None:
    Path("rows.ndjson").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["run", "through.py", "--input", "rows.ndjson", "--output", "out", "--set", f"order={order}"]) == 0
    lines = Path("out/out.ndjson").read_text().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == SPREAD
    assert [*json.loads(lines[0])] == {
        "first": ["P 1", 'ü"\n\\', "id", "size"], "middle": ["id", "P 1", 'ü"\n\\', "size"], "last": ["id", "size", "P 1", 'ü"\n\\'],
    }[order]  # fmt: skip
    assert "fields" in json.loads(Path("out/nested.ndjson").read_text().split("\n")[0])


@pytest.mark.usefixtures("folder")
def test_a_map_alone_and_standard_output_and_topics(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.ndjson").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["run", "through.py", "--input", "rows.ndjson", "--output", "out", "--set", "order=alone"]) == 0
    alone = [json.loads(line) for line in Path("out/out.ndjson").read_text().split("\n")[:-1]]
    assert alone == [
        {"P 1": "1.50", 'ü"\n\\': "text\r\u2028", "size": "its own"},
        {},
        {name: text for name, text in SPREAD[2].items() if name not in {"id", "size"}},
    ]
    assert main(["topics", "create", "rows"]) == 0
    assert main(["topics", "append", "rows", "rows.ndjson"]) == 0
    assert main(["run", "through.py", "--until", "latest"]) == 0
    capsys.readouterr()
    assert main(["topics", "tail", "out"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]] == SPREAD


@hr.pipeline("through", version="1")
def through() -> dict[str, hr.Stream]:
    rows = hr.stream("rows", schema={"id": "STRING NOT NULL"}, rest="fields")
    return {"out": rows.spread("fields")}


def test_in_a_program_the_map_stays_a_column() -> None:
    found = through.run({"rows": ROWS})["out"].rows()
    assert [row["fields"] for row in found][1] == {}
    assert [row for _, row in through.stream({"rows": iter(ROWS)})] == found


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=5)
@given(st.lists(st.dictionaries(TEXTS.filter(lambda name: name != "id"), TEXTS), min_size=1))
def test_any_fields_come_out_as_they_came(records: list[dict[str, str]]) -> None:
    with hr.test(through) as running:
        running.feed("rows", [{"id": "a", **fields} for fields in records])
        assert running.rows("out") == [{"id": "a", **fields} for fields in records]


@pytest.mark.usefixtures("folder")
def test_what_has_fixed_columns_refuses_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.ndjson").write_text("{}\n")
    for command in (
        ["plan", "through.py", "--engine", "flink"],
        ["plan", "through.py", "--engine", "spark"],
        ["run", "through.py", "--input", "rows.ndjson", "--output", "out", "--output-format", "parquet"],
    ):
        assert main(command) == 2
        assert "writes the entries of 'fields' as fields; declare the fields in the schema" in capsys.readouterr().err


def test_only_a_map_of_texts_can_be_spread() -> None:
    rows = hr.stream("rows", schema={"id": "STRING", "numbers": "MAP<STRING, DOUBLE>"})
    for column in ("id", "numbers", "none"):
        with pytest.raises(hr.PlanError, match=r"only a MAP<STRING, STRING> can be spread|unknown column"):
            rows.spread(column)
