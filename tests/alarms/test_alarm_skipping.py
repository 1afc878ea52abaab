"""Readings that an alarm process is not called with change nothing: the bytes and the state are those of a process that is called with each."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alarms.alarm_plant import START, TOPICS, command, definition, plan_of, reading
from engines.embedded.test_live import Wall, live_on
from engines.embedded.test_processes import run, written_files
from engines.embedded.test_processes_live import FAR, add, topics_of
from headrace.alarms.process import TagAlarms
from headrace.plan.pipeline import Plan
from headrace.topics.sqlite import SqliteLog

TAGS = ("a/P1", "a/P2", "b/P3", "b/P4")
NEVER = 10**9
SEEDS = [*range(6), *[pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 400)]]
KINDS: tuple[dict[str, Any], ...] = (
    {"kind": "H", "limit": 90.0}, {"kind": "HH", "limit": 95.0}, {"kind": "L", "limit": 20.0}, {"kind": "LL", "limit": 10.0},
    {"kind": "deviation", "limit": 30.0, "setpoint": 55.5}, {"kind": "state_mismatch", "expected": 50.0}, {"kind": "bad_quality"},
    {"kind": "no_data", "after": 8.0}, {"kind": "no_data", "after": 2.5}, {"kind": "custom"}, {"kind": "frozen", "after": 4.0},
    {"kind": "rate_of_change", "limit": 30.0},
)  # fmt: skip


@contextmanager
def skipping(*, code: Any = TagAlarms, at_once: int = 40, again: int = 7, per_key: int = 1) -> Iterator[list[int]]:
    """Have so many readings judged at once; yield the calls with a reading."""
    calls: list[int] = []
    called = code.on_record

    def counted(self: Any, row: Any, state: Any) -> Any:
        calls.append(row["time"])
        return called(self, row, state)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_AT_ONCE": at_once, "_AGAIN": again, "_PER_KEY": per_key}.items():
            patch.setattr(f"headrace.engines.embedded.skipping.{name}", value)
        patch.setattr(code, "on_record", counted)
        yield calls


def drawn(dice: random.Random, tag: str, number: int) -> dict[str, Any]:
    """Return a definition with some of the settings that its kind can have."""
    kind = dice.choice(KINDS)
    more: dict[str, Any] = {"on_delay": dice.choice([0, 0, 3.0]), "off_delay": dice.choice([0, 0, 2.0]), "latching": dice.random() < 0.2}
    if "limit" in kind:
        more["deadband"] = dice.choice([0, 5.0])
    if dice.random() < 0.3:
        more |= {"escalate_after": 15.0, "escalate_to": 1}
    if kind["kind"] in {"H", "L", "bad_quality", "state_mismatch"} and dice.random() < 0.3:
        more |= {"k": 2, "n": 3}
    return {"definition": f"{kind['kind']}{number}", "tag": tag, **kind, **more}


def happened(seed: int, count: int = 400) -> dict[str, list[bytes]]:
    """Return readings that mostly stay where they are, and now and then an excursion, a gap, disorder, bad quality, a command, a change of definitions."""
    dice = random.Random(seed)
    found: dict[str, list[bytes]] = {topic: [] for topic in TOPICS}
    names: list[tuple[str, str]] = []
    for tag in TAGS:
        for number in range(dice.choice([1, 1, 2])):
            one = drawn(dice, tag, number)
            names.append((tag, one["definition"]))
            found["alarm-definitions"].append(definition(-1, **one))
    second, out = 0.0, dict.fromkeys(TAGS, 0)
    for _ in range(count):
        second = round(second + dice.choice([0.0, 0.25, 0.25, 0.5] if dice.random() < 0.99 else [3.0, 12.0]), 3)
        tag = dice.choice(TAGS)
        out[tag] = max(0, out[tag] - 1) or (dice.randint(1, 8) if dice.random() < 0.02 else 0)
        value = dice.choice([91.0, 96.0, 5.0, 90.0, None]) if out[tag] else dice.choice([50.0, 50.0, 55.0, 60.5, 50.0])
        late, quality = (0.7, 0x80000000) if dice.random() < 0.03 else (0, dice.choice([None, 0]))
        found["readings"].append(reading(second - late, value, tag, quality))
        if dice.random() < 0.02:
            tag, name = dice.choice(names)
            what = dice.choice(["acknowledge", "reset", "shelve", "unshelve", "suppress", "unsuppress", "out_of_service", "in_service"])
            ends = {} if what != "shelve" else dice.choice([{"one_shot": True}, {"until": START + round((second + 5) * 1000)}])
            found["alarm-commands"].append(command(second, what, name, tag, **ends))
        if dice.random() < 0.01:
            tag, name = dice.choice(names)
            row = {"tag": tag, "definition": name, "time": START + round(second * 1000), "active": dice.random() < 0.5, "value": 1.0}
            found["alarm-conditions"].append(json.dumps(row).encode())
        if dice.random() < 0.004:
            tag, name = dice.choice(names)
            changed = {"withdrawn": True, "definition": name, "tag": tag} if dice.random() < 0.3 else drawn(dice, tag, 0)
            found["alarm-definitions"].append(definition(second, **changed))
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_over_files_the_bytes_are_those_of_a_process_that_is_called_with_every_reading(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    order, place = ("arrival", "event_time")[seed % 2], ("metadata", None)[seed // 2 % 2]
    plan = plan_of(order=order, clock=seed % 3 > 0, delay_ms=dice.choice([0, 1_000]), place=place)
    files = written_files(tmp_path, {topic: [lines] for topic, lines in happened(seed).items()})
    with skipping(per_key=NEVER) as every:
        wanted = run(plan, files)
    with skipping(at_once=dice.choice([16, 60, 200])) as needed:
        got = run(plan, files, random.Random(seed))
    assert got == wanted
    assert wanted[0]["alarms"]
    assert len(needed) < len(every)


def fed(log: SqliteLog, wall: Wall, seed: int, lag_ms: int) -> None:
    """Append what happens to the topics in the order of its times, each a moment after it has happened."""
    every = [(json.loads(line)["time"], topic, line) for topic, lines in happened(seed, 250).items() for line in lines]
    for topic in TOPICS:
        log.create(topic)
    for time, topic, line in sorted(every, key=lambda one: one[0]):
        wall.now = time + lag_ms
        add(log, topic, [line])


def over_topics(
    plan: Plan, feed: Callable[[SqliteLog, Wall], None], folder: Path, *, records: int, code: Any = TagAlarms
) -> dict[str, tuple[Any, dict[Any, Any], int]]:
    """Return the topics, the state and the number of calls of a run that calls the process with every reading, and of one that does with those needed.

    A turn has so many records.
    """
    found = {}
    for name, per_key in {"every": NEVER, "needed": 1}.items():
        wall = Wall(START - 2_000)
        log = SqliteLog(folder / name / "log.db", clock=wall)
        feed(log, wall)
        wall.now = START - 2_000  # no timer of the clock is due before all is read
        with skipping(code=code, per_key=per_key) as calls:
            live = live_on(log, wall, plan, FAR)
            while live.work(records):
                live.commit()
            live.commit()
            keys = live.run.graph.stages[0].keyspace
            keys.take_touched()
            found[name] = topics_of(log, plan), dict(keys._stored), len(calls)
            live.close()
        log.close()
    return found


@pytest.mark.parametrize("seed", SEEDS[:3] + SEEDS[6:])
def test_over_topics_bytes_and_state_are_those_of_a_process_that_is_called_with_every_reading(seed: int, tmp_path: Path) -> None:
    found = over_topics(plan_of(clock=seed % 2 == 0), lambda log, wall: fed(log, wall, seed, 40 * (seed % 3)), tmp_path, records=30)
    assert found["needed"][:2] == found["every"][:2]
    assert found["every"][0]["alarms"]
    assert found["needed"][2] < found["every"][2]
