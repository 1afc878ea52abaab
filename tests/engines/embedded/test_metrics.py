"""What a live run tells Prometheus of its processes."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import headrace as hr
from engines.embedded.test_run import T, events, plan_of
from headrace.engines.embedded.live import NO_CLOCK, Live
from headrace.engines.embedded.metrics import Metrics
from headrace.topics.sqlite import SqliteLog


class Last:
    output = {"x": "BIGINT"}
    state = {"x": hr.Value("BIGINT")}

    def on_record(self, row, state):
        state.x = row["x"]
        state.set_timer("silent", state.time + 60_000)

    def on_timer(self, _name, state):
        return {"x": state.x}


def test_a_process_tells_its_keys_bytes_timers_waiting_rows_and_records(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        log.create("events", 1)
        log.append(
            "events", [json.dumps({"k": key, "t": T + at * 1000, "x": at}).encode() for key, at in zip("abcab", range(5), strict=True)], [None] * 5
        )
        live = Live(plan_of(out=events(watermark=hr.seconds(1)).process(Last, by=["k"])), log, patience=NO_CLOCK)
        metrics = Metrics("made-here")
        while live.work():
            metrics.note(live.commit())
        live.close()
    labels = '{pipeline="made-here",process="last"}'
    told = dict(line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if labels in line)
    assert told[f"headrace_process_keys{labels}"] == "3.0"
    assert told[f"headrace_process_timers{labels}"] == "3.0"
    assert told[f"headrace_process_waiting_rows{labels}"] == "2.0"
    assert told[f"headrace_process_records_total{labels}"] == "3.0"
    assert 30 < float(told[f"headrace_process_state_bytes{labels}"]) < 200
