"""Windows and processes downstream of windows give what a second pipeline gives that reads the first one's output from a topic."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.pipelines import START, Steps, events, record

WINDOWS = {
    "tumbling": hr.tumbling(hr.seconds(20)), "longer": hr.tumbling(hr.seconds(70)), "sliding": hr.sliding(hr.seconds(60), hr.seconds(20)),
    "cumulating": hr.cumulating(hr.seconds(90), hr.seconds(30)), "shifted": hr.tumbling(hr.minutes(1), offset=hr.seconds(7)),
    "days": hr.tumbling(hr.days(1), zone="Europe/Berlin"),
}  # fmt: skip
OUTER = {"n": "COUNT(*)", "rows": "SUM(rows)", "mean": "AVG(x)", "all": "ARRAY_AGG(x)", "last": "MAX(window_end)", "first": "FIRST_VALUE(x)"}


def inner(window: hr.Window, plant: hr.Stream | None = None) -> hr.Stream:
    return (plant or events("plant", 4)).window(window, by=["k", "n"]).aggregate(x="AVG(x)", rows="COUNT(*)")


def later(rows: hr.Stream, window: hr.Window) -> hr.Stream:
    return rows.where("rows > 0").window(window, by=["k"]).aggregate(**OUTER)


def lines(seed: int, count: int) -> list[dict[str, Any]]:
    chance, now, found = random.Random(seed), START, list[dict[str, Any]]()
    for _ in range(count):
        now += chance.choice([0, 40, 900, 8_000])
        found.append(record(chance, "plant", now - chance.choice([0, 0, 2_000, 9_000])))  # type: ignore[arg-type]
    return found


def written() -> hr.Stream:
    schema = {
        "k": "STRING",
        "n": "BIGINT",
        "x": "DOUBLE",
        "rows": "BIGINT",
        "window_start": "TIMESTAMP_LTZ(3)",
        "window_end": "TIMESTAMP_LTZ(3)",
        "t": "BIGINT",
    }
    return hr.stream("short", schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(1))


def again(result: Any) -> list[dict[str, Any]]:
    """Return the rows of windows as records of the last ms of each."""
    return [
        {name: value for name, value in row.items() if name != "revision"} | {"t": round(row["window_end"].timestamp() * 1000) - 1}
        for row in result.rows()
    ]


@given(short=st.sampled_from([name for name in WINDOWS if name != "days"]), outer=st.sampled_from([*WINDOWS]), seed=st.integers(0, 10_000))
def test_windows_over_windows(short: str, outer: str, seed: int) -> None:
    @hr.pipeline("layers", version="1")
    def layers() -> dict[str, hr.Stream]:
        rows = inner(WINDOWS[short])
        return {"short": rows, "long": later(rows, WINDOWS[outer])}

    @hr.pipeline("second", version="1")
    def second() -> dict[str, hr.Stream]:
        return {"long": later(written(), WINDOWS[outer])}

    found = layers.run({"plant": lines(seed, 120)})
    assert found["long"].rows() == second.run({"short": again(found["short"])})["long"].rows()
    assert found.ledger["plant"]["late"] + found.ledger["plant"]["accepted"] == 120


class Latest:
    """Says the mean that a window had when a record came."""

    shared = {"means": hr.Map("DOUBLE")}
    output = {"mean": "DOUBLE", "x": "DOUBLE"}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        return {"mean": state.shared.means.get(str(row["k"])), "x": row["x"]}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> None:
        shared.means[str(row["k"])] = row["x"]


@given(seed=st.integers(0, 10_000))
def test_a_window_that_is_broadcast(seed: int) -> None:
    @hr.pipeline("telling", version="1")
    def telling() -> dict[str, hr.Stream]:
        plant = events("plant", 4)
        rows = inner(WINDOWS["tumbling"], plant)
        return {"short": rows, "seen": plant.process(Latest, by=["k"], broadcast=rows)}

    @hr.pipeline("told", version="1")
    def told() -> dict[str, hr.Stream]:
        return {"seen": events("plant", 4).process(Latest, by=["k"], broadcast=written())}

    plant = lines(seed, 120)
    found = telling.run({"plant": plant})
    assert found["seen"].rows() == told.run({"plant": plant, "short": again(found["short"])})["seen"].rows()
    assert found.ledger["plant"]["received"] == 120


class Lately(Latest):
    """The same of means that come to the keys."""

    shared: dict[str, Any] = {}
    on_broadcast = None  # type: ignore[assignment]
    state = {"mean": hr.Value("DOUBLE")}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        return {"mean": state.mean, "x": row["x"]}

    def on_mean(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        state.mean = row["x"]
        return {"mean": row["x"], "x": -99.0}

    def on_other(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        return {"mean": state.mean, "x": row["x"] or 0.5}


@settings(max_examples=12)
@given(window=st.sampled_from([name for name in WINDOWS if name != "days"]), seed=st.integers(0, 10_000))
def test_windows_and_processes_as_inputs_of_a_process(window: str, seed: int) -> None:
    @hr.pipeline("telling", version="1")
    def telling() -> dict[str, hr.Stream]:
        plant = events("plant", 4)
        rows = inner(WINDOWS[window], plant)
        lately = plant.process(Lately, by=["k"], inputs={"mean": hr.input(rows), "other": hr.input(events("calm", 1))}, name="lately")
        steps = plant.process(Steps, by=["k"]).select("k", x="step")
        inputs = {"mean": hr.input(steps), "other": hr.input(rows)}
        return {"short": rows, "seen": lately, "steps": steps, "of-steps": plant.process(Lately, by=["k"], inputs=inputs, name="of_steps")}

    @hr.pipeline("told", version="1")
    def told() -> dict[str, hr.Stream]:
        inputs = {"mean": hr.input(written()), "other": hr.input(events("calm", 1))}
        return {"seen": events("plant", 4).process(Lately, by=["k"], inputs=inputs)}

    plant, calm = lines(seed, 120), lines(seed + 1, 10)
    found = telling.run({"plant": plant, "calm": calm})
    assert found["seen"].rows() == told.run({"plant": plant, "calm": calm, "short": again(found["short"])})["seen"].rows()
    assert [row["mean"] for row in found["of-steps"].rows() if row["x"] == -99.0] == [row["x"] for row in found["steps"].rows()]
    assert found.ledger["plant"]["received"] == 120


def test_rows_of_windows_and_of_processes_are_joined_in_the_order_of_time() -> None:
    @hr.pipeline("joining", version="1")
    def joining() -> dict[str, hr.Stream]:
        plant = events("plant", 4)
        short, long = inner(WINDOWS["tumbling"], plant), inner(WINDOWS["longer"], plant)
        one, two = short.select("k", "x", "window_end"), long.select("k", "x", "window_end")
        return {"both": one.union(two), "short": one, "long": two}

    found = joining.run({"plant": lines(3, 300)})
    both = found["both"].rows()
    assert sorted(map(str, both)) == sorted(map(str, [*found["short"].rows(), *found["long"].rows()]))
    assert [row["window_end"] for row in both] == sorted(row["window_end"] for row in both)


@given(seed=st.integers(0, 10_000))
def test_the_first_rows_of_revised_windows_are_those_of_the_windows_as_they_are_at_last(seed: int) -> None:
    @hr.pipeline("ranking", version="1")
    def ranking() -> dict[str, hr.Stream]:
        rows = events("plant", 1).window(WINDOWS["sliding"], by=["k", "n"], allowed_lateness=hr.seconds(20)).aggregate(x="SUM(x)", rows="COUNT(*)")
        return {"windows": rows, "first": rows.top_n(2, order="x DESC", by=["k"])}

    found = ranking.run({"plant": lines(seed, 120)})
    windows, first = (last_of(found[topic], keys) for topic, keys in (("windows", ("k", "n")), ("first", ("k", "rank"))))
    groups: dict[Any, list[Any]] = {}
    for (key, _, end), row in windows.items():
        groups.setdefault((key, end), []).append(row)
    expected = {}
    for (key, end), rows in groups.items():
        rows.sort(key=lambda row: (row["x"] is None, -(row["x"] or 0.0), row["n"]))
        expected |= {(key, rank, end): (row["n"], row["x"]) for rank, row in enumerate(rows[:2], 1)}
    assert {place: (row["n"], row["x"]) for place, row in first.items()} == expected


def last_of(result: Any, keys: tuple[str, str]) -> dict[Any, dict[str, Any]]:
    """Return the rows that no later revision replaces."""
    return {(*(row[key] for key in keys), row["window_end"]): row for row in sorted(result.rows(), key=lambda row: row["revision"])}


class Seen:
    """Says what it takes of windows, and when."""

    output = {"at": "BIGINT", "rows": "BIGINT", "revision": "BIGINT"}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        return {"at": state.time - START, "rows": row["rows"], "revision": row["revision"]}


def test_a_process_takes_a_row_that_is_emitted_again_at_the_watermark_that_the_late_record_met() -> None:
    @hr.pipeline("seeing", version="1")
    def seeing() -> dict[str, hr.Stream]:
        rows = events("plant", 0).window(hr.tumbling(hr.seconds(10)), by=["k"], allowed_lateness=hr.minutes(1)).aggregate(rows="COUNT(*)")
        return {"seen": rows.process(Seen, by=["k"])}

    plant = [{"k": "a", "t": START + second * 1000} for second in (1, 25, 2, 31, 3, 40)]
    found = [(row["at"], row["rows"], row["revision"]) for row in seeing.run({"plant": plant})["seen"].rows()]
    assert found == [(9_999, 1, 0), (25_000, 2, 1), (29_999, 1, 0), (31_000, 3, 2), (39_999, 1, 0), (49_999, 1, 0)]
