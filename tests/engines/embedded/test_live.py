"""Pipelines on topics: the same answers as on files, clocks, commits, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.engines.embedded.live import Committed, Limits, Live, Patience, Step, run_live
from headrace.engines.embedded.run import run_files
from headrace.errors import EnvironmentFault, InternalError, PlanError
from headrace.plan.pipeline import Plan
from headrace.topics.protocol import Commit
from headrace.topics.sqlite import SqliteLog

START = 1_700_000_040_000  # a whole minute


class Wall:
    """A clock on the wall that a test sets, and the one that only goes forward."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def tick(self) -> float:
        return self.now / 1000

    def sleep(self, seconds: float) -> None:
        self.now += max(round(seconds * 1000), 1)


def plan_of(build: Callable[[Any], Any] | None = None, *, version: str = "1", delay: int = 5, out: str = "counts") -> Plan:
    @hr.pipeline("counting", version=version)
    def counting() -> dict[str, hr.Stream]:
        events = hr.stream(
            "events", schema={"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(delay)
        )
        made = build(events) if build else events.window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")
        return {out: made}

    return counting.plan()


def event(second: float, key: str = "a", value: float = 1.0) -> bytes:
    return json.dumps({"k": key, "t": START + round(second * 1000), "v": value}).encode()


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def log(tmp_path: Path, wall: Wall) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "home" / "log.db", clock=wall)
    yield made
    made.close()


def written(log: SqliteLog, topic: str = "counts") -> list[Any]:
    return [json.loads(value) for value in raw(log, topic)]


def raw(log: SqliteLog, topic: str = "counts") -> list[bytes]:
    return [entry.value for part in log.topic(topic).partitions for entry in log.entries(topic, part.number, part.first, 10**6)]


def live_on(log: SqliteLog, wall: Wall, plan: Plan | None = None, patience: Patience | None = None, **options: Any) -> Live:
    return Live(plan or plan_of(), log, patience or Patience(), clock=wall, tick=wall.tick, **options)


def run_for(live: Live, wall: Wall, seconds: float, **options: Any) -> Any:
    return run_live(live, Limits(duration=seconds, **options), sleep=wall.sleep, poll_seconds=0.1)


# Of three partitions, a key of each.
KEYS_OF = [next(key for n in range(99) if crc32(key := b"%d" % n) % 3 == part) for part in range(3)]


# The same as on a file


rows = st.lists(st.tuples(st.integers(0, 90), st.sampled_from("abc"), st.floats(-1e6, 1e6)), max_size=60)


@settings(max_examples=40)
@given(found=rows, partitions=st.integers(1, 3), stops=st.lists(st.integers(1, 20), max_size=6), chance=st.randoms(use_true_random=False))
@pytest.mark.parametrize("kind", ["windowed", "late kept", "through"])
def test_a_run_on_topics_gives_what_a_run_on_files_gives_however_often_it_is_broken_off(
    kind: str, found: Any, partitions: int, stops: list[int], chance: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    builds: dict[str, Any] = {
        "windowed": None,
        "late kept": lambda e: (
            e.window(hr.sliding(hr.seconds(20), hr.seconds(5)), by=["k"], allowed_lateness=hr.seconds(5))
            .late_to("late")
            .aggregate(n="COUNT(*)", top="MAX(v)")
        ),
        "through": lambda e: e.where("v >= 0").derive(double="v * 2"),
    }
    partitions = partitions if kind == "windowed" else 1
    folder = tmp_path_factory.mktemp("live")
    parts: list[list[bytes]] = [[] for _ in range(partitions)]
    for second, key, value in found:
        parts[chance.randrange(partitions)].append(event(second, key, value))
    files = [folder / f"{number}.ndjson" for number in range(partitions)]
    for file, lines in zip(files, parts, strict=True):
        file.write_bytes(b"".join(line + b"\n" for line in lines))
    ledger = run_files(plan_of(builds[kind]), {"events": files}, folder / "out")

    wall = Wall()
    log = SqliteLog(folder / "log.db", clock=wall)
    log.create("events", partitions)
    ids = log.catalog.partitions_of("events")
    waiting = [list(lines) for lines in parts]
    while any(waiting):
        number = chance.choice([n for n in range(partitions) if waiting[n]])
        some, waiting[number] = waiting[number][: (size := chance.randint(1, 9))], waiting[number][size:]
        with log.catalog.writing():
            log.appending.append_to(ids[number], some, None, wall())
    for most in stops:
        live = Live(plan_of(builds[kind]), log, latest=True, clock=wall, batch_records=chance.randint(1, 7))
        run_live(live, Limits(records=most), sleep=wall.sleep, commit_seconds=0 if most % 2 else 60)
    counts = run_live(Live(plan_of(builds[kind]), log, latest=True, clock=wall), sleep=wall.sleep)
    assert counts == ledger
    for topic in ["counts", *(["late"] if kind == "late kept" else [])]:
        assert raw(log, topic) == (folder / "out" / f"{topic}.ndjson").read_bytes().splitlines()
    log.close()


def test_a_second_run_to_the_end_takes_up_what_has_come_since(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1), event(2)])
    run_live(live_on(log, wall, latest=True), sleep=wall.sleep)
    assert [(row["k"], row["n"]) for row in written(log)] == [("a", 2)]
    log.append("events", [event(3), event(11), event(25)])
    ledger = run_live(live_on(log, wall, latest=True), sleep=wall.sleep)
    assert [row["n"] for row in written(log)] == [2, 1, 1]  # the window that was closed takes no more
    assert ledger["events"].late == 1


