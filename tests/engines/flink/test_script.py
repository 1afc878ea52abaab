"""Plans printed as Flink SQL. Here nothing is run: that is for test_flink.py and the cases in tests/conformance."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import headrace as hr
from headrace.apps.fingerprint import fingerprint
from headrace.cli import main
from headrace.engines.flink.expression import Item, sql
from headrace.engines.flink.places import Files, Kafka, Staged
from headrace.engines.flink.script import flink_script, flink_script_of_many, is_python
from headrace.engines.flink.words import duration, literal, name, text, type_name
from headrace.errors import PlanError
from headrace.plan.expression import Literal
from headrace.plan.functions import FUNCTIONS
from headrace.plan.functions.text import _NAMESPACE
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, NULL, STRING, TIMESTAMP, Schema, parse_type
from headrace.plan.sql import parse_expression

SCHEMA = {"id": "STRING NOT NULL", "area": "STRING", "t": "BIGINT", "x": "DOUBLE", "n": "BIGINT", "m": "MAP<STRING, DOUBLE>", "a": "ARRAY<STRING>"}
ROW = {column: Item(name(column)) for column in (*SCHEMA, "r", "d", "b")}


def readings(topic: str = "readings", **more: object) -> hr.Stream:
    return hr.stream(topic, schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(5), **more)


def per_id(stream: hr.Stream, window: hr.Window | None = None) -> hr.Stream:
    return stream.window(window or hr.tumbling(hr.minutes(1)), by=["id"]).aggregate(mean="AVG(x)", rows="COUNT(*)")


def script(*streams: hr.Stream) -> str:
    """Return the script of a pipeline with the streams as its outputs `out`, `out2`, …."""
    outputs = {f"out{number or ''}": stream for number, stream in zip([0, *range(2, 9)], streams, strict=False)}
    return flink_script(hr.pipeline("trial", version="1")(lambda: outputs).plan())


def flat(made: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"^--.*\n", "", made, flags=re.MULTILINE)).replace("( ", "(").replace(" )", ")")


# the whole


def test_the_fingerprint_as_flink_sql() -> None:
    assert flink_script(fingerprint.plan()) == Path(__file__).with_name("fingerprint.sql").read_text(encoding="utf-8")


def test_the_command_line_prints_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "fingerprint", "--engine", "flink", "--set", "window_size_minutes=5"]) == 0
    printed = capsys.readouterr().out
    assert "INTERVAL '5' MINUTE" in printed
    assert printed.startswith("-- fingerprint, version 1, as Flink SQL\n-- window_size_minutes = 5\n")


def test_the_watermark_moves_with_each_record_in_utc() -> None:
    made = script(per_id(readings()))
    assert "SET 'pipeline.auto-watermark-interval' = '0 ms';" in made
    assert "SET 'table.local-time-zone' = 'UTC';" in made
    assert "WATERMARK FOR `event_time` AS `event_time` - INTERVAL '5' SECOND" in made


def test_places_say_where_topics_are() -> None:
    made = flink_script(fingerprint.plan(), Files("s3://plant/a"))
    assert "'path' = 's3://plant/a/sensor-data.ndjson'" in made
    assert "'path' = 's3://plant/a/fingerprint-output'" in made
    assert "put in your own" not in made


def test_the_event_time_takes_a_name_that_is_free() -> None:
    made = script(per_id(readings().derive(event_time="x", event_time_2="x")))
    assert "WATERMARK FOR `event_time_3`" in made
    assert "DESCRIPTOR(`event_time_3`)" in made


def test_without_an_event_time_the_watermark_stays_where_it_is() -> None:
    made = flat(script(hr.stream("readings", schema=SCHEMA).select("id")))
    assert "`event_time` AS TO_TIMESTAMP_LTZ(946684799999, 3), WATERMARK FOR `event_time` AS `event_time`," in made
    assert "SELECT `id` FROM `readings judged` WHERE `fault` IS NULL;" in made


def test_event_times_of_more_years_than_a_window_of_flink_can_have_are_refused() -> None:
    stream = hr.stream("a", schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(t, 3)", event_time_range=("0001-01-02", "9999-01-01"))
    with pytest.raises(PlanError, match="event times of more than 2739 years, for which Flink has no window; name a narrower event_time_range"):
        script(stream)


def test_all_that_is_written_is_one_statement_set() -> None:
    shared = readings()
    made = flat(script(shared.select("id"), shared.select("x")))
    inserted = re.findall(r"INSERT INTO (`[^`]+`) SELECT (\S+)", made.partition("EXECUTE STATEMENT SET BEGIN")[2])
    assert inserted == [
        ("`out`", "`id`"),
        ("`out2`", "`x`"),
        ("`readings.dead-letter`", "HR_DEAD_LETTER('trial',"),
        ("`trial.ledger`", "'readings',"),
    ]
    assert made.endswith("END; ")


def test_records_are_read_by_the_one_rule() -> None:
    made = flat(script(readings(event_time_range=("1990-01-01", "2030-06-01T12:00:00"), rest="more").select("id")))
    schema = "`id` STRING NOT NULL, `area` STRING, `t` BIGINT, `x` DOUBLE, `n` BIGINT, `m` MAP<STRING, DOUBLE>, `a` ARRAY<STRING>"
    assert f"`read` AS HR_READ(`record`, '{schema}', 'more')," in made
    assert "'1990-01-01', '2030-06-01T12:00:00.000Z')" in made
    assert "`read`.`row`.`more` AS `more`" in made


def test_what_no_window_takes_is_written_where_the_plan_says() -> None:
    late = readings().select("id").window(hr.sliding(hr.minutes(2), hr.minutes(1)), by=["id"]).late_to("late").aggregate(n="COUNT(*)")
    made = flat(script(late))
    assert "INSERT INTO `late` SELECT `id` FROM `readings judged` WHERE `fault` IS NULL AND NOT (" in made
    assert "/ 60000 * 60000 - 1 > " in made


def test_of_many_plans_in_one_script_each_has_tables_of_its_own() -> None:
    plan = fingerprint.plan()
    made = flink_script_of_many([(plan, Staged("/a")), (plan, Staged("/b"))], "two")
    assert made.count("STATEMENT SET") == 1
    tables = re.findall(r"CREATE TEMPORARY (?:TABLE|VIEW) `([^`]+)`", made)
    assert len(tables) == len(set(tables)) == 2 * len(re.findall("CREATE TEMPORARY (?:TABLE|VIEW)", flink_script(plan)))
    assert "TABLE(TUMBLE(TABLE `1/where_4`" in made


def test_topics_of_kafka_are_read_and_written_in_transactions() -> None:
    kafka = Kafka("127.0.0.1:9092", "fingerprint", {"sensor-data": 1}, parallelism=2, prefix="plant.")
    made = flat(flink_script(fingerprint.plan(), kafka))
    assert "'topic' = 'plant.sensor-data'" in made
    assert "'scan.parallelism' = '1'" in made
    assert "SET 'parallelism.default' = '1';" in made, "more tasks than partitions would be dealt the records of one, out of their order"
    assert "'scan.watermark.emit.strategy' = 'on-event'" in made
    assert "'scan.watermark.idle-timeout' = '30000 ms'" in made
    assert "'sink.delivery-guarantee' = 'exactly-once'" in made
    assert "'key.fields' = 'key'" in made
    assert "`arrived` + INTERVAL '1' HOUR) , WATERMARK" in made.replace("),", ") ,")
    assert "THEN 'future' ELSE 'malformed'" in made
    assert "'connector' = 'headrace-ledger', 'topic' = 'plant.fingerprint.ledger'," in made
    assert "'ledger.connector' = 'kafka', 'format' = 'json'" in made


def test_what_several_operators_read_is_made_once() -> None:
    strong = readings().where("x > 1")
    made = script(per_id(strong), strong.select("id"))
    assert made.count("`x` > 1.0E0") == 1
    assert made.count("FROM `where_2`") == 2  # an output, and what became of the records
    assert "TABLE(TUMBLE(TABLE `where_2`, " in made


def test_views_have_the_numbers_that_headrace_plan_shows() -> None:
    made = script(per_id(readings().derive(y="x * 2")).where("rows > 1"))
    assert "-- #2 derive y\nCREATE TEMPORARY VIEW `derive_2` AS" in made
    assert "-- #3 window tumbling 0:01:00 by id: mean, rows\nCREATE TEMPORARY VIEW `window_3` AS" in made
    assert "-- #4 where rows > 1\n-- #5 sink 'out'\nINSERT INTO `out`" in made


def test_a_view_takes_no_topics_name() -> None:
    assert "CREATE TEMPORARY VIEW `derive_2_2` AS" in script(per_id(readings("derive_2").derive(y="x * 2")))


def test_a_comment_never_ends_a_statement() -> None:
    assert not re.search(r"^--.*;$", script(readings().where("area = ';'").select("id").where("id <> 'a;'")), re.MULTILINE)


# operators


def test_columns_named_like_those_that_window_functions_add_get_other_names() -> None:
    made = flat(script(readings().select("id", "x", window_time="x").window(hr.tumbling(hr.minutes(1))).aggregate(most="MAX(window_time)")))
    assert "`x` AS `window_time_before`" in made
    assert "MAX(`window_time_before`) AS `most`" in made


@pytest.mark.parametrize(
    ("window", "function"),
    [
        (hr.tumbling(hr.minutes(1)), "TUMBLE(TABLE `source_1`, DESCRIPTOR(`event_time`), INTERVAL '1' MINUTE)"),
        (hr.tumbling(hr.seconds(90)), "TUMBLE(TABLE `source_1`, DESCRIPTOR(`event_time`), INTERVAL '90' SECOND)"),
        (hr.sliding(hr.hours(1), hr.minutes(5)), "HOP(TABLE `source_1`, DESCRIPTOR(`event_time`), INTERVAL '5' MINUTE, INTERVAL '1' HOUR)"),
        (hr.tumbling(hr.days(1), offset=hr.hours(6)), "TUMBLE(TABLE `source_1`, DESCRIPTOR(`event_time`), INTERVAL '1' DAY, INTERVAL '6' HOUR)"),
        (
            hr.tumbling(hr.days(1), zone="Asia/Kolkata"),  # midnight is 18:30 UTC
            "TUMBLE(TABLE `source_1`, DESCRIPTOR(`event_time`), INTERVAL '1' DAY, INTERVAL '1110' MINUTE(4))",
        ),
        (
            hr.sliding(hr.hours(2), hr.hours(1), offset=hr.minutes(90)),
            "HOP(TABLE `source_1`, DESCRIPTOR(`event_time`), INTERVAL '1' HOUR, INTERVAL '2' HOUR, INTERVAL '30' MINUTE)",
        ),
        (hr.cumulating(hr.hours(24), hr.hours(1)), "CUMULATE(TABLE `source_1`, DESCRIPTOR(`event_time`), INTERVAL '1' HOUR, INTERVAL '1' DAY)"),
    ],
    ids=str,
)
def test_each_kind_of_window_is_a_table_function(window: hr.Window, function: str) -> None:
    made = flat(script(per_id(readings(), window)))
    assert f"FROM TABLE({function}) WHERE `window_time` > `watermark` GROUP BY `id`, `window_start`, `window_end`;" in made


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (readings().select("id", y="x / 2"), "SELECT `id`, `x` / 2.0E0 AS `y` FROM `readings judged` WHERE `fault` IS NULL;"),
        (readings().select("id", "n").derive(n="n + 1"), "SELECT `id`, `n` + 1 AS `n` FROM `readings judged` WHERE `fault` IS NULL;"),
        (
            readings().select("x").where("x > 1 OR x < 0"),
            "SELECT `x` FROM `readings judged` WHERE `fault` IS NULL AND ((`x` > 1.0E0) OR (`x` < 0.0E0));",
        ),
        (
            readings().unnest("m", key="sensor", value="v").select("sensor", "v"),
            "SELECT `sensor`, `v` FROM `readings judged` CROSS JOIN UNNEST(`m`) AS `entry` (`sensor`, `v`) WHERE `fault` IS NULL;",
        ),
        (
            readings().unnest("a", value="a").unnest("m", key="m", value="entry").select("a", "m", "entry"),
            (
                "SELECT `a_2` AS `a`, `m_2` AS `m`, `entry_2` AS `entry` FROM `readings judged` CROSS JOIN UNNEST(`a`) AS `entry` (`a_2`) "
                "CROSS JOIN UNNEST(`m`) AS `entry_3` (`m_2`, `entry_2`) WHERE `fault` IS NULL;"
            ),
        ),
        (
            readings().select("x").union(readings("more").select("x")),
            (
                "FROM (SELECT `x`, `event_time`, `watermark`, `partition`, `offset`, `topic` FROM `readings judged` WHERE `fault` IS NULL UNION ALL "
                "SELECT `x`, `event_time`, `watermark`, `partition`, `offset`, `topic` FROM `more judged` WHERE `fault` IS NULL) AS `every`;"
            ),
        ),
        (
            per_id(readings()).aggregate(by=[], top="MAX(mean)", all="SUM(rows)"),
            (
                "SELECT MAX(`mean`) AS `top`, SUM(`rows`) AS `all`, CAST(`window_start` AS TIMESTAMP_LTZ(3)) AS `window_start`, "
                "CAST(`window_end` AS TIMESTAMP_LTZ(3)) AS `window_end`, CAST(0 AS BIGINT) AS `revision` "
                "FROM `window_2` GROUP BY `window_start`, `window_end`;"
            ),
        ),
        (
            readings().select(s="STRUCT(x AS `the x`, STRUCT(n) AS inside)").select(y="s.inside.n"),
            "SELECT `s`.`inside`.`n` AS `y` FROM `select_2`;",
        ),
    ],
    ids=["select", "derive", "where", "unnest a map", "unnest twice", "union", "aggregate again", "struct"],
)
def test_each_operator_is_said_in_sql(stream: hr.Stream, expected: str) -> None:
    made = flat(script(stream))
    assert expected in made, made


def test_windows_keep_their_plain_timestamps_only_while_rows_are_grouped_by_them_again() -> None:
    once = flat(script(per_id(readings())))
    twice = flat(script(per_id(readings()).aggregate(by=[], n="COUNT(*)")))
    assert "CAST(`window_start` AS TIMESTAMP_LTZ(3)) AS `window_start`" in once
    assert "AS `rows`, `window_start`, `window_end` FROM TABLE(TUMBLE" in twice


def test_a_map_that_is_gathered_is_written_as_json() -> None:
    gathered = per_id(readings()).aggregate(by=[], ids="MAP_AGG(id, STRUCT(mean, rows AS n))", rows="COUNT(*)").select("rows", "ids", at="window_end")
    made = flat(script(gathered.derive(more="STRUCT(ids, 1 AS one)")))
    assert "JSON_OBJECTAGG(KEY `id` VALUE JSON_OBJECT(KEY 'mean' VALUE `mean`, KEY 'n' VALUE `rows`)) AS `ids`" in made
    assert "KEY 'ids' VALUE JSON(`ids`), KEY 'at' VALUE `window_end`" in made
    assert "KEY 'more' VALUE JSON_OBJECT(KEY 'ids' VALUE JSON(`ids`), KEY 'one' VALUE CAST(1 AS BIGINT))" in made
    assert "CREATE TEMPORARY TABLE `out` (`json` STRING) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'raw');" in made


def test_other_nested_rows_have_types_that_flink_writes() -> None:
    made = flat(script(readings().select("m", s="STRUCT(id, x)", at="TO_TIMESTAMP_LTZ(t, 3)")))
    assert "(`m` MAP<STRING, DOUBLE>, `s` ROW<`id` STRING, `x` DOUBLE>, `at` TIMESTAMP_LTZ(3))" in made
    assert "'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');" in made


def test_a_uuid_is_cut_from_one_hash() -> None:
    made = script(readings().select(a="UUID_V5(id, t)", b="UUID_V5(id, t) || 'x'", c="UUID_V5(id)"))
    space = _NAMESPACE.bytes.decode()
    assert made.count("SHA1(") == 2
    assert f"SHA1(CONCAT('{space}', 'pipeline/0', U&'\\001F', `id`, U&'\\001F', CAST(`t` AS STRING))) AS `sha1`" in made
    assert f"SHA1(CONCAT('{space}', 'pipeline/0', U&'\\001F', `id`)) AS `sha1_2`" in made


def test_differences_that_matter_to_the_plan_stand_above_it() -> None:
    assert "answered otherwise" not in script(hr.stream("readings", schema=SCHEMA).select("id"))
    made = script(per_id(readings().derive(s="x + 1")))
    assert re.search(r"answered otherwise, as the reference of functions says: .*\+", made)


# refusals


def gathering(**aggregates: str) -> hr.Stream:
    return per_id(readings()).aggregate(by=[], **aggregates)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (
            lambda: readings().window(hr.tumbling(hr.minutes(1)), allowed_lateness=hr.seconds(1)).aggregate(n="COUNT(*)"),
            "allowed lateness of 1000 ms",
        ),
        (lambda: readings().window(hr.tumbling(hr.minutes(1))).aggregate(m="MAP_AGG(id, x)"), "MAP_AGG over rows"),
        (lambda: readings().window(hr.sliding(hr.minutes(2), hr.minutes(1))).aggregate(a="ARRAY_AGG(x)"), "ARRAY_AGG in sliding windows"),
        (lambda: readings().window(hr.cumulating(hr.minutes(2), hr.minutes(1))).aggregate(a="LAST_VALUE(x)"), "LAST_VALUE in cumulating windows"),
        (lambda: gathering(a="FIRST_VALUE(mean)"), "FIRST_VALUE of the rows of a window"),
        (lambda: gathering(a="MAP_AGG(UPPER(id), mean)"), "MAP_AGG may meet a key twice"),
        (lambda: per_id(readings()).derive(id="'all'").aggregate(by=[], a="MAP_AGG(id, mean)"), "MAP_AGG may meet a key twice"),
        (
            lambda: readings().window(hr.tumbling(hr.minutes(1)), by=["area"]).aggregate(n="COUNT(*)").aggregate(by=[], a="MAP_AGG(area, n)"),
            "MAP_AGG may meet a NULL 'area'",
        ),
        (lambda: gathering(a="MAP_AGG(id, mean)").derive(n="CARDINALITY(a)"), "column 'a', which MAP_AGG made, is JSON"),
        (lambda: gathering(a="CARDINALITY(MAP_AGG(id, mean))"), "what MAP_AGG gives is JSON"),
        (lambda: readings().select(text="TRY_CAST(x AS STRING)"), "cast from DOUBLE to STRING"),
        (lambda: readings().select(**{"a\nb": "x"}), r"'a\\nb' cannot be a name"),
        (lambda: per_id(readings(), hr.tumbling(hr.hours(2_400_000))), "8640000000000 ms cannot be written"),
    ],
)
def test_what_flink_sql_cannot_do_the_same_is_refused_by_name(make: object, named: str) -> None:
    with pytest.raises(hr.PlanError, match=named) as refusal:
        script(make())  # type: ignore[operator]
    assert re.match(r"Flink SQL of #\d+ ", str(refusal.value))
    assert refusal.value.fix


# words


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        (Literal(1.5, DOUBLE), "1.5E0"),
        (Literal(-2.0, DOUBLE), "-2.0E0"),
        (Literal(1e300, DOUBLE), "1E300"),
        (Literal(5e-324, DOUBLE), "5E-324"),
        (Literal(7, BIGINT), "CAST(7 AS BIGINT)"),
        (Literal(True, BOOLEAN), "TRUE"),
        (Literal("it's", STRING), "'it''s'"),
        (Literal("a\tb\\", STRING), "U&'a\\0009b\\\\'"),
        (Literal("é😀", STRING), "'é😀'"),
        (Literal(None, TIMESTAMP), "CAST(NULL AS TIMESTAMP_LTZ(3))"),
        (Literal(None, NULL), "CAST(NULL AS STRING)"),
    ],
    ids=str,
)
def test_constants_have_their_types(constant: Literal, expected: str) -> None:
    assert literal(constant) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("n > 5", "(`n` > 5)"),
        ("n + 1 > 5", "((`n` + 1) > 5)"),
        ("x > 5", "(`x` > 5.0E0)"),
        ("SUM(IF(x > 1, 1, 0))", "SUM(CASE WHEN (`x` > 1.0E0) THEN CAST(1 AS BIGINT) ELSE CAST(0 AS BIGINT) END)"),
        ("-(-2.5)", "(- -2.5E0)"),
        ("ROUND(x, 2)", "ROUND(`x`, 2)"),
        ("LEFT(area, 3)", "LEFT(`area`, 3)"),
        ("TRY_CAST(n AS STRING)", "CAST(`n` AS STRING)"),
        ("TRY_CAST(x > 1 AS STRING)", "LOWER(CAST((`x` > 1.0E0) AS STRING))"),
        ("TRY_CAST(5 AS STRING)", "'5'"),
        ("STRUCT(x, 'a' AS b).b", "'a'"),
        ("m['a'] IS NULL", "(`m`['a'] IS NULL)"),
    ],
)
def test_expressions_keep_their_types(written: str, expected: str) -> None:
    assert sql(parse_expression(written, Schema.parse(SCHEMA), aggregates=True), ROW) == expected


@pytest.mark.parametrize("kind", ["DOUBLE", "BIGINT", "TIMESTAMP_LTZ(3)"])
def test_a_text_is_read_as_headrace_reads_it(kind: str) -> None:
    made = sql(parse_expression(f"TRY_CAST(area AS {kind})", Schema.parse(SCHEMA)), ROW)
    assert made == f"HR_{kind.partition('_')[0]}(`area`)"


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_every_function_of_the_table_is_said_or_refused(function: str) -> None:
    for written, _ in FUNCTIONS[function].cases:
        made = sql(parse_expression(written, Schema(()), {}), {})
        assert not re.search(r"\{(name|\*|[0-9…]+)\}(?!')", made.replace(r"{1,9}", "")), made


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (1, "INTERVAL '0 00:00:00.001' DAY TO SECOND(3)"),
        (100_000, "INTERVAL '100' SECOND(3)"),
        (90_500, "INTERVAL '0 00:01:30.500' DAY TO SECOND(3)"),
        (172_800_001, "INTERVAL '2 00:00:00.001' DAY TO SECOND(3)"),
        (86_400_000 * 73_000 + 1, "INTERVAL '73000 00:00:00.001' DAY(5) TO SECOND(3)"),
        (120_000, "INTERVAL '2' MINUTE"),
        (86_400_000 * 400, "INTERVAL '400' DAY(3)"),
    ],
)
def test_a_duration_takes_the_largest_unit_that_divides_it(ms: int, expected: str) -> None:
    assert duration(ms) == expected


def test_names_and_types_are_quoted() -> None:
    assert name("a`b") == "`a``b`"
    assert text("a;b") == "'a;b'"
    assert type_name(parse_type("ROW<`value` DOUBLE, m MAP<STRING, ROW<a ARRAY<BIGINT>>>>")) == (
        "ROW<`value` DOUBLE, `m` MAP<STRING, ROW<`a` ARRAY<BIGINT>>>>"
    )


# processes


class Passing:
    output = {"x": "DOUBLE"}

    def on_record(self, row: dict[str, object], _: object) -> dict[str, object]:
        return {"x": row["x"]}


class Told(Passing):
    shared = {"limit": hr.Value("DOUBLE")}

    def on_broadcast(self, row: dict[str, object], shared: object) -> None: ...


def test_a_plan_with_processes_is_a_python_file() -> None:
    made = script(readings().process(Passing, by=["id"]), readings("others").process(Told, by=["id"], broadcast=readings("rules")).where("x > 1"))
    compile(made, "job.py", "exec")
    assert is_python(made)
    assert made.startswith("# trial, version 1, as a job of PyFlink\n")
    assert "Once(view='readings judged', time='event_time', now='now')" in made
    assert made.count("Hosted(view='process_") == 2
    assert "JSON_ARRAY(`id` NULL ON NULL) AS `key`" in made
    assert "CASE `topic` WHEN 'readings' THEN 0" in made


class Announcing(Told):
    def on_broadcast(self, row: dict[str, object], shared: object) -> Iterator[object]:  # type: ignore[override]  # noqa: ARG002
        yield {"id": row["id"]}


class Answering(Told):
    def on_broadcast(self, row: dict[str, object], shared: object) -> object:  # type: ignore[override]  # noqa: ARG002
        return {"id": row["id"]} if row["x"] else None


class Ending(Told):
    def on_broadcast(self, row: dict[str, object], shared: object) -> None:
        if not row["x"]:
            return
        for _ in range(2):
            super().on_broadcast(row, shared)


def test_windows_that_need_the_order_of_rows_for_broadcast_records_are_refused() -> None:
    def window(code: type, **calls: str) -> str:
        made = readings("others").process(code, by=["id"], broadcast=readings("rules"))
        return script(made.window(hr.tumbling(hr.minutes(1)), by=["id"]).aggregate(**calls))

    assert is_python(window(Announcing, most="MAX(x)"))
    for code in (Told, Ending):
        assert is_python(window(code, last="LAST_VALUE(x)"))
    for code in (Announcing, Answering):
        name = code.__name__.lower()
        with pytest.raises(PlanError, match=f"LAST_VALUE of rows that {name} emits for broadcast records: on Flink these come in no fixed order"):
            window(code, last="LAST_VALUE(x)")


def test_a_plan_without_is_sql() -> None:
    assert not is_python(script(per_id(readings())))


def several(order: str = "event_time") -> hr.Stream:
    rows = readings()
    return rows.union(rows.where("x > 1")).process(Passing, by=["id"], order=order)


def gathered(by: str, **aggregates: str) -> hr.Stream:
    made = readings().process(Passing, by=["id"]).derive(half="LEFT(id, 1)")
    return made.window(hr.tumbling(hr.minutes(1)), by=[by]).aggregate(**aggregates)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (lambda: several("arrival"), "records come to passing by several ways"),
        (lambda: gathered("half", first="FIRST_VALUE(x)"), "FIRST_VALUE of what a process gives for several keys"),
    ],
)
def test_what_cannot_be_hosted_is_refused(stream: Callable[[], hr.Stream], said: str) -> None:
    with pytest.raises(PlanError, match=rf"^Flink SQL of #\d+ .*{said}.*embedded engine$"):
        script(stream())


def test_rows_of_several_ways_tell_on_which_they_came() -> None:
    made = flat(script(several()))
    assert "'1' AS `way` FROM `readings judged` WHERE `fault` IS NULL UNION ALL" in made
    assert "'0' AS `way` FROM `readings judged` WHERE `fault` IS NULL AND `x` > 1.0E0) AS `every`" in made
    assert "`way`) AS ROW<`time` BIGINT, `source` INT, `partition` INT, `offset` BIGINT, `arrived` BIGINT, `row` STRING, `order` STRING>)" in made
    assert "`way`" not in script(readings().union(readings("others")).process(Passing, by=["id"]))


def test_what_stands_behind_a_process_goes_by_the_times_of_its_rows() -> None:
    made = script(gathered("id", first="FIRST_VALUE(x)"))
    assert "Once(view='passing_rows', time='event_time', now='now')" in made
    assert "live=False, broadcast=False, time='event_time')" in made
    assert "`window_time` > `watermark`" not in made
    assert "WATERMARK FOR `event_time` AS `event_time` - INTERVAL '5' SECOND - INTERVAL '0.001' SECOND" in made


def test_rows_of_windows_come_to_a_process_with_the_last_ms_of_their_windows() -> None:
    made = flat(script(per_id(readings()).derive(x="mean").process(Passing, by=["id"])))
    assert "CAST(`window_end` AS TIMESTAMP_LTZ(3)) - INTERVAL '0.001' SECOND AS `event_time`" in made
    assert "JSON_ARRAY(`id` NULL ON NULL) AS `order`" in made
    assert (
        "SELECT MAX(`event_time`) AS `latest` FROM TABLE("
        "TUMBLE(TABLE `process_passing_times`, DESCRIPTOR(`event_time`), INTERVAL '999999' DAY(6), INTERVAL '10956' DAY(6)))" in made
    )


def test_a_record_is_a_duplicate_if_all_that_was_unnested_of_it_is() -> None:
    made = flat(script(readings().unnest("m", key="e", value="v").deduplicate(["e"], within=hr.minutes(1))))
    assert "GROUP BY `window_start`, `window_end`, `window_time`, `topic`, `record` HAVING MIN(CASE WHEN `dropped` THEN 1 ELSE 0 END) = 1" in made
