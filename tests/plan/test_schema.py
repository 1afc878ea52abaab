"""Types and schemas: what is read, what is refused, and what was probably meant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Field, Schema, Type, array_of, map_of, parse_type, row_of

scalars = st.sampled_from([BOOLEAN, BIGINT, DOUBLE, STRING, TIMESTAMP])
names = st.text(st.characters(exclude_characters="`", exclude_categories=("Cs", "Cc")), min_size=1)
types = st.recursive(
    scalars,
    lambda inner: st.one_of(
        inner.map(array_of), inner.map(lambda value: map_of(STRING, value)), st.dictionaries(names, inner, min_size=1, max_size=3).map(row_of)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("BOOLEAN", BOOLEAN),
        ("bigint", BIGINT),
        (" Double ", DOUBLE),
        ("STRING", STRING),
        ("TIMESTAMP_LTZ(3)", TIMESTAMP),
        ("timestamp_ltz ( 3 )", TIMESTAMP),
        ("MAP<STRING,STRING>", map_of(STRING, STRING)),
        ("map < string , array<double> >", map_of(STRING, array_of(DOUBLE))),
        ("ARRAY<\n  ROW<at TIMESTAMP_LTZ(3),\n  `my value` DOUBLE>\n>", array_of(row_of({"at": TIMESTAMP, "my value": DOUBLE}))),
        ("ROW<timestamp BIGINT, end BIGINT, row ROW<map STRING>>", row_of({"timestamp": BIGINT, "end": BIGINT, "row": row_of({"map": STRING})})),
        ("ROW<`a>b,c` STRING, é BIGINT>", row_of({"a>b,c": STRING, "é": BIGINT})),
    ],
)
def test_a_type_is_read_whatever_its_case_and_spacing(text: str, kind: Type) -> None:
    assert parse_type(text) == kind


@settings(deadline=None)
@given(types)
def test_a_type_is_read_back_from_its_own_text(kind: Type) -> None:
    assert parse_type(str(kind)) == kind


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("INT", "use BIGINT"),
        ("integer", "use BIGINT"),
        ("SMALLINT", "use BIGINT"),
        ("FLOAT", "use DOUBLE"),
        ("DECIMAL(10, 2)", "use DOUBLE"),
        ("numeric(5)", "use DOUBLE"),
        ("VARCHAR", "use STRING"),
        ("VARCHAR(255)", "use STRING"),
        ("CHAR (3)", "use STRING"),
        ("BOOL", "use BOOLEAN"),
        ("TIMESTAMP", "use TIMESTAMP_LTZ(3)"),
        ("TIMESTAMP(3)", "use TIMESTAMP_LTZ(3)"),
        ("TIMESTAMP_LTZ", "use TIMESTAMP_LTZ(3)"),
        ("TIMESTAMP_LTZ(6)", "use TIMESTAMP_LTZ(3)"),
        ("DATETIME", "use TIMESTAMP_LTZ(3)"),
        ("DUBLE", "did you mean 'DOUBLE'?"),
        ("STRNG", "did you mean 'STRING'?"),
        ("MAPP", "did you mean 'MAP'?"),
        ("GEOMETRY", "there is: ARRAY, BIGINT, BOOLEAN, DOUBLE, MAP, ROW, STRING, TIMESTAMP_LTZ(3)"),
    ],
)
def test_an_unknown_type_is_answered_with_the_one_that_was_meant(text: str, meant: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_type(text)
    assert caught.value.what.startswith("unknown type ")
    assert caught.value.fix == meant


@pytest.mark.parametrize("text", ["MAP<STRING, STRNG>", "ARRAY<STRNG>", "ROW<a BIGINT, b STRNG>", "ARRAY<ARRAY<STRNG>>"])
def test_an_unknown_type_is_found_inside_another(text: str) -> None:
    with pytest.raises(PlanError, match="unknown type STRNG; did you mean 'STRING'"):
        parse_type(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "ends too early"),
        (" ", "ends too early"),
        ("MAP", "lacks '<'"),
        ("MAP<", "ends too early"),
        ("MAP<STRING", "lacks ','"),
        ("MAP<STRING>", "lacks ','"),
        ("MAP<STRING, DOUBLE", "lacks '>'"),
        ("MAP<STRING, DOUBLE>>", "goes on after MAP<STRING, DOUBLE>"),
        ("MAP<BIGINT, STRING>", "keys are not STRING"),
        ("BIGINT BIGINT", "goes on after BIGINT"),
        ("DOUBLE PRECISION", "goes on after DOUBLE"),
        ("BIGINT NOT NUL", "goes on after BIGINT"),
        ("ROW<a BIGINT b STRING>", "lacks ','"),
        ("ROW<a BIGINT NOT NULL>", "lacks ','"),
        ("ROW<a BIGINT, a STRING>", "has two fields 'a'"),
        ("a;b", "cannot be read as a type"),
        ("ARRAY[STRING]", "cannot be read as a type"),
    ],
)
def test_a_type_that_is_not_well_formed_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_type(text)
    assert why in caught.value.what
    assert caught.value.fix


def test_a_schema_keeps_the_order_of_its_columns_and_says_what_may_be_null() -> None:
    schema = Schema.parse({"k": "STRING NOT NULL", "t": "BIGINT", "m": "MAP<STRING, STRING>  not\tnull ", "end": "DOUBLE"})
    assert schema.fields == (
        Field("k", STRING, nullable=False), Field("t", BIGINT), Field("m", map_of(STRING, STRING), nullable=False), Field("end", DOUBLE),
    )  # fmt: skip
    assert str(schema) == "k STRING NOT NULL, t BIGINT, m MAP<STRING, STRING> NOT NULL, end DOUBLE"


def test_a_wrong_type_in_a_schema_names_the_column() -> None:
    with pytest.raises(PlanError) as caught:
        Schema.parse({"good": "STRING", "bad": "DUBLE NOT NULL"}, "stream('x')")
    assert str(caught.value) == "stream('x'): column 'bad': unknown type DUBLE; did you mean 'DOUBLE'?"


@pytest.mark.parametrize("name", ["", "@time", 5])
def test_a_column_name_that_headrace_cannot_use_is_refused(name: str) -> None:
    with pytest.raises(PlanError, match=r"column name .* cannot be used"):
        Schema.parse({name: "STRING"})


@pytest.mark.parametrize(("columns", "why"), [({"a": 5}, "column 'a': type 5 is not a text"), ([("a", "STRING")], "is not a table of columns")])
def test_what_is_no_schema_at_all_is_refused(columns: object, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        Schema.parse(columns)


def test_an_unknown_column_of_a_schema_is_answered_with_a_near_one() -> None:
    schema = Schema.parse({"value": "DOUBLE", "sensor": "STRING"})
    assert "value" in schema
    with pytest.raises(PlanError, match="unknown column 'vlaue'; did you mean 'value'"):
        schema["vlaue"]
    with pytest.raises(PlanError, match="unknown column 'pressure'; there is: sensor, value"):
        schema["pressure"]


def test_fields_are_replaced_where_they_stand_or_added_at_the_end() -> None:
    schema = Schema.parse({"a": "STRING", "b": "STRING"})
    assert schema.with_fields(Field("a", DOUBLE), Field("c", BIGINT)) == Schema.parse({"a": "DOUBLE", "b": "STRING", "c": "BIGINT"})
    assert schema.without("a", "x") == Schema.parse({"b": "STRING"})