# Clocks


def test_windows_stay_open_when_a_run_is_stopped_and_close_when_it_is_drained(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1)])
    run_for(live_on(log, wall), wall, 1)
    assert written(log) == []
    run_for(live_on(log, wall), wall, 1, drain=True)
    assert [row["n"] for row in written(log)] == [1]


def test_a_quiet_partition_holds_windows_open_until_it_is_idle(log: SqliteLog, wall: Wall) -> None:
    log.create("events", 2)
    ids = log.catalog.partitions_of("events")
    live = live_on(log, wall, patience=Patience(idle_after=30_000, close_quiet_after=None))
    with log.catalog.writing():
        log.appending.append_to(ids[0], [event(1), event(40)], None, wall())
    live.work()
    live.commit()
    assert written(log) == []
    wall.now += 29_999
    live.work()
    assert not live._staged
    wall.now += 1
    with log.catalog.writing():
        log.appending.append_to(ids[0], [event(41)], None, wall())
    live.work()
    live.commit()
    assert [row["n"] for row in written(log)] == [1]
    # Awake again, it goes on from where the stream is: what belongs to a closed window is late.
    with log.catalog.writing():
        log.appending.append_to(ids[1], [event(2), event(37)], None, wall())
    live.work()
    assert live.run.ledger["events"].late == 1
    assert live.run.ledger["events"].accepted == 4
    live.close()


def test_what_is_quiet_for_long_is_closed_as_the_clock_passes_it_and_no_further(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1)])
    live = live_on(log, wall)
    live.work()
    wall.now += 59_999
    live.work()
    assert not live._staged or live._staged._parts.keys() == {("counting.clock", None)}
    wall.now += 1
    live.work()
    live.commit()
    assert [row["n"] for row in written(log)] == [1]
    log.append("events", [event(9), event(10)])
    live.work()
    assert (live.run.ledger["events"].late, live.run.ledger["events"].accepted) == (1, 2)
    live.close()


def test_steps_of_the_clock_are_written_down_with_their_offsets(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1)])
    live = live_on(log, wall)
    run_for(live, wall, 70)
    steps = written(log, "counting.clock")
    assert [step["offsets"] for step in steps] == [[1], [1]]
    assert steps[0]["resting"] == [0]
    assert steps[1]["shown"] == [START + 9_999 + 5_000]


def test_a_replay_that_takes_the_written_steps_gives_the_same(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    log.create("events")
    log.append("events", [event(1)])
    run_for(live_on(log, wall), wall, 70)
    log.append("events", [event(12), event(3), event(30)])
    run_for(live_on(log, wall), wall, 200)
    assert len(written(log)) == 3

    again = SqliteLog(tmp_path / "again" / "log.db", clock=Wall())
    again.create("events")
    again.append("events", raw(log, "events"))
    live = Live(plan_of(), again, Patience(None, None, None), clock=Wall())
    for step in written(log, "counting.clock"):
        if (missing := step["offsets"][0] - live.offsets["events"][0]) > 0:
            live.work(missing)
        live.take(Step(tuple(step["offsets"]), tuple(step["shown"]), tuple(step["resting"])))
    live.commit()
    live.close()
    assert raw(again) == raw(log)
    again.close()


def test_a_record_far_ahead_of_its_arrival_is_set_aside_and_moves_nothing(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1), event(3_601.001), event(3_600), b"{", event(2)])
    ledger = run_for(live_on(log, wall), wall, 1)
    letters = written(log, "events.dead-letter")
    assert [(one["offset"], one["reason"], one["arrived_ms"]) for one in letters] == [(1, "future", START), (3, "malformed", START)]
    assert letters[0]["detail"] == "event time is 3601 s past its arrival"
    assert letters[0]["raw"] == event(3_601.001).decode()
    counts = ledger["events"].counts()
    assert (counts["future"], counts["malformed"], counts["accepted"], counts["late"]) == (1, 1, 2, 1)


