"""A process whose declared state is another than the one that was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import headrace as hr
from engines.embedded.test_run import T, events, plan_of, rows_of
from headrace.engines.embedded.live import NO_CLOCK, Live
from headrace.engines.embedded.run import run_files
from headrace.engines.embedded.state import Loading, Parts, Saving
from headrace.errors import ProcessError
from headrace.topics.sqlite import SqliteLog


class Keeping:
    """Gives what it keeps, as it is declared by now."""

    output = {"kept": "STRING"}

    def __init__(self, **state: Any) -> None:
        self.state_now = sorted(state)
        type(self).state = state

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        if "total" in self.state_now and isinstance(state.total, int):
            state.total += row["x"]
        return {"kept": str([getattr(state, name) for name in self.state_now])}


def kept(log: SqliteLog, value: int, **state: Any) -> list[str]:
    """Return what the process gives for one more record."""
    log.append("events", [json.dumps({"k": "a", "t": T + value, "x": value}).encode()])

    class Now(Keeping):
        def __init__(self) -> None:
            super().__init__(**state)
            del self.state_now
            Now.state_now = sorted(state)

    live = Live(plan_of(out=events().process(Now, by=["k"])), log, patience=NO_CLOCK)
    try:
        while live.work():
            pass
        live.finish()
        live.commit()
        part = log.topic("out").partitions[0]
        return [json.loads(entry.value)["kept"] for entry in log.entries("out", 0, part.end - 1, 1)]
    finally:
        live.close()


@pytest.fixture
def log(tmp_path: Path) -> Any:
    log = SqliteLog(tmp_path / "log.db")
    log.create("events", 1)
    yield log
    log.close()


def test_state_may_be_added(log: SqliteLog) -> None:
    assert kept(log, 1, total=hr.Value("BIGINT", 0)) == ["[1]"]
    assert kept(log, 2, total=hr.Value("BIGINT", 0), more=hr.Value("STRING", "none")) == ["['none', 3]"]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"total": hr.Value("STRING")}, "kept as a value of BIGINT, and is declared a value of STRING"),
        ({"total": hr.Value("BIGINT", 0, ttl=hr.seconds(1))}, "declared a value of BIGINT with a ttl"),
        ({"total": hr.List("BIGINT")}, "declared a list of BIGINT"),
        ({"sum": hr.Value("BIGINT", 0)}, "declared no more; set state_version = 2 and write migrate"),
    ],
)
def test_state_of_another_form_is_refused_and_left_as_it_is(log: SqliteLog, state: dict[str, Any], says: str) -> None:
    assert kept(log, 1, total=hr.Value("BIGINT", 0)) == ["[1]"]
    with pytest.raises(ProcessError, match=says):
        kept(log, 2, **state)
    assert kept(log, 3, total=hr.Value("BIGINT", 0)) == ["[6]"]


class Back:
    """Gives times back as they came."""

    output = {"m": "MAP<STRING, TIMESTAMP_LTZ(3)>", "r": "ROW<a TIMESTAMP_LTZ(3)>", "l": "ARRAY<TIMESTAMP_LTZ(3)>", "whole": "BOOLEAN"}

    def on_record(self, row: dict[str, Any], _state: Any) -> dict[str, Any]:
        times = [row["m"]["x"], row["r"]["a"], row["l"][0]]
        return {name: row[name] for name in "mrl"} | {"whole": times == [T + 500] * 3}


def test_times_inside_of_others_are_whole_numbers_too(tmp_path: Path) -> None:
    kinds = {name: kind for name, kind in Back.output.items() if name != "whole"}
    stream = hr.stream("events", schema={"k": "STRING", "t": "BIGINT", **kinds}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    at = "2024-01-01T00:00:00.500Z"
    record = {"k": "a", "t": T, "m": {"x": at}, "r": {"a": at}, "l": [at, None]}
    (tmp_path / "events.ndjson").write_text(json.dumps(record))
    run_files(plan_of(out=stream.process(Back, by=["k"])), {"events": [tmp_path / "events.ndjson"]}, tmp_path / "out")
    assert rows_of(tmp_path / "out", "out") == [{"k": "a", **{name: record[name] for name in kinds}, "whole": True}]


class Limits:
    """Compares values with the limit of their key, which is shared."""

    output = {"above": "BOOLEAN"}
    shared = {"limits": hr.Map("BIGINT")}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> None:
        shared.limits[row["k"]] = row["x"]

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        return {"above": row["x"] > state.shared.limits.get(row["k"], 0)}


def limited(log: SqliteLog) -> Live:
    told = hr.stream("limits", schema={"k": "STRING", "t": "BIGINT", "x": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return Live(plan_of(out=events().process(Limits, by=["k"], broadcast=told, name="limited")), log, patience=NO_CLOCK)


def parts_after(live: Live, log: SqliteLog, topic: str, x: int) -> list[str]:
    """Return the names of the parts of the commit after one more record."""
    log.append(topic, [json.dumps({"k": "a", "t": T + x, "x": x}).encode()])
    while live.work():
        pass
    live.finish()
    live.commit()
    parts: list[str] = stage_of(log)["parts"]
    return parts


def stage_of(log: SqliteLog) -> Any:
    return json.loads(log.manifest("made-here") or b"")["stages"]["limited"]


def test_shared_state_is_stored_when_it_has_changed(log: SqliteLog) -> None:
    log.create("limits", 1)
    live = limited(log)
    first = parts_after(live, log, "limits", 5)
    assert parts_after(live, log, "events", 6)[: len(first)] == first
    assert set(first).isdisjoint(parts_after(live, log, "limits", 7))
    live.close()
    again = limited(log)
    shared = stage_of(log)["shared"]["part"]
    assert shared in parts_after(again, log, "events", 8)
    assert shared not in parts_after(again, log, "limits", 9)
    again.close()
    assert [json.loads(entry.value)["above"] for entry in log.entries("out", 0, 0, 9)] == [True, True]


def test_shared_state_is_taken_from_a_commit_of_before_which_had_it_in_the_manifest(log: SqliteLog) -> None:
    log.create("limits", 1)
    live = limited(log)
    parts_after(live, log, "limits", 5)
    (state,) = [one.save(Saving(Parts(), "limited", {})) for one in live.run.graph.stages]
    live.close()
    again = limited(log)
    (stage,) = again.run.graph.stages
    stage.restore({**state, "shared": msgspec.msgpack.encode({"limits": {"a": 100}}).hex()}, Loading(Parts(), "limited", lambda _: b"", {}))
    assert msgspec.msgpack.decode(stage.keyspace.shared.encode()) == {"limits": {"a": 100}}  # type: ignore[attr-defined]
    again.close()
