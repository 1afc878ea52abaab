"""Plans printed as Spark jobs; here nothing is run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import headrace as hr
from headrace.apps.fingerprint import fingerprint
from headrace.cli import main
from headrace.engines.spark.expression import sql
from headrace.engines.spark.prelude import FUNCTIONS as SQL_FUNCTIONS
from headrace.engines.spark.prelude import JAVA, definitions
from headrace.engines.spark.script import live_script, spark_script
from headrace.engines.spark.words import literal, name, text, type_name
from headrace.errors import PlanError
from headrace.plan.expression import Literal
from headrace.plan.functions import AGGREGATES, FUNCTIONS
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING, TIMESTAMP, Schema, parse_type
from headrace.plan.sql import parse_expression

SCHEMA = {"id": "STRING NOT NULL", "t": "BIGINT", "x": "DOUBLE", "n": "BIGINT", "m": "MAP<STRING, DOUBLE>", "a": "ARRAY<STRING>"}
ROW = {column: name(column) for column in (*SCHEMA, "s", "d", "b", "r")}


def readings(topic: str = "readings", **more: object) -> hr.Stream:
    return hr.stream(topic, schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(5), **more)


def per_id(stream: hr.Stream, window: hr.Window | None = None) -> hr.Stream:
    return stream.window(window or hr.tumbling(hr.minutes(1)), by=["id"]).aggregate(mean="AVG(x)", rows="COUNT(*)")


def script(*streams: hr.Stream) -> str:
    outputs = {f"out{number or ''}": stream for number, stream in zip([0, *range(2, 9)], streams, strict=False)}
    return spark_script(hr.pipeline("trial", version="1")(lambda: outputs).plan())


def constants(made: str) -> dict[str, object]:
    """Return the plan's constants of a script."""
    found = {}
    for node in ast.parse(made).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def flat(made: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"^--.*\n", "", made, flags=re.MULTILINE)).replace("( ", "(").replace(" )", ")")


def test_the_fingerprint_as_a_spark_job() -> None:
    assert spark_script(fingerprint.plan()) == Path(__file__).with_name("fingerprint.py.txt").read_text(encoding="utf-8")


def test_the_command_line_prints_a_file_that_python_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fingerprint", "--engine", "spark", "--set", "window_size_minutes=5"]) == 0
    printed = capsys.readouterr().out
    compile(printed, "fingerprint.py", "exec")
    assert "spark-submit --packages org.apache.spark:spark-sql-kafka-0-10_2.13:4.0.0 --jars headrace-engines.jar fingerprint.py" in printed
    assert "headrace.engines" not in printed
    assert "300000" in printed


@pytest.mark.parametrize(
    ("window", "ends", "start"),
    [
        (hr.tumbling(hr.seconds(90)), "`_time_ms` - PMOD(`_time_ms`, 90000) + 90000 AS `_ends`", "`_ends` - 90000 AS `_start_ms`"),
        (
            hr.sliding(hr.minutes(2), hr.minutes(1)),
            "`_time_ms` + 120000 - PMOD(`_time_ms` + 120000, 60000), 60000) END AS `_ends`",
            "`_end_ms` - 120000",
        ),
        (
            hr.cumulating(hr.minutes(2), hr.minutes(1)),
            "`_time_ms` - PMOD(`_time_ms`, 120000) + 120000, 60000) END AS `_ends`",
            "PMOD(`_end_ms` - 1, 120000)",
        ),
    ],
    ids=str,
)
def test_each_kind_of_window_is_arithmetic_on_ms(window: hr.Window, ends: str, start: str) -> None:
    views = constants(script(per_id(readings(), window)))["VIEWS"]
    assert ends in flat(views["rows_2"])
    assert start in flat(views["window_2"])


def test_what_several_operators_read_is_made_once() -> None:
    strong = readings().where("x > 1")
    views = constants(script(per_id(strong), strong.select("id")))["VIEWS"]
    assert sum("> 1.0D" in view for view in views.values()) == 1


def test_operators_share_a_select_until_something_computed_is_read() -> None:
    made = constants(script(readings().where("n > 1").derive(y="x * 2").where("y > 3").select("id", "y")))
    assert list(made["VIEWS"]) == ["source_1", "derive_3"]
    assert "WHERE `y` > 3.0D" in flat(made["OUTPUTS"]["out"][0])


def test_only_functions_that_are_used_are_defined() -> None:
    plain, cast = (constants(script(one)) for one in (per_id(readings()), readings().select(x="TRY_CAST(id AS DOUBLE)", y="TRY_CAST(id AS BOOLEAN)")))
    assert not any("hr_boolean" in one for one in plain["FUNCTIONS"])
    assert any("hr_boolean" in one for one in cast["FUNCTIONS"])
    assert (plain["JAVA_FUNCTIONS"], list(cast["JAVA_FUNCTIONS"])) == ({}, ["hr_double"])