@settings(max_examples=25)
@given(
    found=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["{", "7", "", None])), max_size=40),
    stops=st.lists(st.integers(1, 15), max_size=5),
    batch=st.integers(1, 8),
    narrow=st.booleans(),
)
def test_dead_letters_stand_by_partition_and_offset_whatever_the_batches_and_kills(
    found: Any, stops: list[int], batch: int, narrow: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, wall = tmp_path_factory.mktemp("dead"), Wall()
    log = SqliteLog(folder / "log.db", clock=wall)
    log.create("events", 3)
    if narrow:
        log.create("events.dead-letter", 2)
    parts: list[list[bytes]] = [[], [], []]
    for number, (part, bad) in enumerate(found):
        parts[part].append(event(number % 7) if bad is None else bad.encode())
    for number, lines in enumerate(parts):
        log.append("events", lines, [KEYS_OF[number]] * len(lines))
    live = live_on(log, wall, batch_records=batch)
    for stop in stops:
        live.work(stop)
        live.commit()
        live.work(stop)  # and then the process is killed
        live.close()
        live = live_on(log, wall, batch_records=batch)
    run_live(live, Limits(duration=60, drain=True), sleep=wall.sleep, poll_seconds=0.1)
    wanted = [[(part, offset, line) for offset, line in enumerate(lines) if not line.startswith(b'{"')] for part, lines in enumerate(parts)]
    letters: list[list[Any]] = []
    for one in log.topic("events.dead-letter").partitions:
        values = [json.loads(entry.value) for entry in log.entries("events.dead-letter", one.number, 0, 10**6)]
        assert {value["pipeline"] for value in values} <= {"counting"}
        letters.append([(value["partition"], value["offset"], value["raw"].encode()) for value in values])
    log.close()
    if narrow:
        assert letters[1] == wanted[1]
        for part in (0, 2):
            assert [letter for letter in letters[0] if letter[0] == part] == wanted[part]
    else:
        assert letters == wanted


def test_arrival_never_falls_when_the_clock_is_set_back(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1)])
    wall.now -= 3_600_000
    log.append("events", [event(2)])
    assert [entry.arrived_ms for entry in log.entries("events", 0, 0, 9)] == [START, START]
    live = live_on(log, wall)
    live.work()
    wall.now -= 3_600_000  # and once more, while it runs
    live.work()
    live.commit()
    assert live.received == 2
    live.close()


def test_a_topic_made_anew_is_not_taken_for_the_one_that_was_read(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(second) for second in range(5)])
    run_for(live_on(log, wall), wall, 1)
    log.delete("events")
    log.create("events")
    log.append("events", [event(second) for second in range(8)])
    with pytest.raises(EnvironmentFault, match=r"events partition 0: has been made anew since it was read; start the pipeline with --anew"):
        live_on(log, wall)
    live = live_on(log, wall, anew=True)
    live.work()
    assert live.received == 8
    log.delete("events")
    log.create("events")
    with pytest.raises(EnvironmentFault, match=r"topic 'events': has been deleted, or made anew, while it was read"):
        live.work()
    live.close()


def test_a_run_that_lags_behind_takes_no_partition_for_quiet(log: SqliteLog, wall: Wall) -> None:
    log.create("events", 2)
    ids = log.catalog.partitions_of("events")
    with log.catalog.writing():
        for second in range(0, 60, 2):
            log.appending.append_to(ids[0], [event(second)], None, wall())
        for second in range(0, 60, 2):
            log.appending.append_to(ids[1], [event(second)], None, wall())
    live = live_on(log, wall, batch_records=5)
    while live.work():
        wall.now += 40_000  # each turn takes longer than the patience
    live.finish()
    assert live.run.ledger["events"].late == 0
    live.close()


def test_a_quiet_step_is_taken_when_it_closes_a_window_and_not_before(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1)])
    plan = plan_of(lambda e: e.window(hr.tumbling(hr.minutes(60)), by=["k"]).aggregate(n="COUNT(*)"))
    live = live_on(log, wall, plan, Patience(idle_after=1_000, close_quiet_after=1_000))
    for _ in range(500):
        live.work()
        wall.now += 1_000
    live.commit()
    assert len(written(log, "counting.clock")) == 1
    wall.now += 3_600_000
    live.work()
    live.commit()
    assert [row["n"] for row in written(log)] == [1]
    assert len(written(log, "counting.clock")) == 2
    live.close()


