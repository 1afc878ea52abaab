"""A pipeline and its plan: settings put in, topics checked, and the plan shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.errors import PlanError

MINUTE = hr.tumbling(hr.minutes(1))


def source(topic: str = "readings") -> hr.Stream:
    return hr.stream(topic, schema={"tag": "STRING NOT NULL", "time": "BIGINT", "value": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(time, 3)")


def counted(stream: hr.Stream, late: str | None = None) -> hr.Stream:
    windowed = stream.window(MINUTE, by=["tag"])
    return (windowed.late_to(late) if late else windowed).aggregate(count="COUNT(*)")


def plan(function: Callable[..., Any], **settings: Any) -> hr.Plan:
    return hr.pipeline("p", version="1")(function).plan(**settings)


@hr.pipeline("hot", version="2")
def hot(limit: float = 90.0, tag: str = "T1") -> dict[str, hr.Stream]:  # noqa: ARG001  (settings stand in expressions)
    """Return readings above a limit."""
    return {"hot": source().where("value > :limit AND tag = :tag")}


def test_a_pipeline_keeps_its_name_its_version_and_what_its_author_says_of_it() -> None:
    assert (hot.name, hot.version, hot.__doc__) == ("hot", "2", "Return readings above a limit.")
    assert repr(hot) == "<Pipeline hot version 2>"


def test_a_plan_has_the_settings_given_and_the_defaults_of_the_others() -> None:
    assert hot.plan().settings == {"limit": 90.0, "tag": "T1"}
    assert hot.plan(limit=80.0).settings == {"limit": 80.0, "tag": "T1"}


def test_the_values_of_settings_stand_in_the_expressions() -> None:
    assert hot.plan(limit=80.0).sinks[0].input.operator != hot.plan(limit=81.0).sinks[0].input.operator


def test_settings_end_with_the_pipeline_that_they_belong_to() -> None:
    hot.plan()
    with pytest.raises(PlanError, match="unknown setting :limit; there is none"):
        source().where("value > :limit")


def test_an_unknown_setting_is_answered_with_a_near_one() -> None:
    with pytest.raises(PlanError) as caught:
        hot.plan(limits=1)
    assert str(caught.value) == "pipeline hot: unknown setting 'limits'; did you mean 'limit'?"


def test_a_plan_is_the_same_each_time_it_is_made() -> None:
    assert hot.plan() == hot.plan()
    assert str(hot.plan()) == str(hot.plan())


def test_a_plan_yields_each_operator_once_inputs_first() -> None:
    shared = source().derive(twice="value * 2")
    made = plan(lambda: {"a": shared.where("twice > 1"), "b": shared.where("twice > 2").union(shared)})
    kinds = [type(one.operator).__name__ for one in made.nodes]
    assert kinds == ["Source", "Derive", "Where", "Sink", "Where", "Union", "Sink"]
    assert [one.topic for one in made.sources] == ["readings"]


def test_a_plan_names_the_topics_it_writes_those_of_late_rows_last() -> None:
    made = plan(lambda: {"b": counted(source(), late="late"), "a": source("other")})
    assert made.topics == ("b", "a", "late")
    assert made.schema_of("a") == source().schema
    assert made.schema_of("late") == source().schema
    assert made.schema_of("b").names == ("tag", "count", "window_start", "window_end", "revision")
    with pytest.raises(PlanError, match="no topic 'latte' is written; did you mean 'late'"):
        made.schema_of("latte")


def test_a_plan_is_shown_operator_by_operator() -> None:
    def function(limit: int = 5) -> dict[str, hr.Stream]:  # noqa: ARG001  (a setting)
        first, second = source("one").where(" value\n > :limit "), source("two")
        both = first.union(second).window(hr.sliding(hr.minutes(2), hr.minutes(1)), by=["tag"], allowed_lateness=hr.seconds(1)).late_to("late")
        totals = both.aggregate(count="COUNT(*)").aggregate(by=[], total="SUM(count)")
        return {"totals": totals.derive(half="total / 2").select("half")}

    assert (
        str(plan(function))
        == """\
