"""State of keys that come and go: restored as it was, and no more of it stored than the keys that live need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.processes import START, line, source
from engines.embedded.test_live import Wall, live_on
from headrace.engines.embedded import state as state_module
from headrace.engines.embedded.graph import Graph
from headrace.engines.embedded.live import NO_CLOCK
from headrace.engines.embedded.state import Parts
from headrace.kernels.keyed.process import Place
from headrace.plan.pipeline import Plan
from headrace.topics.sqlite import SqliteLog
from headrace.topics.store import Store


def unrepeated() -> Plan:
    """Ids that never repeat, each remembered for a second."""
    return hr.pipeline("ids", version="1")(lambda: {"out": source("in", 0).deduplicate(["k"], within=hr.seconds(1))}).plan()


class Turns:
    """A run that is given ids second by second."""

    def __init__(self, folder: Path) -> None:
        self.wall = Wall(START)
        self.log = SqliteLog(folder / "log.db", clock=self.wall)
        self.log.create("in", retention_bytes=100_000)
        self.live = live_on(self.log, self.wall, unrepeated(), NO_CLOCK)

    def turn(self, second: int, ids: int) -> Any:
        self.log.append("in", [line(second, f"id {second} {number}") for number in range(ids)])
        self.live.work()
        return self.live.commit()

    def stored(self) -> tuple[int, int]:
        """Return how many bytes and parts the log has of the pipeline's state."""
        found: tuple[int, int] = self.log.file.db.execute("SELECT SUM(LENGTH(data)), COUNT(*) FROM state").fetchone()
        return found


def assert_level(tmp_path: Path, *, turns: int, ids: int) -> None:
    """Have ids come that never repeat, and look at what is stored: the same later as earlier, and what the metric says."""
    run, bytes_, entries, told = Turns(tmp_path), [], [], []
    for second in range(turns):
        commit = run.turn(second, ids)
        bytes_.append(run.stored()[0])
        entries.append(sum(len(segment.keys) for segment in run.live._parts._keys["deduplicate"]))
        told.append((commit.processes["deduplicate"].state_bytes, sum(segment.size for segment in run.live._parts._keys["deduplicate"])))
        assert commit.processes["deduplicate"].keys <= 2 * ids
    half = turns // 2
    assert max(bytes_[half:]) <= 1.2 * max(bytes_[:half])
    assert max(entries[half:]) <= 1.2 * max(entries[:half]) <= 6 * state_module._MANY_KEYS
    assert all(metric == stored for metric, stored in told)
    assert told[-1][0] > 0
    run.live.close()
    again = live_on(run.log, run.wall, unrepeated(), NO_CLOCK)
    assert len(again.run.graph.stages[0].keyspace) == commit.processes["deduplicate"].keys
    again.close()
    run.log.close()


def test_what_is_stored_of_ids_that_never_repeat_stays_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_MANY_KEYS", 200)
    assert_level(tmp_path, turns=60, ids=50)


@pytest.mark.long
def test_what_is_stored_of_a_million_ids_that_never_repeat_stays_level(tmp_path: Path) -> None:
    assert_level(tmp_path, turns=100, ids=10_000)


def test_files_of_state_of_ids_that_never_repeat_stay_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "_MANY_KEYS", 200)
    run, sizes = Turns(tmp_path), []
    parts, store = Parts(), Store(tmp_path / "home", "ids")
    for second in range(60):
        run.log.append("in", [line(second, f"id {second} {number}") for number in range(50)])
        run.live.work()
        saved, new = parts.save(run.live.run.graph.stages)
        checksum = store.write(second, json.dumps(saved).encode(), new, parts.keep(saved))
        store.settle(second)
        sizes.append(sum(file.stat().st_size for file in store.folder.iterdir()))
    assert max(sizes[30:]) <= 1.2 * max(sizes[:30])
    store.resume((59, checksum))
    other = Graph(unrepeated(), lambda *_: None, origins=[("in", 0)])
    Parts().restore(saved, other.plan, other.stages, store.load)
    assert other.stages[0].keyspace._stored == run.live.run.graph.stages[0].keyspace._stored
    run.live.close()
    run.log.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=8), max_size=30), st.integers(0, 3))
def test_keys_that_come_and_go_are_restored_as_they_were(turns: Any, many: int) -> None:
    plan = hr.pipeline("come-and-go", version="1")(lambda: {"out": source("in", 0).process(ComesAndGoes(), by=["k"], name="p")}).plan()
    parts, stored = Parts(), dict[str, bytes]()
    graph = Graph(plan, lambda *_: None, origins=[("in", 0)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(state_module, "_MANY_KEYS", many)
        for second, turn in enumerate(turns):
            for key, stays in turn:
                space = graph.stages[0].keyspace
                space.record((str(key),), {"k": str(key), "x": float(second) if stays else None}, second, second, Place("in", 0, 0), [])
            saved, new = parts.save(graph.stages)
            stored |= new
            kept = parts.keep(saved)
            stored = {name: data for name, data in stored.items() if name in kept}
            other = Graph(plan, lambda *_: None, origins=[("in", 0)])
            Parts().restore(saved, other.plan, other.stages, stored.__getitem__)
            assert other.stages[0].keyspace._stored == graph.stages[0].keyspace._stored
            assert sum(len(segment.keys) for segment in parts._keys[graph.stages[0].node.name]) <= 3 * (len(graph.stages[0].keyspace) + many + 14)


class ComesAndGoes:
    state = {"x": hr.Value("DOUBLE")}
    output = {"x": "DOUBLE"}

    def on_record(self, row: Any, state: Any) -> None:
        state.x = row["x"]