def test_a_silent_source_of_a_union_holds_nothing_back_for_ever(log: SqliteLog, wall: Wall) -> None:
    @hr.pipeline("both", version="1")
    def both() -> dict[str, hr.Stream]:
        sources = [
            hr.stream(topic, schema={"k": "STRING", "t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(5))
            for topic in ("left", "right")
        ]
        return {"counts": sources[0].union(sources[1]).window(hr.tumbling(hr.seconds(10)), by=["k"]).aggregate(n="COUNT(*)")}

    log.create("left")
    log.create("right")
    live = live_on(log, wall, both.plan())
    for second in range(0, 100, 5):
        log.append("left", [event(second)])
        live.work()
        wall.now += 5_000
    log.append("right", [event(3), event(96)])
    live.work()
    live.finish()
    live.commit()
    assert sum(row["n"] for row in written(log)) == 21
    assert len({(row["k"], row["window_start"]) for row in written(log)}) == len(written(log)) == 10
    assert live.run.ledger["right"].late == 1
    live.close()


def test_after_a_failed_commit_nothing_more_is_committed(log: SqliteLog, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    log.create("events")
    log.append("events", [event(1), event(30)])
    live = live_on(log, wall)
    live.work()
    with monkeypatch.context() as broken:
        broken.setattr(log.retention, "expire", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            live.commit()
    with pytest.raises(InternalError, match="a commit has failed"):
        live.commit()
    live.close()
    run_for(live_on(log, wall), wall, 1)
    assert [row["n"] for row in written(log)] == [1]


# Commits


def test_output_is_committed_at_once_and_quiet_work_within_the_interval(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    live = live_on(log, wall)
    live.commit()
    log.append("events", [event(1)])
    live.work()
    assert not live.due(1.0)
    wall.now += 1_000
    assert live.due(1.0)
    log.append("events", [event(30)])
    live.work()
    assert live.due(60.0)
    live.commit()
    assert not live.due(60.0)
    wall.now += 86_400_000
    assert live.due(60.0)
    live.close()


def test_a_commit_says_what_was_done(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1), event(30)])
    said: list[Committed] = []
    run_live(live_on(log, wall), Limits(duration=1), sleep=wall.sleep, committed=said.append)
    assert (said[0].epoch, said[0].received, said[0].written, said[0].lag) == (1, 2, 1, 0)
    assert said[0].watermarks == {"events": START + 25_000}
    assert said[0].ledger["events"]["accepted"] == 2


def test_what_was_buffered_is_stored_once(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    live = live_on(log, wall)
    sizes = []
    for second in range(8):
        log.append("events", [event(second / 10, value=place) for place in range(1_000)])
        live.work()
        sizes.append(live.commit().state_bytes)
    assert max(sizes[4:]) < 1.5 * min(sizes)
    live.close()


def test_a_run_without_end_keeps_no_more_state(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    live = live_on(log, wall)
    held = []
    for second in range(0, 1_200, 5):
        log.append("events", [event(second, key) for key in "abc"])
        live.work()
        live.commit()
        held.append(log.file.db.execute("SELECT COUNT(*), SUM(LENGTH(data)) FROM state").fetchone())
    assert max(count for count, _ in held[200:]) <= max(count for count, _ in held[20:100])
    assert max(size for _, size in held[200:]) <= 1.2 * max(size for _, size in held[20:100])
    live.close()


def test_keys_of_what_windows_give_choose_the_partition(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.create("counts", 3)
    log.append("events", [event(second, key) for second in (1, 11, 21) for key in "abcdefgh"])
    run_live(live_on(log, wall, latest=True), sleep=wall.sleep)
    places: dict[bytes | None, set[int]] = {}
    for number in range(3):
        for entry in log.entries("counts", number, 0, 99):
            assert entry.key == json.loads(entry.value)["k"].encode()
            places.setdefault(entry.key, set()).add(number)
    assert len(places) == 8
    assert all(len(numbers) == 1 for numbers in places.values())
    assert len(set.union(*places.values())) == 3


# What is refused


def test_a_topic_that_is_not_there(log: SqliteLog, wall: Wall) -> None:
    with pytest.raises(PlanError, match=r"no topic 'events'.*headrace topics create"):
        live_on(log, wall)
    log.create("event")
    with pytest.raises(PlanError, match=r"no topic 'events'.*did you mean 'event'"):
        live_on(log, wall)


def test_a_second_run_of_a_pipeline(log: SqliteLog, wall: Wall, tmp_path: Path) -> None:
    log.create("events")
    first = live_on(log, wall)
    other = SqliteLog(tmp_path / "home" / "log.db")
    with pytest.raises(EnvironmentFault, match=r"pipeline counting: is run by process \d+ already; end that one first"):
        live_on(other, wall)
    first.close()
    live_on(other, wall).close()
    other.close()


def test_a_run_that_lost_its_pipeline_cannot_commit(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    zombie = live_on(log, wall)
    zombie.claim._lock.close()  # as if its lock had been lost
    other = live_on(log, wall)
    log.append("events", [event(1), event(30)])
    zombie.work()
    with pytest.raises(EnvironmentFault, match=r"pipeline counting: belongs to process \d+ on .* now"):
        zombie.commit()
    assert written(log) == []
    other.work()
    other.commit()
    assert len(written(log)) == 1
    other.close()


@pytest.mark.parametrize(("change", "said"), [("version", "version '1', not '2'"), ("sources", "1 partitions of topic events, not 2")])
def test_state_of_another_pipeline(change: str, said: str, log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    run_for(live_on(log, wall), wall, 1)
    if change == "sources":
        log.delete("events")
        log.create("events", 2)
    plan = plan_of(version="2" if change == "version" else "1")
    with pytest.raises(EnvironmentFault, match=f"state of pipeline counting: was made with .*{said}.*--anew"):
        live_on(log, wall, plan)
    live_on(log, wall, plan, anew=True).close()


def test_state_of_another_format(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    run_for(live_on(log, wall), wall, 1)
    manifest = msgspec.json.decode(log.manifest("counting")) | {"format": 99}
    claim = log.claim("counting")
    claim.commit(Commit(msgspec.json.encode(manifest), {}, [], [], {}))
    claim.release()
    with pytest.raises(EnvironmentFault, match="is of format 99, not"):
        live_on(log, wall)


@pytest.mark.parametrize("what", ["manifest", "state"])
def test_state_damaged_by_a_byte(what: str, log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1)])
    run_for(live_on(log, wall), wall, 1)
    table, column = ("pipelines", "manifest") if what == "manifest" else ("state", "data")
    (data,) = log.file.db.execute(f"SELECT {column} FROM {table}").fetchone()
    log.file.db.execute(f"UPDATE {table} SET {column} = ?", (data[:9] + bytes([data[9] ^ 1]) + data[10:],))
    with pytest.raises(EnvironmentFault, match=r"is damaged.*--anew"):
        live_on(log, wall)
    live_on(log, wall, anew=True).close()  # nor is the pipeline still owned


def test_records_that_the_topic_has_dropped_before_they_were_read(log: SqliteLog, wall: Wall) -> None:
    log.create("events", retention_ms=1_000)
    log.append("events", [event(1)])
    run_for(live_on(log, wall), wall, 1)
    for second in range(3):
        wall.now += 20_000
        log.append("events", [event(second)])
    live = live_on(log, wall)
    with pytest.raises(EnvironmentFault, match=r"events partition 0: has kept no records before 3; 1 was to be read next; .*--anew"):
        live.work()
    live.close()


def test_a_topic_deleted_while_it_is_read(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1)])
    live = live_on(log, wall)
    live.work()
    log.delete("events")
    with pytest.raises(EnvironmentFault, match="topic 'events': has been deleted"):
        live.work()
    live.close()


def test_a_disk_that_is_full_at_a_commit_leaves_the_last_one(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    log.append("events", [event(1), event(30)])
    live = live_on(log, wall)
    live.work()
    (pages,) = log.file.db.execute("PRAGMA page_count").fetchone()
    log.file.db.execute(f"PRAGMA max_page_count = {pages}")
    live._staged.say("counts", b'{"x":"' + b"x" * 100_000 + b'"}', 1, None)
    with pytest.raises(EnvironmentFault, match=r"log.db: cannot be written: the disk is full; make room"):
        live.commit()
    live.close()
    log.file.db.execute("PRAGMA max_page_count = 1000000")
    assert written(log) == []
    run_for(live_on(log, wall), wall, 1)
    assert [row["n"] for row in written(log)] == [1]


def test_a_message_of_10_mb_beside_small_ones(log: SqliteLog, wall: Wall) -> None:
    log.create("events")
    great = json.dumps({"k": "b", "t": START + 1_000, "v": 1, "junk": "x" * 10_000_000}).encode()
    log.append("events", [event(1), great, event(2), b"x" * 10_000_000])
    ledger = run_live(live_on(log, wall, latest=True), sleep=wall.sleep)
    assert (ledger["events"].accepted, ledger["events"].malformed) == (3, 1)
    assert {row["k"]: row["n"] for row in written(log)} == {"a": 2, "b": 1}
