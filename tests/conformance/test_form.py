"""The form of a case is read strictly, two outcomes are the same only if they are, and a mark holds only while it is true."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from conformance import form, suite
from conformance.engine import Embedded, Outcome, differences
from headrace.errors import PlanError

DAY = "2024-01-01T00:00"
CASE: dict[str, Any] = {
    "name": "one", "origin": "headrace", "verified": "hand",
    "sources": {"in": {"schema": {"k": "STRING", "t": "TIMESTAMP_LTZ(3)", "x": "DOUBLE"}, "event_time": "t", "watermark": "10s"}},
    "steps": [
        {"rows": {"in/0": [{"k": "a", "t": f"{DAY}:01Z", "x": 1}, {"raw": "{"}]}}, {"restart": True},
        {"rows": {"in/0": [{"k": "a", "t": f"{DAY}:11Z", "x": 2}], "in/1": []}}, {"end": "in/1"},
    ],
    "pipeline": {"sinks": {"out": [{"from": "in"}, {"window": {"tumbling": "10s"}, "by": ["k"], "late_to": "late"}, {"aggregate": {"mean": "AVG(x)"}}]}},
    "expected": {
        "out": [
            {"k": "a", "mean": 1.0, "window_start": f"{DAY}:00Z", "window_end": f"{DAY}:10Z", "revision": 0},
            {"k": "a", "mean": 2.0, "window_start": f"{DAY}:10Z", "window_end": f"{DAY}:20.000Z", "revision": 0},
        ],
        "late": [],
    },
    "ledger": {"in": {"accepted": 2, "malformed": 1}}, "dead": {"in/0": [1]},
}  # fmt: skip


def changed(*path: Any, to: Any) -> form.Case:
    """Return the case with what stands at a path put in place."""
    made = copy.deepcopy(CASE)
    at = made
    for one in path[:-1]:
        at = at[one]
    at[path[-1]] = to
    (case,) = form.read(json.dumps([made]))
    return case


def made(case: form.Case) -> Outcome:
    """Return what the embedded engine makes of a case."""
    (outcome,) = Embedded().run([case.job()])
    return outcome


def faults(got: Outcome, case: form.Case) -> list[str]:
    return differences(got, case.outcome(case.job()))


def test_a_case_is_read_run_and_written_again() -> None:
    case = changed("note", to="")
    assert case.job().restarts == ({"in": [2, 0]},)
    assert [len(records) for records in case.job().inputs["in"]] == [3, 0]
    assert not faults(made(case), case)
    assert form.read(f"[{form.written(case)}]") == [case]


@pytest.mark.parametrize(
    "path",
    [("expectd",), ("sources", "in", "delay"), ("steps", 0, "row"), ("pipeline", "sink"), ("pipeline", "sinks", "out", 1, "lateness")],
    ids=lambda path: path[-1],
)
def test_an_unknown_key_is_an_error(path: tuple[Any, ...]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        changed(*path, to="x")


@pytest.mark.parametrize(
    ("path", "to", "complaint"),
    [
        (("expected", "late"), "x", "Expected `array`"),
        (("verified",), "engine", "Invalid enum value"),
        (("pipeline", "sinks", "out", 1, "where"), "x > 1", "not an operator"),
        (("pipeline", "sinks", "out", 2, "late_to"), "x", "not an operator"),
        (("pipeline", "sinks", "out", 0), {"where": "x > 1"}, "begin with from"),
        (("pipeline", "sinks", "out", 1, "window"), {"tumbling": "10 s"}, "not a duration"),
        (("steps", 0, "restart"), True, "either rows, an end or a restart"),
        (("steps", 0, "end"), "in/0", "either rows, an end or a restart"),
        (("steps", 1), {"end": "in/0"}, "in/0 has ended"),
        (("expected",), {"out": []}, "writes"),
        (("ledger", "in", "accepted"), 3, "does not add up"),
        (("ledger", "in", "lost"), 0, "does not add up"),
        (("dead",), {}, "does not add up"),
    ],
)
def test_facts_that_do_not_fit_are_an_error(path: tuple[Any, ...], to: Any, complaint: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=complaint):
        case = changed(*path, to=to)
        case.outcome(case.job())


def test_a_mistake_in_the_pipeline_is_the_authors() -> None:
    with pytest.raises(PlanError, match="unknown column 'y'"):
        changed("pipeline", "sinks", "out", 2, "aggregate", "mean", to="AVG(y)").job()


# Sameness. The first five after Apache Beam, trigger_transcripts.yaml: transcripts that must fail.


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("expected", "out", 0, "mean"), 1.5),  # bad_expected_values
        (("expected", "out", 0, "window_end"), f"{DAY}:20Z"),  # bad_expected_window
        (("expected", "late"), [{"k": "a"}]),  # bad_output
        (("expected", "out"), CASE["expected"]["out"][1:]),  # missing_output
        (("expected", "out"), CASE["expected"]["out"][:1]),  # missing_output_at_end
        (("expected", "out"), CASE["expected"]["out"][:1] * 2),
        (("expected", "out", 0, "mean"), 1),
        (("expected", "out", 0, "mean"), True),
        (("expected", "out", 0, "mean"), None),
        (("expected", "out", 0, "mean"), 1.0 + 3e-9),
        (("expected", "out", 0, "revision"), False),
        (("expected", "out", 0, "k"), "b"),
        (("expected", "out", 0, "more"), None),
        (("ledger", "in"), {"late": 1, "accepted": 1, "malformed": 1}),
        (("ledger", "in"), {"filtered": 1, "accepted": 1, "malformed": 1}),
        (("steps", 0, "rows", "in/0", 1, "raw"), "[]"),
    ],
)
def test_a_difference_is_seen(path: tuple[Any, ...], to: Any) -> None:
    assert faults(made(changed("note", to="")), changed(*path, to=to))


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("expected", "out"), CASE["expected"]["out"][::-1]),
        (("expected", "out", 0, "mean"), 1.0 + 1e-10),
        (("expected", "out", 0, "window_end"), f"{DAY}:10.000Z"),
        (("ledger",), {}),
    ],
)
def test_what_is_no_difference_is_none(path: tuple[Any, ...], to: Any) -> None:
    assert not faults(made(changed("note", to="")), changed(*path, to=to))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda got: got.dead["in"][0].update(detail="something else"), True),
        (lambda got: got.dead["in"][0].update(offset=None), True),
        (lambda got: got.dead["in"][0].update(offset=2), False),
        (lambda got: got.dead["in"][0].update(partition=1), False),
        (lambda got: got.dead["in"][0].update(reason="future"), False),
        (lambda got: got.dead["in"][0].pop("arrived_ms"), False),
        (lambda got: got.dead["in"].append(got.dead["in"][0]), False),
        (lambda got: got.ledger["in"].update(accepted=None), True),
        (lambda got: got.ledger["in"].update(accepted=3), False),
        (lambda got: got.ledger["in"].pop("late"), False),
        (lambda got: got.written.pop("late"), False),
        (lambda got: got.written.update(more=[]), False),
        (lambda got: got.written["out"][0].update(window_start=f"{DAY}:00.000Z"), True),
        (lambda got: got.written["out"][0].update(window_start=f"{DAY}:00.001Z"), False),
    ],
)
def test_what_a_cluster_may_not_know_is_no_difference_and_what_it_must_know_is(change: Callable[[Outcome], Any], same: bool) -> None:
    case = changed("note", to="")
    got = made(case)
    change(got)
    assert (not faults(got, case)) == same


def test_a_ledger_that_no_case_expects_must_add_up_all_the_same() -> None:
    case = changed("ledger", to={})
    got = made(case)
    got.ledger["in"]["received"] = 4
    assert faults(got, case) == [f"ledger of in does not add up: {got.ledger['in']}"]


def test_a_mark_of_restarts_is_not_one_of_the_case() -> None:
    case = changed("differs", to={"embedded, restarted": "order"})
    assert not suite.judged(case, replace(case.job(), restarts=()), "embedded", made(case))
    assert suite.judged(case, case.job(), "embedded", made(case))


# Marks


@pytest.mark.parametrize(
    ("mark", "wrong", "refused", "complaint"),
    [
        ({}, False, None, None),
        ({}, True, None, "expected"),
        ({}, False, "no windows", "refused: no windows"),
        ({"unsupported": {"embedded": "no windows"}}, False, "no windows", None),
        ({"unsupported": {"embedded": "no windows"}}, False, "no sinks", "refused otherwise"),
        ({"unsupported": {"embedded": "no windows"}}, False, None, "no longer refuses"),
        ({"unsupported": {"other": "no windows"}}, False, None, None),
        ({"unsupported": {"embedded, restarted": "no windows"}}, False, "no windows", None),
        ({"unsupported": {"embedded": "no sinks", "embedded, restarted": "no windows"}}, False, "no windows", None),
        ({"differs": {"embedded": "order"}}, True, None, None),
        ({"differs": {"embedded, restarted": "order"}}, True, None, None),
        ({"differs": {"embedded": "order"}}, False, None, "no longer gives otherwise"),
        ({"differs": {"embedded": "order"}}, False, "no windows", "refused: no windows"),
    ],
)
def test_a_mark_holds_only_while_it_is_true(mark: dict[str, Any], wrong: bool, refused: str | None, complaint: str | None) -> None:
    case = changed("note", to="")
    got = made(case)
    if wrong:
        got.written["out"].pop()
    if refused:
        got.refused = PlanError(refused)
    found = suite.judged(msgspec.structs.replace(case, **mark), case.job(), "embedded", got)
    assert not found if complaint is None else complaint in " ".join(found)
