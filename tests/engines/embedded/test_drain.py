"""What the end of a file leaves open: told, counted in the ledger, and with a drain closed as event time runs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from engines.embedded.processes import START, line, source
from headrace.cli import main
from headrace.engines.embedded.run import DRAIN_MS, Limits, run_files, run_to
from headrace.plan.pipeline import Plan


class Session:
    """Emits how many records a session had, 5 s after the last of them."""

    output = {"n": "BIGINT"}
    state = {"n": hr.Value("BIGINT", 0)}

    def on_record(self, row: Any, state: Any) -> None:  # noqa: ARG002
        state.n += 1
        state.set_timer("over", state.time + 5_000)

    def on_timer(self, name: str, state: Any) -> Any:  # noqa: ARG002
        n, state.n = state.n, 0
        return {"n": n}


class Hourly:
    """Emits each hour, for ever."""

    output = {"at": "BIGINT"}

    def on_record(self, row: Any, state: Any) -> None:  # noqa: ARG002
        state.set_timer("hour", state.time + 3_600_000)

    def on_timer(self, name: str, state: Any) -> Any:
        state.set_timer(name, state.time + 3_600_000)
        return {"at": state.time}


def plan_of(code: Any, *, windows: bool = False) -> Plan:
    def build() -> dict[str, hr.Stream]:
        made = source("in", 1_000).process(code, by=["k"], name="p")
        counted = {"windows": made.window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="SUM(n)")} if windows else {}
        return {"out": made, **counted}

    return hr.pipeline("drained", version="1")(build).plan()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.ndjson"
    path.write_bytes(b"".join(line(second, key) + b"\n" for second, key in ((0, "a"), (1, "a"), (20, "b"), (21, "a"), (22, "b"))))
    return path


def rows(folder: Path, topic: str = "out") -> list[Any]:
    return [json.loads(one) for one in (folder / f"{topic}.ndjson").read_bytes().splitlines()]


def test_timers_after_the_last_event_are_told_and_counted_in_the_ledger(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_files(plan_of(Session()), {"in": [file]}, tmp_path / "out")
    assert rows(tmp_path / "out") == [{"k": "a", "n": 2}]
    assert json.loads((tmp_path / "out" / "ledger.json").read_bytes())["open"] == {"timers": {"p": 2}}
    assert "process p: event-time timers that are still set: 2; event time stops at the last event; --drain lets it run on" in caplog.text


def test_with_a_drain_event_time_runs_on_until_no_timer_is_left(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_files(plan_of(Session(), windows=True), {"in": [file]}, tmp_path / "out", limits=Limits(drain=True))
    assert rows(tmp_path / "out") == [{"k": "a", "n": 2}, {"k": "a", "n": 1}, {"k": "b", "n": 2}]
    assert [(row["k"], row["n"]) for row in rows(tmp_path / "out", "windows")] == [("a", 2), ("a", 1), ("b", 2)]
    assert "open" not in json.loads((tmp_path / "out" / "ledger.json").read_bytes())
    assert "still set" not in caplog.text


@pytest.mark.parametrize("chunk", [1, 70, None])
def test_a_drain_gives_the_same_however_the_input_is_cut(file: Path, tmp_path: Path, chunk: int | None) -> None:
    run_files(plan_of(Session(), windows=True), {"in": [file, file]}, tmp_path / "out", limits=Limits(drain=True), chunk=chunk)
    assert [(row["k"], row["n"]) for row in rows(tmp_path / "out")] == [("a", 4), ("a", 2), ("b", 4)]


def test_a_process_that_sets_a_timer_for_ever_is_drained_for_a_day(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_files(plan_of(Hourly()), {"in": [file]}, tmp_path / "out", limits=Limits(drain=True))
    assert len(rows(tmp_path / "out")) == 2 * 24
    assert max(row["at"] for row in rows(tmp_path / "out")) == START + 22_000 + DRAIN_MS
    assert json.loads((tmp_path / "out" / "ledger.json").read_bytes())["open"] == {"timers": {"p": 2}}
    assert "still set: 2; event time ran on for a day after the last event, and no further" in caplog.text


def test_a_run_that_stops_at_a_limit_counts_its_open_windows(file: Path, tmp_path: Path) -> None:
    plan = hr.pipeline("open", version="1")(
        lambda: {"out": source("in", 0).window(hr.sliding(hr.seconds(10), hr.seconds(5)), by=["k"]).aggregate(n="COUNT(*)")}
    ).plan()
    run_files(plan, {"in": [file]}, tmp_path / "out", limits=Limits(records=3))
    assert json.loads((tmp_path / "out" / "ledger.json").read_bytes())["open"] == {"windows": 2}
    run_files(plan, {"in": [file]}, tmp_path / "out")
    assert "open" not in json.loads((tmp_path / "out" / "ledger.json").read_bytes())


def test_a_run_without_a_folder_is_drained_too(file: Path) -> None:
    class Kept:
        rows = 0

        def write(self, topic: str, rows: Any, keys: Any) -> None:  # noqa: ARG002
            self.rows += len(rows)

        def set_aside(self, letters: Any) -> None: ...

    for drain, count in ((False, 1), (True, 3)):
        run_to(plan_of(Session()), {"in": [file]}, kept := Kept(), limits=Limits(drain=drain))
        assert kept.rows == count


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_a_drain_over_files_on_a_cluster_is_refused_by_name(engine: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fingerprint", "--engine", engine, "--input", str(file), "--drain"]) == 2
    assert f"--drain: {engine.title()} closes all windows at the end of files" in capsys.readouterr().err
