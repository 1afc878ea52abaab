"""What a changed plan carries over: which stages are the same, and why others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import headrace as hr
from headrace.errors import PlanError
from headrace.plan.changes import changes, definition, places_of_texts
from headrace.plan.pipeline import Plan

MINUTE = hr.tumbling(hr.minutes(1))


class Above:
    """Gives what is above a limit."""

    output = {"v": "DOUBLE"}

    def __init__(self, limit: float = 80.0) -> None:
        self.limit = limit

    def on_record(self, row: dict[str, Any], _: Any) -> dict[str, Any] | None:
        return {"v": row["v"]} if row["v"] > self.limit else None


class Limited(Above):
    """The same, with limits that are told."""

    shared = {"limits": hr.Map("DOUBLE")}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> None:
        shared.limits[row["k"]] = row["v"]


def stream(topic: str = "in", **more: str) -> hr.Stream:
    schema = {"k": "STRING NOT NULL", "g": "STRING", "t": "BIGINT", "v": "DOUBLE", **more}
    return hr.stream(topic, schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)")


def plan(build: Callable[..., dict[str, hr.Stream]], **settings: Any) -> Plan:
    return hr.pipeline("p", version="1")(build).plan(**settings)


def of(rows: hr.Stream, limit: float = 80.0) -> dict[str, hr.Stream]:
    return {"means": rows.window(MINUTE, by=["k"]).aggregate(mean="AVG(v)"), "above": rows.process(Above(limit), by=["k"])}


def both(limit: float = 80.0) -> dict[str, hr.Stream]:
    return of(stream().where("v > :limit"), limit)


def fixed() -> dict[str, hr.Stream]:
    return of(stream().where("v > 80"))


def found(before: Plan, after: Plan, *reset: str) -> Any:
    saved = {node.name: definition(node) for node in before.stages}
    return changes(after, before.identity["settings"], saved, same=after.differs(before.identity) is None, reset=reset)


def test_the_same_plan_has_no_changes() -> None:
    assert not found(plan(both), plan(both))


def test_a_setting_leaves_all_state_alone() -> None:
    one = found(plan(both), plan(both, limit=90.0))
    assert one.kept == ("window:k", "above")
    assert [*one.lines()] == ["setting limit: 80.0 → 90.0", "window:k: keeps its state", "above: keeps its state"]


SAME: dict[str, Callable[[hr.Stream], dict[str, hr.Stream]]] = {
    "an output": lambda rows: {**of(rows), "raw": rows.select("k")},
    "a branch": lambda rows: {**of(rows), "more": rows.window(MINUTE, by=["g"]).aggregate(n="COUNT(*)")},
    "a column": lambda rows: {**of(rows), "above": rows.derive(w="v * 2").process(Above(), by=["k"])},
    "failures": lambda rows: {**of(rows), "above": rows.process(Above(), by=["k"], failed_to="failed")},
    "late rows": lambda rows: {**of(rows), "means": rows.window(MINUTE, by=["k"]).late_to("late").aggregate(mean="AVG(v)")},
    "a filter": lambda rows: of(rows.where("v > 70")),
    "a column of an aggregate": lambda rows: {**of(rows), "means": rows.window(MINUTE, by=["k"]).aggregate(mean="AVG(v)", name="k || k")},
    "another class": lambda rows: {**of(rows), "above": rows.process(type("Above", (Above,), {})(), by=["k"])},
}


@pytest.mark.parametrize("build", SAME.values(), ids=SAME)
def test_what_does_not_touch_a_stage_leaves_its_state_alone(build: Callable[[hr.Stream], dict[str, hr.Stream]]) -> None:
    one = found(plan(fixed), plan(lambda: build(stream())))
    assert one.kept == ("window:k", "above")
    assert (one.removed, dict(one.refused)) == ((), {})
    assert one.otherwise


REFUSED: dict[str, tuple[Callable[[], dict[str, hr.Stream]], str, str]] = {
    "length": (
        lambda: {"means": stream().window(hr.tumbling(hr.minutes(2)), by=["k"]).aggregate(mean="AVG(v)")},
        "window:k", "window changed from tumbling 0:01:00 to tumbling 0:02:00",
    ),
    "lateness": (
        lambda: {"means": stream().window(MINUTE, by=["k"], allowed_lateness=hr.seconds(1)).aggregate(mean="AVG(v)")},
        "window:k", "allowed lateness changed from 0 ms to 1000 ms",
    ),
    "aggregates": (lambda: {"means": stream().window(MINUTE, by=["k"]).aggregate(mean="AVG(v)", most="MAX(v)")}, "window:k", "aggregates changed from AVG"),
    "a key's type": (lambda: {"above": stream(k="BIGINT NOT NULL").process(Above(), by=["k"])}, "above", "keys changed from k STRING to k BIGINT"),
    "keys": (lambda: {"above": stream().process(Above(), by=["k", "g"])}, "above", "keys changed from k STRING to k STRING, g STRING"),
    "order": (lambda: {"above": stream().process(Above(), by=["k"], order="arrival")}, "above", "order changed from event_time to arrival"),
    "a column's type": (lambda: {"above": stream(v="BIGINT").process(Above(), by=["k"])}, "above", "column v changed from DOUBLE to BIGINT"),
    "a topic": (lambda: {"above": stream("other").process(Above(), by=["k"])}, "above", "it no longer reads in"),
    "a broadcast": (lambda: {"above": stream().process(Limited(), by=["k"], name="above", broadcast=stream("limits"))}, "above", "broadcast changed from none"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "name", "why"), REFUSED.values(), ids=REFUSED)
def test_a_stage_of_another_definition_is_refused_by_name_and_may_begin_without_state(
    build: Callable[[], dict[str, hr.Stream]], name: str, why: str
) -> None:
    before = plan(fixed)
    one = found(before, plan(build))
    assert list(one.refused) == [name]
    assert one.refused[name].startswith(why)
    again = found(before, plan(build), name)
    assert (again.new, dict(again.refused)) == ((name,), {})
    assert len([*again.lines()]) == 3


class Told(Above):
    def on_command(self, row: dict[str, Any], state: Any) -> None:
        pass


def told(*, v: str = "DOUBLE", **policy: Any) -> dict[str, hr.Stream]:
    return {"above": stream().process(Told(), by=["k"], name="above", inputs={"command": hr.input(stream("commands", v=v), **policy)})}


def with_command() -> dict[str, hr.Stream]:
    return told()


def test_an_input_may_be_added_and_have_another_policy() -> None:
    for before, after in ((fixed, with_command), (with_command, lambda: told(late="take", holds=False))):
        one = found(plan(before), plan(after))
        assert "above" in one.kept
        assert one.otherwise


def test_an_input_that_is_gone_or_has_other_types_is_refused() -> None:
    assert found(plan(with_command), plan(fixed)).refused["above"] == "input command no longer exists"
    assert found(plan(with_command), plan(lambda: told(v="BIGINT"))).refused["above"] == "column v changed from DOUBLE to BIGINT in input command"


def test_stages_that_come_and_go() -> None:
    one = found(plan(both), plan(lambda: {"sums": stream().window(MINUTE, by=["g"], name="sums").aggregate(n="SUM(v)")}))
    assert (one.kept, one.new, one.removed) == ((), ("sums",), ("window:k", "above"))
    assert "above: no longer exists; its state is dropped" in one.lines()


def test_a_stage_to_reset_that_is_none_is_told() -> None:
    with pytest.raises(PlanError, match=r"--reset: pipeline p has no stage 'abov'; did you mean 'above'\?"):
        found(plan(both), plan(both), "abov")


def test_stages_are_found_by_the_texts_of_an_earlier_plan() -> None:
    rows = stream().where("v > 80")
    after = plan(lambda: {**of(rows), "more": rows.window(MINUTE, by=["g"]).aggregate(n="COUNT(*)")})
    assert places_of_texts(after, str(plan(fixed))) == {"window:k": ("window", 0), "above": ("process", 0)}
    assert places_of_texts(plan(fixed), str(after)) is None
