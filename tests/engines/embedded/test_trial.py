"""`hr.test`: a live pipeline step by step in a test, with the test's own clock."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import headrace as hr

START = datetime(2026, 1, 1, 6, tzinfo=UTC)
MS = 1_767_247_200_000


class Silence:
    """Reports how many records a key had, when it has been silent for a minute of the wall clock."""

    output = {"what": "STRING", "n": "BIGINT"}
    state = {"n": hr.Value("BIGINT", 0)}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any] | None:  # noqa: ARG002
        state.n += 1
        state.set_clock_timer("silent", state.now + 60_000)
        return None

    def on_clock(self, name: str, state: Any) -> dict[str, Any]:
        return {"what": name, "n": state.n}


def readings(limit: str) -> hr.Stream:
    schema = {"tag": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE"}
    return hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(5)).where(limit)


@hr.pipeline("hot", version="1")
def hot(limit: float = 90.0) -> dict[str, hr.Stream]:  # noqa: ARG001  (a setting)
    rows = readings("v > :limit")
    return {
        "hot": rows.select("tag", "v"),
        "means": rows.window(hr.tumbling(hr.minutes(1)), by=["tag"]).late_to("late").aggregate(n="COUNT(*)", mean="AVG(v)"),
        "silent": rows.process(Silence, by=["tag"], order="arrival"),
    }


@hr.pipeline("hot", version="1")
def other() -> dict[str, hr.Stream]:
    return {"means": readings("v > 1").window(hr.tumbling(hr.minutes(2)), by=["tag"]).aggregate(n="COUNT(*)", mean="AVG(v)")}


def reading(second: float, value: float, tag: str = "t1") -> dict[str, Any]:
    return {"tag": tag, "t": MS + round(second * 1000), "v": value}


def test_rows_come_step_by_step_with_ledger_and_dead_letters() -> None:
    with hr.test(hot, start=START) as live:
        live.feed("readings", [reading(1, 95.0), reading(2, 20.0), b"{"])
        assert live.rows("hot") == [{"tag": "t1", "v": 95.0}]
        assert live.rows("hot") == []
        assert [letter["raw"] for letter in live.dead_letters()] == ["{"]
        assert live.dead_letters() == []
        assert live.rows("means") == []
        assert live.open["windows"] == 1
        live.feed("readings", [reading(66, 99.0)])
        assert [(row["n"], row["mean"], row["window_start"]) for row in live.rows("means")] == [(1, 95.0, "2026-01-01T06:00:00Z")]
        live.feed("readings", [reading(3, 97.0)])
        assert [row["v"] for row in live.rows("late")] == [97.0]
        counts = live.ledger["readings"]
        assert (counts["received"], counts["accepted"], counts["malformed"], counts["filtered"]) == (5, 3, 1, 1)
        live.drain()
        assert [row["n"] for row in live.rows("means")] == [1]


def test_the_clock_is_the_tests_own() -> None:
    with hr.test(hot, start=START, partitions=2) as live:
        live.feed("readings", [reading(1, 95.0)], key="tag")
        live.advance(hr.seconds(59))
        assert live.rows("silent") == []
        live.feed("readings", [{"tag": "\ud800"}], key="tag")
        assert [letter["reason"] for letter in live.dead_letters()] == ["malformed"]
        assert live.now == START + hr.seconds(59)
        live.advance(hr.seconds(1))
        assert live.rows("silent") == [{"tag": "t1", "what": "silent", "n": 1}]
        live.advance(hr.hours(2))
        assert [row["n"] for row in live.rows("means")] == [1], "a stream that is silent closes its windows"
        live.feed("readings", [reading(2 * 3600 + 70, 95.0), {"tag": "t1", "t": MS + 4 * 3_600_000, "v": 91.0}], key="tag")
        assert [letter["reason"] for letter in live.dead_letters()] == ["future"]


def test_a_restart_resumes_and_a_change_keeps_the_state() -> None:
    with hr.test(hot.plan(limit=50.0), start=START) as live:
        live.feed("readings", [reading(1, 60.0)])
        live.restart()
        live.feed("readings", [reading(2, 60.0)])
        live.restart(hot.plan(limit=80.0))
        live.feed("readings", [reading(3, 60.0), reading(4, 85.0), reading(80, 99.0)])
        assert [(row["n"], round(row["mean"], 3)) for row in live.rows("means")] == [(3, 68.333)]
        assert [row["v"] for row in live.rows("hot")] == [60.0, 60.0, 85.0, 99.0]
        with pytest.raises(hr.EnvironmentFault, match="cannot keep its state: window changed"):
            live.restart(other)
        live.restart(hot)
        assert live.ledger["readings"]["received"] == 5


def test_its_folder_is_gone_at_the_end_and_wrong_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with hr.test(hot) as live:
        assert [*tmp_path.iterdir()]
        with pytest.raises(hr.PlanError, match=r"^hr\.test: pipeline hot reads no topic 'reading'; did you mean 'readings'\?$"):
            live.feed("reading", [])
        with pytest.raises(hr.PlanError, match=r"^hr\.test: pipeline hot writes no topic 'mean'; did you mean 'means'\?$"):
            live.rows("mean")
        with pytest.raises(hr.PlanError, match="give each record as a dict"):
            live.feed("readings", [7])  # type: ignore[list-item]
    assert not [*tmp_path.iterdir()]
    with pytest.raises(hr.PlanError, match=r"^hr\.test: is of type str; give a pipeline, or its plan with settings"):
        hr.test("hot")  # type: ignore[arg-type]
    with pytest.raises(hr.PlanError, match=r"^hr\.test: start is of type str; give a datetime"):
        hr.test(hot, start="2026-01-01")  # type: ignore[arg-type]
    with pytest.raises(hr.PlanError, match=r"^hr\.test: partitions is 0; give a number, 1 or more"):
        hr.test(hot, partitions=0)
    assert not [*tmp_path.iterdir()]