pipeline p version 1
  setting limit = 5
  #1 stream 'one' (tag STRING NOT NULL, time BIGINT, value DOUBLE)
  #2 where value > :limit  ← #1
  #3 stream 'two' (tag STRING NOT NULL, time BIGINT, value DOUBLE)
  #4 union of 2  ← #2, #3
  #5 window sliding 0:02:00 every 0:01:00, lateness 1000 ms, late to 'late' by tag: count  ← #4
  #6 aggregate by (): total  ← #5
  #7 derive half  ← #6
  #8 select half  ← #7
  #9 sink 'totals'  ← #8"""
    )


@pytest.mark.parametrize("made", [None, {}, [1], {"out": 5}, "out", {"out": None}], ids=repr)
def test_a_function_that_does_not_return_its_sinks_is_refused(made: Any) -> None:
    with pytest.raises(PlanError) as caught:
        plan(lambda: made)
    assert str(caught.value) == 'pipeline p: the function does not return its sinks; return {"topic": stream}'


def test_a_stream_that_was_windowed_and_not_aggregated_is_no_sink() -> None:
    with pytest.raises(PlanError, match="does not return its sinks"):
        plan(lambda: {"out": source().window(MINUTE)})


@pytest.mark.parametrize("topic", ["a/b", "a\\b", "", ".", "..", "../x", "a\0b", "a\nb", 5, None], ids=repr)
def test_a_topic_that_no_file_could_be_named_after_is_refused(topic: Any) -> None:
    for function in (lambda: {topic: source()}, lambda: {"out": source(topic)}):
        with pytest.raises(PlanError, match=re.escape(f"pipeline p: topic name {topic!r} cannot be used")):
            plan(function)


@pytest.mark.parametrize("topic", ["a", "a.b-c_d", "Übersicht 1", ".hidden", "a=b", "a:b"])
def test_any_other_topic_may_be_written(topic: str) -> None:
    assert plan(lambda: {topic: source()}).topics == (topic,)


@pytest.mark.parametrize("late", ["", None, 5])
def test_late_rows_want_a_topic(late: Any) -> None:
    with pytest.raises(PlanError, match=r"stream\('readings'\).window.late_to: .* is not a topic"):
        source().window(MINUTE).late_to(late)


