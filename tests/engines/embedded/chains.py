"""Plans of processes behind processes and with several inputs, for the engines that host them, and records for them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import headrace as hr
from engines.embedded.processes import PLAIN, Commanded, Machine, Told, Unruled, line
from headrace.plan.pipeline import Plan

DEEDS = [*PLAIN, *(f"timer:{after}:{name}" for after in (0, 500, 2000, 5000) for name in ("p", "q:then:timer:1000:p", "w:then:aside:y"))]
COLUMNS = {"k": "STRING", "t": "BIGINT", "x": "DOUBLE", "do": "STRING", "m": "MAP<STRING, DOUBLE>"}


def source(topic: str = "one") -> hr.Stream:
    return hr.stream(topic, schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(2))


def machine(rows: hr.Stream, name: str, by: str = "k", **more: Any) -> Any:
    """Return a machine over rows, which tells all that comes to it in what order."""
    return rows.process(Machine() if "broadcast" in more else Unruled(), by=[by], name=name, **more)


def to_one(rows: hr.Stream, said: str = "said") -> hr.Stream:
    """Return rows that all have one key, and tell what they were."""
    return rows.select(k="'all'", x="1.0", do=f"COALESCE(k, '-') || ' ' || {said}")


def records(seed: int, count: int) -> list[bytes]:
    """Return records of which many are of one time, late or malformed."""
    dice, second, found = random.Random(seed), 0.0, []
    for _ in range(count):
        second += dice.choice([0, 0, 0, 0.5, 1, 3, 9])
        at = second - dice.choice([0, 0, 0, 0, 1, 2, 2.5, 6])
        one = line(at, dice.choice(["a", "b", "c", None]), dice.choice(DEEDS), dice.choice([1.0, 1.5, 3.0, None]))
        m = ", ".join(f'"{key}": {dice.random()}' for key in sorted(dice.sample(["p", "q", "r", "s"], 3)))
        found.append(b"{" if dice.random() < 0.03 else one[:-1] + f', "m": {{{m}}}}}'.encode())
    return found


# Windows and processes over derived rows


def over_windows() -> dict[str, hr.Stream]:
    """Windows over windows and over what is gathered or ranked of them, and rows of several windows joined: Flink SQL and no more."""
    rows = source()
    counts = rows.window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)", x="MAX(x)")
    long = (
        counts.where("n > 0")
        .window(hr.sliding(hr.seconds(16), hr.seconds(8)), by=["k"])
        .aggregate(n="SUM(n)", all="COUNT(*)", last="MAX(window_end)")
    )
    both = counts.select("k", "n", what="'short'").union(long.select("k", "n", what="'long'"))
    return {
        "counts": counts,
        "long": long,
        "both": both,
        "of-both": both.window(hr.cumulating(hr.seconds(24), hr.seconds(8)), by=["what"]).aggregate(n="SUM(n)", all="COUNT(*)"),
        "longest": long.window(hr.tumbling(hr.seconds(32), offset=hr.seconds(4))).aggregate(n="MAX(n)", last="MAX(last)"),
        "of-gathered": counts.aggregate(by=[], n="SUM(n)").window(hr.tumbling(hr.seconds(16))).aggregate(n="AVG(n)", all="COUNT(*)"),
        "of-ranked": counts.top_n(1, order="n DESC").window(hr.tumbling(hr.seconds(16)), by=["k"]).aggregate(n="SUM(n)", all="COUNT(*)"),
    }


def layered() -> dict[str, hr.Stream]:
    """Windows over windows into a process, a process's rows joined with those of windows, and a window and a process that are broadcast."""
    rows = source()
    counts = rows.window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)", x="MAX(x)")
    long = counts.window(hr.tumbling(hr.seconds(8)), by=["k"]).aggregate(n="SUM(n)", all="COUNT(*)")
    first = machine(rows.select("k", "x", "do"), "first")
    both = long.select("k", what="'long'").union(first.select("k", what="said"), counts.select("k", what="'short'"))
    told = counts.select("k", "x", do="'limit ' || COALESCE(k, '-')")
    behind = first.select(k="'all'", x="1.0", do="said").window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)")
    return {
        "slid": machine(to_one(long, "TRY_CAST(n AS STRING)"), "slid"),
        "both": both,
        "joined": machine(to_one(both, "what"), "joined"),
        "of-both": both.window(hr.tumbling(hr.seconds(16)), by=["k"]).aggregate(n="COUNT(*)", what="MIN(what)"),
        "twice": behind.window(hr.tumbling(hr.seconds(12)), by=["k"]).aggregate(n="SUM(n)"),
        "ruled": machine(rows.select("k", "x", "do"), "ruled", broadcast=told),
        "by-process": machine(source("two").select("k", "x", "do"), "by_process", broadcast=first.select("k", x="2.0", do="said")),
    }


# Several inputs


def rows_of(topic: str) -> hr.Stream:
    return source(topic).select("k", "x", "do")


def told(code: Any, first: hr.Stream, **more: Any) -> Any:
    """Return what is told of commands, which are all taken, and of limits, which may be late."""
    inputs = {
        "command": hr.input(rows_of("commands"), late="take", holds=False),
        "limit": hr.input(rows_of("limits").derive(name="k"), by="name", late="side", late_to="late"),
    }
    return first.process(code, by=["k"], name="told", inputs=inputs, **more)


def records_of_all() -> dict[str, hr.Stream]:
    """Rows of all inputs go on to a process of one key, in their order."""
    made = told(Told, rows_of("one"))
    return {"out": made, "aside": made.side("aside"), "behind": machine(to_one(made), "behind")}


def ruled() -> dict[str, hr.Stream]:
    """There is a broadcast too, and failures."""
    rules = rows_of("rules")
    return {"out": told(Commanded, rows_of("one").derive(do="IF(do LIKE 'last%', 'fail', do)"), broadcast=rules, failed_to="failed")}


def of_one_topic() -> dict[str, hr.Stream]:
    """Records and commands stand in one topic, and some are both."""
    rows = rows_of("one")
    inputs = {
        "command": hr.input(rows.where("x > 1"), late="take", holds=False),
        "limit": hr.input(rows.where("x IS NULL").derive(do="'limit'")),
    }
    return {"out": rows.where("x < 3").process(Told, by=["k"], inputs=inputs)}


def of_windows() -> dict[str, hr.Stream]:
    """Windows are acknowledged by commands, and rules are broadcast to them."""
    counts = source("one").window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)")
    rows = counts.select("k", x="n * 1.0", do="'timer:1500:q'")
    return {"out": told(Commanded, rows, broadcast=rows_of("rules"))}


PLANS: dict[str, Callable[[], dict[str, hr.Stream]]] = {one.__name__: one for one in (records_of_all, ruled, of_one_topic, of_windows)}


def input_jobs() -> dict[str, tuple[Plan, dict[str, list[list[bytes]]]]]:
    found = {}
    for number, (name, build) in enumerate(PLANS.items()):
        plan = hr.pipeline(f"inputs-{name}".replace("_", "-"), version="1")(build).plan()
        found[name] = (
            plan,
            {one.topic: [records(random.Random(f"{number} {one.topic} {part}").randrange(10**6), 40) for part in (0, 1)] for one in plan.sources},
        )
    return found
