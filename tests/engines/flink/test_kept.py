"""Which changed plans may resume from the state that a job left on Flink, without a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flink_changing
import pytest

import headrace as hr
from headrace.engines.flink.kept import Kept
from headrace.engines.flink.rest import JobFailed, root_cause
from headrace.errors import EnvironmentFault
from headrace.plan.pipeline import Plan

JOB = "4f3d" * 8
BEFORE = flink_changing.rules.plan()


def leave(folder: Path, plan: Plan, *, job: str = JOB, bounded: bool = False, savepoint: bool = True) -> Kept:
    """Leave the state of a job, as far as its place goes."""
    kept = Kept(folder)
    assert kept.note(plan, lambda: job, bounded=bounded) == job
    place = folder / (f"savepoints/savepoint-{job[:6]}-0123456789ab" if savepoint else f"checkpoints/{job}/chk-7")
    place.mkdir(parents=True)
    (place / "_metadata").touch()
    return kept


def changed(build: Callable[[], Mapping[str, hr.Stream]], version: str = "1") -> Plan:
    return hr.pipeline("changing-rules", version=version)(build).plan()


@pytest.mark.parametrize("savepoint", [True, False])
def test_settings_conditions_columns_and_code_may_change(tmp_path: Path, savepoint: bool) -> None:
    kept = leave(tmp_path / "kept", BEFORE, savepoint=savepoint)
    state = kept.last_state()
    assert state is not None
    kept.note(changed(lambda: {"raw": stream().select("k")}), lambda: "a" * 32, bounded=False)
    found = kept.carried_over(flink_changing.rules.plan(limit=80.0, least=3.0, label="new"), state, bounded=False)
    assert list(found.lines()) == [
        "setting limit: 90.0 → 80.0", "setting least: 0.0 → 3.0", "setting label:  → new", "watch: keeps its state", "window:k: keeps its state",
    ]  # fmt: skip
    assert not kept.carried_over(BEFORE, state, bounded=False)


def test_nothing_is_carried_over_where_there_is_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    assert kept.last_state() is None
    assert not kept.carried_over(BEFORE, None, bounded=False)
    leave(tmp_path / "kept", BEFORE).forget()
    assert kept.last_state() is None
    kept.forget()


def test_a_job_whose_id_was_not_noted_is_that_which_was_to_come(tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept", BEFORE)

    def killed() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.note(flink_changing.rules.plan(limit=80.0), killed, bounded=False)
    state = f"file://{tmp_path}/kept/checkpoints/{'b' * 32}/chk-1"
    assert not kept.carried_over(flink_changing.rules.plan(limit=80.0), state, bounded=False)
    assert kept.carried_over(BEFORE, state, bounded=False)
    assert not kept.carried_over(BEFORE, kept.last_state(), bounded=False)


def stream(**more: str) -> hr.Stream:
    schema = {"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE", **more}
    return hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(10))


def swapped(least: float = 0.0) -> dict[str, hr.Stream]:  # noqa: ARG001  (a setting)
    found = flink_changing.rules_of()
    return {"means": found["means"], "events": found["events"]}


def demanding() -> dict[str, hr.Stream]:
    rows = stream(w="DOUBLE NOT NULL")
    means = rows.window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")
    return {"events": rows.process(flink_changing.Watch(1.0), by=["k"]), "means": means}


def fewer() -> dict[str, hr.Stream]:
    return {"events": stream().process(flink_changing.Watch(1.0), by=["k"])}


def windows() -> dict[str, hr.Stream]:
    return {"means": stream().window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")}


def failing() -> dict[str, hr.Stream]:
    rows = stream()
    means = rows.window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")
    return {"events": rows.process(flink_changing.Watch(1.0), by=["k"], failed_to="failed"), "means": means}


LOST = "Flink does not find the state of all operators: "


def test_operators_may_be_added_and_outputs_change_places(tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept", BEFORE)
    found = kept.carried_over(flink_changing.rules.plan(second=True), kept.last_state(), bounded=False)
    assert (found.kept, found.new, dict(found.refused)) == (("watch", "window:k"), ("window:k.2",), {})
    for build in (swapped, failing):
        assert kept.carried_over(changed(build), kept.last_state(), bounded=False).kept in (("watch", "window:k"), ("window:k", "watch"))


def alike(*names: str) -> Plan:
    """Return windows of one length and input, in the order of their outputs."""

    def build() -> dict[str, hr.Stream]:
        rows = stream()
        limits = {"high": "v > 9", "low": "v < 1", "all": "TRUE"}
        return {one: rows.where(limits[one]).window(hr.tumbling(hr.minutes(1)), by=["k"], name=f"w-{one}").aggregate(n="COUNT(*)") for one in names}

    return changed(build)


def test_windows_that_flink_tells_apart_by_their_order_keep_it(tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept", alike("high", "low"))
    for plan, why in (
        (
            alike("low", "high"),
            "output low of w-low comes before others that were there, and windows of one length and input are told apart by their order",
        ),
        (alike("high", "low", "all"), "w-all is new, and has length, keys and input of w-low"),
    ):
        with pytest.raises(EnvironmentFault, match=why):
            kept.carried_over(plan, kept.last_state(), bounded=False)
    assert not kept.carried_over(alike("high", "low"), kept.last_state(), bounded=False)


def test_state_of_operators_without_names_is_refused(tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept", BEFORE)
    note = next((tmp_path / "kept/plans").glob("*.json"))
    note.write_bytes(note.read_bytes().replace(b'"named":true', b'"named":false'))
    with pytest.raises(EnvironmentFault, match="an earlier headrace left it, whose operators have no names"):
        kept.carried_over(BEFORE, kept.last_state(), bounded=False)


@pytest.mark.parametrize(
    "trace",
    [
        "java.lang.IllegalStateException: Cannot map checkpoint/savepoint state for operator 4f3d to the new program",
        "org.apache.flink.util.StateMigrationException: The new serializer must not be incompatible",
    ],
)
def test_a_state_that_flink_does_not_find_is_a_refusal(trace: str, tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept", BEFORE)
    refused = r"joined, parted or narrowed some of them otherwise; run it as it was, or start with --anew"
    with pytest.raises(EnvironmentFault, match=refused), kept.resuming(kept.last_state()):
        raise JobFailed(root_cause(trace))
    with pytest.raises(JobFailed, match="by zero"), kept.resuming(kept.last_state()):
        raise JobFailed("Division by zero")


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (lambda: flink_changing.rules.plan(minutes=2), "window:k cannot keep its state: window changed from tumbling 0:01:00 to tumbling 0:02:00"),
        (lambda: changed(fewer), f"{LOST}window:k of stream:readings no longer exists"),
        (lambda: changed(windows), "a job with processes is built otherwise than one without, and only one of the two has any"),
        (lambda: changed(demanding), "column 'w' of watch is new and NOT NULL, and rows that are buffered do not have it"),
        (lambda: changed(demanding, version="2"), "version '1' of the pipeline left it, and this is version '2'"),
    ],
)
def test_what_flink_cannot_carry_over_is_refused_by_name(plan: Callable[[], Plan], why: str, tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept", BEFORE)
    with pytest.raises(EnvironmentFault) as caught:
        kept.carried_over(plan(), kept.last_state(), bounded=False)
    fix = "run it as it was, or start with --anew, which forgets it"
    assert str(caught.value) == f"{tmp_path}/kept: the state there is not carried over: {why}; {fix}"


def test_a_run_to_the_end_and_one_that_goes_on_share_no_state(tmp_path: Path) -> None:
    kept = leave(tmp_path / "kept", BEFORE, bounded=True)
    with pytest.raises(EnvironmentFault, match="a run with --until left it"):
        kept.carried_over(BEFORE, kept.last_state(), bounded=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    found: list[Any] = []
    with pytest.raises(EnvironmentFault, match=r"kept: cannot be written: .*HEADRACE_HOME"):
        Kept(tmp_path / "kept").note(BEFORE, lambda: found.append(1) or JOB, bounded=False)
    assert not found
