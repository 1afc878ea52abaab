"""Pipelines that change between runs: what is carried over gives what it would have given, and what cannot be is refused by name."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.test_live import START, Wall, event, live_on, raw, run_for, written
from headrace.engines.embedded.live import Limits, Live, Patience, run_live
from headrace.errors import EnvironmentFault, PlanError, ProcessError
from headrace.plan.pipeline import Plan
from headrace.topics.protocol import Commit
from headrace.topics.sqlite import SqliteLog

FAR = Patience(idle_after=None, close_quiet_after=None)
TEN = hr.tumbling(hr.seconds(10))


class Total:
    """Sums what a key has had, and says it with a timer."""

    output = {"total": "DOUBLE", "why": "STRING"}
    state = {"total": hr.Value("DOUBLE", 0.0)}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        state.total += row["v"]
        state.set_timer("later", state.time + 7_000)
        return {"total": state.total, "why": row.get("w") and str(row["w"])}

    def on_timer(self, name: str, state: Any) -> dict[str, Any]:
        return {"total": state.total, "why": name}


def stream(topic: str = "events", **more: str) -> hr.Stream:
    schema = {"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE", **more}
    return hr.stream(topic, schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(5))


def of(rows: hr.Stream) -> dict[str, hr.Stream]:
    sliding = hr.sliding(hr.seconds(20), hr.seconds(5))
    return {
        "means": rows.window(sliding, by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)"),
        "totals": rows.process(Total(), by=["k"]),
    }


def plan(build: Callable[..., Mapping[str, hr.Stream]], **given: Any) -> Plan:
    return hr.pipeline("changing", version="1")(build).plan(**given)


def limited(limit: float = 0.0) -> dict[str, hr.Stream]:  # noqa: ARG001  (a setting)
    return of(stream().where("v > :limit"))


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "log.db", clock=wall)
    yield made
    made.close()


def feed(log: SqliteLog, *records: bytes, topic: str = "events") -> None:
    log.append(topic, list(records))


def run(log: SqliteLog, wall: Wall, made: Plan, **options: Any) -> Live:
    live = live_on(log, wall, made, FAR, **options)
    run_for(live, wall, 1)
    return live


EXTRAS = ("raw", "tens", "minutes", "failed", "late", "column")


def grown(extras: Sequence[str]) -> Callable[..., Mapping[str, hr.Stream]]:
    """Return the pipeline with other outputs, windows and columns, in an order that depends on them."""

    def build(limit: float = 0.0) -> Mapping[str, hr.Stream]:  # noqa: ARG001  (a setting)
        rows = stream().where("v > :limit")
        rows = rows.derive(x="v * 2") if "column" in extras else rows
        windowed = rows.window(hr.sliding(hr.seconds(20), hr.seconds(5)), by=["k"])
        windowed = windowed.late_to("late") if "late" in extras else windowed
        means = windowed.aggregate(n="COUNT(*)", mean="AVG(v)")
        found = {"means": means, "totals": rows.process(Total(), by=["k"], failed_to="failed" if "failed" in extras else None)}
        more = {
            "raw": rows.select("k", "v"),
            "tens": rows.window(TEN, by=["k"], name="tens").aggregate(n="COUNT(*)"),
            "minutes": means.window(hr.tumbling(hr.minutes(1)), by=["k"], name="minutes").aggregate(n="SUM(n)"),
        }
        chosen = {name: more[name] for name in extras if name in more}
        return {**chosen, **found} if len(extras) % 2 else {**found, **chosen}

    return build


records = st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab"), st.integers(-5, 5)), max_size=40)


@settings(max_examples=25)
@given(
    found=records,
    changes=st.lists(st.tuples(st.integers(-5, 5), st.lists(st.sampled_from(EXTRAS), unique=True)), min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_each_record_is_judged_by_the_limit_that_held_when_it_was_taken_in(found: Any, changes: list[tuple[int, list[str]]], seed: int) -> None:
    """Against one run over just the records that the limits of their times let through, the others without effect but on time.

    Outputs, windows and columns that come and go meanwhile change nothing of the others.
    """
    chance, limits = random.Random(seed), [limit for limit, _ in changes]
    lines = [event(second, key, value) for second, key, value in found]
    cuts = sorted(chance.randint(0, len(lines)) for _ in limits[1:])
    parts = list(pairwise([0, *cuts, len(lines)]))
    with TemporaryDirectory() as folder:
        wall = Wall()
        log = SqliteLog(Path(folder) / "log.db", clock=wall)
        log.create("events")
        for (first, behind), (limit, extras) in zip(parts, changes, strict=True):
            feed(log, *lines[first:behind])
            made = plan(grown(extras), limit=float(limit))
            for _ in range(chance.randint(0, 2)):  # ended after some records, and begun again
                run_live(
                    Live(made, log, FAR, clock=wall, tick=wall.tick, batch_records=chance.randint(1, 7)),
                    Limits(records=chance.randint(1, 9), duration=1),
                    sleep=wall.sleep,
                )
            run(log, wall, made)
        run_live(Live(made, log, FAR, clock=wall, latest=True), sleep=wall.sleep)
        got = {topic: raw(log, topic) for topic in ("means", "totals")}
        if any("raw" in extras for _, extras in changes):
            passing = [
                (key, value)
                for (first, behind), (limit, extras) in zip(parts, changes, strict=True)
                for _, key, value in found[first:behind]
                if "raw" in extras and value > limit
            ]
            assert [(row["k"], row["v"]) for row in written(log, "raw")] == passing
        log.close()
        log = SqliteLog(Path(folder) / "other.db", clock=wall)
        log.create("events")
        marked = [
            json.dumps(json.loads(line) | {"passes": json.loads(line)["v"] > limit}).encode()
            for (first, behind), limit in zip(parts, limits, strict=True)
            for line in lines[first:behind]
        ]
        feed(log, *marked)
        run_live(Live(plan(lambda: of(stream(passes="BOOLEAN").where("passes").select("k", "v"))), log, clock=wall, latest=True), sleep=wall.sleep)
        assert got == {topic: raw(log, topic) for topic in ("means", "totals")}
        log.close()


def test_a_changed_limit_is_said_and_written_down_with_the_offsets(log: SqliteLog, wall: Wall, caplog: pytest.LogCaptureFixture) -> None:
    log.create("events")
    feed(log, event(1), event(2))
    run(log, wall, plan(limited))
    feed(log, event(3), event(30))
    run(log, wall, plan(limited, limit=0.5))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "pipeline changing: has changed since its last commit; from offsets {'events': [2]}:",
        "  setting limit: 0.0 → 0.5", "  window:k: keeps its state", "  total: keeps its state",
    ]  # fmt: skip
    steps = [step for step in written(log, "changing.clock") if step["plan"]]
    assert [(step["offsets"], step["settings"]) for step in steps] == [([2], {"limit": ["0.0", "0.5"]})]
    assert [row["total"] for row in written(log, "totals")] == [1.0, 2.0, 3.0, 3.0]
    caplog.clear()
    run(log, wall, plan(limited, limit=0.5))
    assert not caplog.records


def test_outputs_branches_and_columns_come_and_go(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    feed(log, event(1), event(2))
    run(log, wall, plan(lambda: of(stream())))

    def more() -> dict[str, hr.Stream]:
        rows = stream().derive(w="v * 10")
        return {**of(rows), "raw": rows.select("k", "w"), "tens": rows.window(TEN, by=["k"], name="tens").aggregate(n="COUNT(*)")}

    feed(log, event(3), event(40))
    run(log, wall, plan(more))
    assert [row["w"] for row in written(log, "raw")] == [10.0, 10.0]
    assert [row["n"] for row in written(log, "tens")] == [1], "the new window has what came since"
    # Rows that waited have no such column.
    assert [row["why"] for row in written(log, "totals")] == [None, None, "10.0", "later"]
    feed(log, event(41), event(80))
    run(log, wall, plan(lambda: {"totals": stream().process(Total(), by=["k"])}))
    assert [row["total"] for row in written(log, "totals")][-3:] == [4.0, 5.0, 5.0]
    assert len(written(log, "tens")) == 1


def test_rows_that_wait_keep_their_partitions_where_another_topic_comes_before(log: SqliteLog, wall: Wall) -> None:
    for topic in ("events", "aside"):
        log.create(topic)

    def both(*, aside: bool) -> dict[str, hr.Stream]:
        rows = stream().process(Total(), by=["k"], failed_to="failed")
        return {**({"first": stream("aside").select("k")} if aside else {}), "totals": rows}

    feed(log, event(1), event(2, "b", 2.0))
    run(log, wall, plan(lambda: both(aside=False)))
    feed(log, event(3, "c"), topic="aside")
    feed(log, event(30, "b", 5.0))
    live = run(log, wall, plan(lambda: both(aside=True)))
    assert written(log, "first") == [{"k": "c"}]
    assert [row["total"] for row in written(log, "totals")] == [1.0, 2.0, 1.0, 2.0]
    assert live.offsets == {"aside": [1], "events": [3]}
    feed(log, event(60, "b", 1.0))
    run(log, wall, plan(lambda: both(aside=False)))
    assert [row["total"] for row in written(log, "totals")][4:] == [7.0, 7.0]


def test_a_stage_that_is_another_is_refused_and_may_begin_without_state(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    feed(log, event(1))
    run(log, wall, plan(lambda: of(stream())))

    def tens() -> dict[str, hr.Stream]:
        return {**of(stream()), "means": stream().window(TEN, by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")}

    def shared() -> dict[str, hr.Stream]:
        rows = stream()
        return {"means": rows.window(TEN, by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)"), "totals": rows.process(Total(), by=["k"])}

    with pytest.raises(EnvironmentFault) as caught:
        live_on(log, wall, plan(shared))
    assert str(caught.value) == (
        "state of pipeline changing: window:k cannot keep its state: window changed from sliding 0:00:20 every 0:00:05 to tumbling 0:00:10;"
        " run it as it was, start that stage without state (--reset window:k), or start with --anew, which forgets it"
    )
    with pytest.raises(PlanError, match=r"--reset: pipeline changing has no stage 'windw:k'; did you mean 'window:k'\?"):
        live_on(log, wall, plan(shared), reset=("windw:k",))
    feed(log, event(2), event(30))
    run(log, wall, plan(shared), reset=("window:k",))
    assert [(row["n"], row["window_start"][17:19]) for row in written(log, "means")][-1] == (1, "00")
    assert [row["total"] for row in written(log, "totals")] == [1.0, 2.0, 2.0], "the process has kept its own"
    run(log, wall, plan(shared))
    with pytest.raises(PlanError):
        plan(tens)  # two streams of one topic


def test_a_change_while_another_run_owns_the_pipeline_is_refused_and_carries_nothing_over(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    log.create("events")
    feed(log, event(1, "a", 1.0), event(2, "a", 9.0))
    owner = live_on(log, wall, plan(limited), FAR)
    owner.work()
    with (
        closing(SqliteLog(tmp_path / "log.db", clock=wall)) as other,
        pytest.raises(EnvironmentFault, match=r"changing: is run by process \d+ already"),
    ):
        live_on(other, wall, plan(limited, limit=5.0), FAR)
    feed(log, event(3, "a", 2.0), event(60, "b", 9.0))
    owner.work()
    owner.commit()
    owner.close()
    feed(log, event(61, "a", 3.0), event(62, "a", 9.0), event(200, "b", 9.0))
    run(log, wall, plan(limited, limit=5.0))
    assert [row["total"] for row in written(log, "totals") if row["k"] == "a"] == [1.0, 10.0, 12.0, 12.0, 21.0, 21.0]
    assert [step["offsets"] for step in written(log, "changing.clock") if step["plan"]] == [[4]]


def test_a_new_column_that_may_not_be_null_is_refused_where_rows_wait(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    feed(log, event(1))
    run(log, wall, plan(lambda: {"totals": stream().process(Total(), by=["k"])}))
    with pytest.raises(
        ProcessError, match=r"state of process total: column 'w' is new and NOT NULL, and rows that wait do not have it; .*--reset total"
    ):
        live_on(log, wall, plan(lambda: {"totals": stream(w="DOUBLE NOT NULL").process(Total(), by=["k"])}))


@pytest.mark.parametrize("form", ["texts", "hash"])
def test_state_of_the_format_before_is_carried_over(log: SqliteLog, wall: Wall, form: str) -> None:
    log.create("events")
    feed(log, event(1), event(2))
    made = plan(limited)
    run(log, wall, made)
    live = live_on(log, wall, made)
    saved = msgspec.json.decode(live.claim.manifest)
    stages = saved.pop("stages")
    saved |= {"format": 3, "windows": [stages["window:k"]], "processes": [stages["total"]]}
    for stage in stages.values():
        del stage["definition"]
    if form == "texts":
        saved["operators"] = [str(made), "Where(…)"]
    parts = live._parts.keep(saved)
    live.claim.commit(Commit(msgspec.json.encode(saved), {}, parts, [], {("events", 0): 2}))
    live.close()
    changed = plan(limited, limit=0.5) if form == "texts" else made
    feed(log, event(3), event(30))
    run(log, wall, changed)
    assert [row["total"] for row in written(log, "totals")] == [1.0, 2.0, 3.0, 3.0]
    assert [row["n"] for row in written(log, "means")][:2] == [3, 3]


def test_state_of_the_format_before_of_other_stages_is_refused(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    run(log, wall, plan(limited))
    live = live_on(log, wall, plan(limited))
    saved = msgspec.json.decode(live.claim.manifest)
    stages = saved.pop("stages")
    saved |= {"format": 3, "windows": [stages["window:k"]], "processes": [stages["total"]], "operators": [str(plan(limited)), ""]}
    live.claim.commit(Commit(msgspec.json.encode(saved), {}, live._parts.keep(saved), [], {}))
    live.close()
    with pytest.raises(EnvironmentFault, match="was made with other operators; run it as it was, or start with --anew"):
        live_on(log, wall, plan(lambda: {"totals": stream().process(Total(), by=["k"])}))


assert START % 60_000 == 0