def test_every_function_that_the_table_names_is_defined() -> None:
    templates = [one for f in (*FUNCTIONS.values(), *AGGREGATES.values()) for one in (f.spark if isinstance(f.spark, tuple) else (f.spark,)) if one]
    named = {found for one in templates for found in re.findall(r"hr_\w+", one)} - {"hr_timestamp_"}
    assert named <= {*SQL_FUNCTIONS, *JAVA}
    assert len(definitions([f"{one}(x)" for one in SQL_FUNCTIONS])) == len(SQL_FUNCTIONS)


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (
            readings().window(hr.tumbling(hr.minutes(1)), allowed_lateness=hr.seconds(1)).aggregate(n="COUNT(*)"),
            "Spark SQL of #2 window tumbling 0:01:00, lateness 1000 ms by (): n: allowed lateness of 1000 ms",
        ),
        (readings().select(y="TRY_CAST(x AS STRING)"), "a cast from DOUBLE to STRING is not the same in Spark SQL"),
        (readings().derive(_key="x"), "column '_key' has the name of one that a Spark script adds"),
        (readings().window(hr.tumbling(hr.minutes(1))).aggregate(all="ARRAY_AGG(m)"), "ARRAY_AGG of what holds a MAP"),
    ],
)
def test_what_spark_cannot_say_is_refused_with_its_operator(stream: hr.Stream, complaint: str) -> None:
    with pytest.raises(PlanError, match=re.escape(complaint)):
        script(stream)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x + 1", "hr_finite(`x` + 1.0D)"),
        ("n + 1", "(`n` + 1L)"),
        ("m['a''b']", "`m`['a\\'b']"),
        ("id LIKE 'a\\_%'", "(`id` LIKE 'a\\\\\\\\_%')"),
        ("REGEXP_REPLACE(id, '(a)', '$1')", "REGEXP_REPLACE(`id`, '(a)', '\\\\$1')"),
        ("TRY_CAST(id AS DOUBLE)", "hr_double(`id`)"),
        ("STRUCT(x AS a, n).a", "`x`"),
        ("TO_TIMESTAMP_LTZ(t, 0)", "hr_timestamp_0(`t`)"),
        ("n IN (1, 2)", "(`n` IN (1L, 2L))"),
    ],
)
def test_an_expression_in_spark_sql(expression: str, expected: str) -> None:
    assert sql(parse_expression(expression, Schema.parse(SCHEMA)), ROW) == expected


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        (Literal(1, BIGINT), "1L"),
        (Literal(-(2**63), BIGINT), "(-9223372036854775807L - 1L)"),
        (Literal(1.5e300, DOUBLE), "1.5e+300D"),
        (Literal(True, BOOLEAN), "TRUE"),
        (Literal(None, NULL), "CAST(NULL AS STRING)"),
        (Literal(None, TIMESTAMP), "CAST(NULL AS TIMESTAMP)"),
        (Literal("a'\\\n😀", STRING), "'a\\'\\\\\\u000A😀'"),
    ],
)
def test_a_constant_has_its_type_in_spark_too(constant: Literal, expected: str) -> None:
    assert literal(constant) == expected


def test_names_and_types() -> None:
    assert name("a`b") == "`a``b`"
    with pytest.raises(PlanError, match="cannot be a name in Spark SQL"):
        name("a\nb")
    assert text("it's") == "'it\\'s'"
    assert type_name(parse_type("ROW<a BIGINT, b MAP<STRING, TIMESTAMP_LTZ(3)>>")) == "STRUCT<`a`: BIGINT, `b`: MAP<STRING, TIMESTAMP>>"


# live


def live(*streams: hr.Stream) -> str:
    outputs = {f"out{number or ''}": stream for number, stream in zip([0, *range(2, 9)], streams, strict=False)}
    return live_script(hr.pipeline("trial", version="1")(lambda: outputs).plan())


def test_a_live_job_lets_spark_close_the_windows() -> None:
    made = live(per_id(readings(), hr.sliding(hr.minutes(2), hr.minutes(1))).where("rows > 1"), readings("others").select("id"))
    compile(made, "trial.py", "exec")
    found = constants(made)
    assert found["WATERMARKS"] == {"source_1": "5000 milliseconds", "source_5": "5000 milliseconds"}
    behind, outputs = found["QUERIES"]["window_2"]
    assert "GROUP BY WINDOW(`_time`, '120000 milliseconds', '60000 milliseconds'), `id`" in flat(found["VIEWS"]["window_2"])
    assert "`rows` > 1L" in flat(outputs["out"][0]) + "".join(map(flat, behind.values()))
    assert [*found["QUERIES"]] == ["window_2", "sink_7", "intake_1", "intake_5"]
    assert found["QUERIES"].keys() <= found["VIEWS"].keys()


def test_a_live_job_tells_of_each_topic_what_came_and_what_was_set_aside() -> None:
    found = constants(live(readings().select("id"), readings("others").select("id")))
    for topic, number in (("readings", 1), ("others", 4)):
        behind, outputs = found["QUERIES"][f"intake_{number}"]
        assert behind == {}
        assert [*outputs] == [f"{topic}.dead-letter", "trial.ledger"]
        assert f"'topic', '{topic}', 'partition', _partition, 'first', MIN(_offset), 'last', MAX(_offset)" in flat(outputs["trial.ledger"][0])
        assert "row" not in found["VIEWS"][f"intake_{number}"], "what is kept of each micro-batch is little"


def test_what_stands_behind_a_window_in_a_micro_batch_is_no_stream() -> None:
    windows = per_id(readings())
    found = constants(live(windows, windows.where("rows > 1")))
    (behind, outputs), streams = found["QUERIES"]["window_2"], found["VIEWS"]
    assert [*behind] == ["window_2_columns"]
    assert [*outputs] == ["out", "out2"]
    assert "window_2_columns" not in streams


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (per_id(readings(), hr.cumulating(hr.minutes(2), hr.minutes(1))), "Spark's streams have no cumulating windows"),
        (readings().window(hr.tumbling(hr.minutes(1))).late_to("late").aggregate(n="COUNT(*)"), "Spark's streams drop late rows unseen"),
        (readings().window(hr.tumbling(hr.minutes(1))).aggregate(n="COUNT(DISTINCT id)"), "Spark's streams cannot count so"),
    ],
)
def test_what_streams_cannot_do_is_refused(stream: hr.Stream, complaint: str) -> None:
    with pytest.raises(PlanError, match=re.escape(complaint)):
        live(stream)
