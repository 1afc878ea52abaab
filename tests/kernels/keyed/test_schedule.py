"""The scheduler calls a process in the order of a plain sort of all events, however a host stores, cuts and deals what is due."""

# ruff: noqa: ARG001 (each host takes the same)

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import chain, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from headrace.kernels.keyed.process import Place, ProcessKernel
from headrace.kernels.keyed.schedule import (
    BROADCAST,
    RECORDS,
    Emission,
    Record,
    Scheduler,
    as_numbers,
    as_text,
    keys_as_numbers,
    keys_as_text,
    merged,
    ordered,
    overdue,
)
from headrace.kernels.keyed.shared import Shared, Versions
from headrace.kernels.keyed.values import key_code

KEYS = ("a", "b", "ba", None)


class Note:
    """Notes what it is called with, and the rule that holds; of its ttl value only that it is there costs something."""

    output = {"what": "STRING", "rule": "STRING"}
    state = {"seen": hr.Value("BIGINT", 0, ttl=hr.milliseconds(7)), "count": hr.Value("BIGINT", 0)}
    shared = {"rule": hr.Value("STRING", "none")}

    def on_record(self, row, state):
        state.count += 1
        state.seen = 1
        for name, after in row["timers"].items():
            state.set_timer(name, row["at"] + after)
        return {"what": row["what"], "rule": state.shared.rule}

    def on_other(self, row, state):
        return self.on_record(row, state)

    def on_timer(self, name, state):
        return {"what": name, "rule": state.shared.rule}

    def on_broadcast(self, row, shared):
        before, shared.rule = shared.rule, row["what"]
        yield {"k": row["k"], "what": f"rule {row['what']}", "rule": before}