@pytest.mark.parametrize(
    ("function", "topic"),
    [
        (lambda: {"readings.dead-letter": source()}, "readings.dead-letter"),
        (lambda: {"out": source(), "again": source()}, "readings"),
        (lambda: {"out": counted(source(), late="out")}, "out"),
        (lambda: {"out": counted(stream := source(), late="late"), "again": counted(stream.where("value > 1"), late="late")}, "late"),
        (lambda: {"a": source("x"), "b": source("x.dead-letter")}, "x.dead-letter"),
    ],
)
def test_a_topic_is_used_once(function: Callable[[], Any], topic: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(function)
    assert str(caught.value) == f"pipeline p: topic {topic!r} is used twice; share the stream of a source; give each output a topic"


@pytest.mark.parametrize("function", [lambda: {"readings": source()}, lambda: {"out": counted(source(), late="readings")}])
def test_a_pipeline_that_would_read_its_own_results(function: Callable[[], Any]) -> None:
    with pytest.raises(PlanError) as caught:
        plan(function)
    assert str(caught.value) == "pipeline p: topic 'readings' is read and written: the pipeline would read its own results; write to another topic"


@pytest.mark.parametrize(("topic", "what"), [("p.clock", "live runs note their clock's steps"), ("p.ledger", "a cluster writes the ledger")])
def test_an_output_cannot_take_a_topic_of_the_pipelines_own(topic: str, what: str) -> None:
    with pytest.raises(PlanError, match=f"topic '{topic}' is where {what}; give it another name"):
        plan(lambda: {topic: source()})


def test_an_output_cannot_stand_among_the_dead_letters_of_a_source() -> None:
    with pytest.raises(PlanError, match=r"topic 'readings.dead-letter.0' stands among the dead letters"):
        plan(lambda: {"readings.dead-letter.0": source()})


@pytest.mark.parametrize("name", ["", "a/b", "..", 5, "a\nb"], ids=repr)
def test_a_pipeline_that_no_file_could_be_named_after_is_refused(name: Any) -> None:
    with pytest.raises(PlanError, match=r"pipeline name .* cannot be used"):
        hr.pipeline(name, version="1")(lambda: {"out": source()})


@pytest.mark.parametrize("version", ["", 1, None], ids=repr)
def test_a_version_is_a_text(version: Any) -> None:
    with pytest.raises(PlanError, match=r'pipeline p: version .* is not a text; write version="1", say'):
        hr.pipeline("p", version=version)(lambda: {"out": source()})


def test_several_sinks_may_share_one_stream() -> None:
    stream = source().where("value > 1")
    made = plan(lambda: {"a": stream, "b": stream})
    assert [one.operator.topic for one in made.sinks] == ["a", "b"]


def test_the_version_enters_generated_ids() -> None:
    def ids(name: str, version: str) -> str:
        made = hr.pipeline(name, version=version)(lambda: {"out": source().select(id="UUID_V5(tag)")}).plan()
        return repr(made.sinks[0].input.operator)

    assert len({ids("p", "1"), ids("p", "2"), ids("q", "1")}) == 3
    assert ids("p", "1") == ids("p", "1")


def test_metadata_belongs_to_the_identity_of_state() -> None:
    def identity(metadata: dict[str, str] | None) -> str:
        stream = hr.stream("in", schema={"k": "STRING"}, metadata=metadata).select("k")
        return str(plan(lambda: {"out": stream}).identity["operators"])

    assert identity(None) == identity({})
    kinds = [identity({"m": kind}) for kind in ("key", "headers", "partition", "offset", "arrival_time")]
    assert len({*kinds, identity(None), identity({"n": "key"})}) == 7


def test_state_of_an_earlier_form_belongs_to_the_plan_that_is_shown_alike() -> None:
    made = hot.plan()
    saved = {**made.identity, "operators": [str(made), "Where(input=Source(…))"]}
    assert (made.differs(saved), made.differs(made.identity)) == (None, None)
    assert made.differs({**saved, "version": "0"}) == "version"
    assert made.differs({**saved, "operators": ["pipeline hot", ""]}) == "operators"


def chained(count: int) -> dict[str, hr.Stream]:
    stream = hr.stream("wide", schema={f"c{number}": "BIGINT" for number in range(10)})
    for _ in range(count):
        stream = stream.union(stream.where("c0 > 1"))
    return {"out": stream}


def diamonds(count: int) -> dict[str, hr.Stream]:
    stream = hr.stream("wide", schema={f"c{number}": "BIGINT" for number in range(10)})
    for _ in range(count):
        stream = stream.where("c0 > 1").derive(c1="c0 + 1").union(stream.where("c0 <= 1"), stream)
    return {"out": stream}


@pytest.mark.parametrize(("build", "nodes"), [(lambda: chained(200), 402), (lambda: diamonds(100), 402)], ids=["chained unions", "diamonds"])
def test_what_is_parted_and_joined_many_times_has_each_node_once(build: Callable[[], dict[str, hr.Stream]], nodes: int) -> None:
    made = plan(build)
    assert len(made.nodes) == nodes
    assert [one.id for one in made.nodes] == list(range(1, nodes + 1))
    assert all(given.node.id < one.id for one in made.nodes for given in one.inputs)
    assert made.sinks[0].traits.topics == {"wide"}
    assert len({one.name for one in made.nodes}) == nodes


def test_nodes_have_names_that_changes_elsewhere_leave_alone() -> None:
    def built(*, more: bool) -> dict[str, hr.Stream]:
        rows = hr.stream("in", schema={"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
        rows = rows.where("v > 0").derive(w="v * 2") if more else rows
        per_key = rows.window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)")
        total = rows.window(hr.tumbling(hr.minutes(2)), name="total").aggregate(n="COUNT(*)")
        return {"keys": per_key, "totals": total, **({"rows": rows} if more else {})}

    few, many = ({one.name for one in plan(function).nodes} for function in (lambda: built(more=False), lambda: built(more=True)))
    assert few == {"stream:in", "window:k", "total", "sink:keys", "sink:totals"}
    assert few < many


def test_two_windows_of_one_name_are_refused() -> None:
    rows = hr.stream("in", schema={"t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    made = [rows.window(hr.tumbling(hr.minutes(size)), name="per minute").aggregate(n="COUNT(*)") for size in (1, 2)]
    with pytest.raises(PlanError, match="two windows or processes are named 'per minute'; give one another name="):
        plan(lambda: {"a": made[0], "b": made[1]})