here = hr.stream("readings", schema={"k": "STRING", "t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
others = hr.stream("others", schema={"k": "STRING", "t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
rules = hr.stream("rules", schema={"k": "STRING", "t": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")


def scheduler(order: str = "event_time") -> Scheduler:
    operator = here.process(Note, by=["k"], broadcast=rules, inputs={"other": hr.input(others)}, order=order).operator
    return Scheduler(ProcessKernel(operator), lambda record: Place("readings", record[3], record[4]))


@st.composite
def events(draw: st.DrawFn, *, arrival: bool) -> list[Record]:
    """Records of two inputs and broadcasts of several sources and partitions, several rows of some records, many of equal times; shuffled."""
    found: list[Record] = []
    shown, clock = 0, 0
    for number in range(draw(st.integers(0, 14))):
        source, partition, entry = draw(st.integers(0, 2)), draw(st.integers(0, 1)), [draw(st.integers(0, 2)), number]
        time, told = draw(st.integers(0, 9)), draw(st.integers(0, 3)) == 0
        shown, clock = max(shown, time), clock + draw(st.integers(0, 2))
        timers = {} if told else draw(st.dictionaries(st.sampled_from([f"{letter}{number}" for letter in "xyz"]), st.integers(0, 12), max_size=2))
        row = {"k": draw(st.sampled_from(KEYS)), "what": f"{number}", "at": time, "timers": timers}
        at, due = (number, clock) if arrival else (time, time)
        key = None if told else (row["k"],)
        other = draw(st.sampled_from([RECORDS, RECORDS, 2] if arrival else [RECORDS, RECORDS, 2, overdue(2)]))
        found.append((at, BROADCAST if told else other, source, partition, number // 2, entry, due, time, None, key, row))
    return draw(st.permutations(found))


def sorted_events(records: list[Record], end: int, *, arrival: bool) -> list[tuple[Any, ...]]:
    """The specification: (key, time, what, rule) of all that is given, by one sort of all records, broadcasts and timers."""
    inputs = sorted(records, key=lambda record: (record[0], record[1], record[2:6]))
    clocks = [*(record[6] for record in inputs), end]
    steps: list[tuple[Any, ...]] = []
    for place, (at, number, source, partition, offset, entry, _, time, _, key, row) in enumerate(inputs):
        order = (place, 0) if arrival else (at, number, source, partition, offset, entry)
        steps.append((order, "rule" if key is None else "record", (row["k"],), time, row["what"]))
        for name, after in row["timers"].items():
            due = time + after
            before = next((nth for nth in range(place + 1, len(clocks)) if clocks[nth] > due), None) if arrival else due
            if before is not None and due < end:
                steps.append(((before, -1, due, key_code(key), name) if arrival else (due, 9, key_code(key), name), "timer", key, due, name))
    rule, given_, times = "none", [], {}
    for _, kind, key, time, what in sorted(steps, key=lambda step: step[0]):
        if kind == "rule":
            given_.append((key, time, f"rule {what}", rule))
            rule = what
        else:  # a timer set in the past goes off at its key's time
            times[key] = time if kind == "record" else max(time, times[key])
            given_.append((key, times[key], what, rule))
    return given_


def taken(work: Scheduler, emissions: Iterable[Emission], *, first: bool = True) -> list[tuple[Any, ...]]:
    """What is given, with what orders it among all of its time, in both forms: (key, time, what, rule, numbers, text).

    Of several that apply a broadcast record, the first alone emits its rows.
    """
    rows: list[tuple[Any, ...]] = []
    for _, record in emissions:
        if record is not None and record[1] == BROADCAST and not first:
            work.given.clear()
        for nth, (_, time, key, values) in enumerate(work.given):
            rows.append((key, time, *values, as_numbers(record, key_code(key), nth), as_text(_with_text(record), key_code(key), nth)))
        work.given.clear()
    return rows


def _with_text(record: Record | None) -> Record | None:
    return record if record is None else (*record[:5], "".join(f"{number:08x}" for number in record[5]), *record[6:])  # type: ignore[return-value]


def without_order(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [row[:4] for row in rows]


def at_once(records: list[Record], end: int, dice: random.Random, order: str) -> list[tuple[Any, ...]]:
    work = scheduler(order)
    return taken(work, chain(work.run(ordered(records)), work.advance(end)))


def as_runs(records: list[Record], end: int, dice: random.Random, order: str) -> list[tuple[Any, ...]]:
    """As sorted runs: what is broadcast in one, the others in one for each partition."""
    names = {(record[1], record[3] if record[1] else 0) for record in records} or {(RECORDS, 0)}
    runs = [
        ordered(record for record in records if (record[1], record[3] if record[1] else 0) == name) for name in dice.sample(sorted(names), len(names))
    ]
    work = scheduler(order)
    return taken(work, chain(work.run(merged(*runs)), work.advance(end)))


def stopped(records: list[Record], end: int, dice: random.Random, order: str) -> list[tuple[Any, ...]]:
    """As the clock moves, and with kills: what is due is brought in any order, the keys are stored and loaded again."""
    work, rows, parts = scheduler(order), [], []
    for before, clock in pairwise([-1, *sorted({dice.randrange(end + 1) for _ in range(3)}), end]):
        due = [record for record in records if before <= record[0] < clock or (before < 0 and record[0] < clock)]
        rows += taken(work, chain(work.run(ordered(dice.sample(due, len(due)))), work.advance(clock)))
        if dice.random() < 0.5:
            parts.append(work.keys.encoded(work.keys.take_touched()))
            shared, work = work.keys.shared.encode(), scheduler(order)
            work.keys.load(parts)
            work.keys.wake(migrate=False)
            work.keys.restore_shared(shared)
    return rows


def in_slots(records: list[Record], end: int, dice: random.Random, order: str) -> list[tuple[Any, ...]]:
    """Keys dealt to slots, each of which is told all that is broadcast; then put in order by what orders the rows."""
    slots = {key: dice.randrange(2) for key in KEYS}
    rows = []
    for slot in range(2):
        work = scheduler(order)
        mine = [record for record in records if record[9] is None or slots[record[9][0]] == slot]
        rows += taken(work, chain(work.run(ordered(mine)), work.advance(end)), first=slot == 0)
    return in_order(rows)


def key_by_key(records: list[Record], end: int, dice: random.Random, order: str) -> list[tuple[Any, ...]]:
    """One key at a time, stored as bytes between the clocks, and the shared state by its times; then put in order."""
    work, rows = scheduler(order), []
    declared = work.kernel.operator.declared
    work.keys.versions, shared = Versions(declared), Shared(declared)
    for record in ordered(record for record in records if record[9] is None):
        assert work.kernel.broadcast(shared, record[-1], record, record[7], work.given)
        rows += taken(work, [(record[0], record)])
        work.keys.versions.add(record[0], shared.encode(), -1)
    stored: dict[Any, bytes | None] = {}
    for before, clock in pairwise([-1, dice.randrange(end), end]):
        for key in dice.sample(KEYS, len(KEYS)):
            state = work.keys.hold((key,), stored.get(key))
            due = [record for record in records if record[9] == (key,) and before <= record[0] < clock]
            rows += taken(work, chain(work.run(ordered(due)), work.advance(clock)))
            stored[key] = work.kernel.keep.encode(state)
    return in_order(rows)


def in_order(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    by_numbers = sorted(rows, key=lambda row: (row[1], row[4]))
    assert by_numbers == sorted(rows, key=lambda row: (row[1], row[5]))
    return by_numbers


Host = Callable[[list[Record], int, random.Random, str], list[tuple[Any, ...]]]


@pytest.mark.parametrize("host", [at_once, as_runs, stopped, in_slots, key_by_key])
@settings(max_examples=60)
@given(records=events(arrival=False), end=st.integers(1, 25), seed=st.integers(0, 999))
def test_by_event_time_it_is_a_sort_of_all_events(records: list[Record], end: int, seed: int, host: Host) -> None:
    end = max([end, *(record[0] + 1 for record in records)])
    rows = host(records, end, random.Random(seed), "event_time")
    assert without_order(rows) == sorted_events(records, end, arrival=False)
    assert in_order(rows) == rows


@pytest.mark.parametrize("host", [at_once, as_runs])
@settings(max_examples=60)
@given(records=events(arrival=True), seed=st.integers(0, 999))
def test_in_the_order_of_arrival_the_place_in_the_input_takes_the_part_of_the_time(records: list[Record], seed: int, host: Host) -> None:
    end = max((record[6] for record in records), default=0) + 9
    assert without_order(host(records, end, random.Random(seed), "arrival")) == sorted_events(records, end, arrival=True)


@pytest.mark.parametrize("order", ["event_time", "arrival"])
def test_a_record_that_is_broadcast_too_is_broadcast_first(order: str) -> None:
    at = 3 if order == "event_time" else (3, 0, 0, 7, [])  # as Spark has the place in the input
    record = (at, RECORDS, 0, 0, 7, [], 3, 3, None, ("a",), {"k": "a", "what": "both", "at": 3, "timers": {}})
    broadcast = (at, BROADCAST, *record[2:9], None, record[10])
    for records in (ordered([record, broadcast]), merged([record], [broadcast]), merged([broadcast], [record])):
        work = scheduler(order)
        assert without_order(taken(work, work.run(records))) == [(("a",), 3, "rule both", "none"), (("a",), 3, "both", "both")]


keys = st.none() | st.text(max_size=3) | st.integers(-(2**63), 2**63 - 1)


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.none() | st.text(max_size=3)), unique=True))
def test_rows_of_windows_are_ordered_by_their_keys_null_first_in_both_forms(rows: list[tuple[int, str | None]]) -> None:
    wanted = sorted(rows, key=lambda row: (row[0], row[1] is not None, [ord(letter) for letter in row[1] or ""]))
    assert sorted(rows, key=keys_as_numbers) == wanted
    assert sorted(rows, key=keys_as_text) == wanted


@given(left=keys, right=keys)
def test_both_forms_order_keys_of_one_type_alike(left: Any, right: Any) -> None:
    if type(left) is type(right) or left is None or right is None:
        assert (keys_as_numbers([left]) < keys_as_numbers([right])) == (keys_as_text([left]) < keys_as_text([right]))


def test_of_a_record_with_several_rows_it_is_known_whether_any_row_was_answered() -> None:
    kernel = ProcessKernel(here.deduplicate(by=["k"], within=hr.seconds(1)).node.input.operator)
    work = Scheduler(kernel, lambda record: Place("readings", 0, record[4]))
    rows = [("a", 0), ("a", 1), ("a", 1), ("b", 1), ("b", 2)]  # key, offset
    records = [(1, RECORDS, 0, 0, offset, [nth], 1, 1, None, (key,), {"k": key, "t": 1}) for nth, (key, offset) in enumerate(rows)]
    for _ in work.run(records):
        work.given.clear()
    assert work.take_answered() == [((0, 0, 0), True), ((0, 0, 1), True), ((0, 0, 2), False)]
    assert work.take_answered() == []
