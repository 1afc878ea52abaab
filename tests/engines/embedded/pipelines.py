"""Pipelines and input that try what may depend on batches, threads and restarts; and a way to run one as a process of its own.

python pipelines.py NAME INPUT-FOLDER OUTPUT-FOLDER CHUNK COMMIT-SECONDS
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.apps.fingerprint import fingerprint
from headrace.engines.embedded.run import run_files

START = 1_704_067_200_000
BROKEN = ["{", "7", '{"t": 1}', '{"t": null}', '{"t": "soon", "k": "a"}', ""]
LATE = [0, 0, 0, 9_000, 18_000, 27_000, 75_000]
STATISTICS = {
    "rows": "COUNT(*)", "total": "SUM(x)", "mean": "AVG(x)", "mid": "MEDIAN(x)", "spread": "STDDEV_POP(x)", "third": "PERCENTILE(x, 0.33)",
    "first": "FIRST_VALUE(x)", "last": "LAST_VALUE(x)", "all": "ARRAY_AGG(x)", "kinds": "COUNT(DISTINCT n)",
}  # fmt: skip


def events(topic: str, delay: int) -> hr.Stream:
    schema = {"k": "STRING", "t": "BIGINT", "x": "DOUBLE", "n": "BIGINT"}
    return hr.stream(topic, schema=schema, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(delay))


@hr.pipeline("revising", version="1")
def revising() -> dict[str, hr.Stream]:
    """Sliding windows with lateness: given again, and what is too late for them; groups given and groups of groups."""
    groups = (
        events("plant", 4).window(hr.sliding(hr.seconds(40), hr.seconds(20)), by=["k", "n"], allowed_lateness=hr.seconds(8))
        .late_to("too-late").aggregate(**STATISTICS)
    )  # fmt: skip
    return {
        "groups": groups, "gathered": groups.where("rows > 1").aggregate(by=["k"], totals="ARRAY_AGG(total)", mean="AVG(mean)"),
        "first": groups.select("k", "n", "total", "window_start", "window_end", "revision").top_n(2, order="total DESC", by=["k"]),
        "steps": groups.select("k", x="mean").process(Steps, by=["k"]),
    }  # fmt: skip


@hr.pipeline("merging", version="1")
def merging() -> dict[str, hr.Stream]:
    """Two topics of different shape; one goes into the union twice; as they come, and in windows longer than a slice."""
    known = {"of": "partition", "place": "offset", "id": "key", "came": "arrival_time", "more": "headers"}
    plant = events("plant", 2)
    other = hr.stream("other", schema={"at": "BIGINT", "x": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(at, 3)", metadata=known)
    one, two = plant.where("x > 0.2").select("t", "k", "x", "n"), plant.where("n > 2").select("t", "k", "n", x="x * 3").select("t", "k", "x", "n")
    both = one.union(other.select(t="at", k="'other'", x="x", n="TRY_CAST(x AS BIGINT)"), two)
    windows = both.window(hr.cumulating(hr.seconds(200), hr.seconds(100)), by=[]).late_to("too-late").aggregate(**STATISTICS)
    return {"as-it-comes": both, "windows": windows, "plain": other}


@hr.pipeline("means", version="1")
def means() -> dict[str, hr.Stream]:
    """Nothing but means of many rows: how they are added up, which may be in parts, shows in the last digits."""
    return {"means": events("plant", 2).window(hr.tumbling(hr.minutes(5)), by=["k"]).aggregate(mean="AVG(x)")}


class Watch:
    """Keeps some of everything: what grows, what ages, timers that move and that set others, and what is broadcast."""

    state = {"count": hr.Value("BIGINT", 0), "recent": hr.List("DOUBLE", ttl=hr.seconds(30)), "kinds": hr.Map("DOUBLE", ttl=hr.seconds(60))}
    shared = {"limits": hr.Map("DOUBLE")}
    output = {"at": "TIMESTAMP_LTZ(3)", "x": "DOUBLE", "said": "STRING"}
    side_outputs = {"over": {"at": "TIMESTAMP_LTZ(3)", "x": "DOUBLE", "said": "STRING"}}

    def on_record(self, row: dict[str, Any], state: Any) -> Iterator[Any]:
        state.count += 1
        state.kinds[str(row["n"])] = row["x"]
        state.recent.append(row["x"])
        state.set_timer("quiet", state.time + 9_000)
        state.set_timer("quick", state.time + row["n"] - 1)
        if row["x"] is None:
            raise ValueError("no x")
        limit = state.shared.limits.get(str(row["n"]))
        if limit is not None and row["x"] > limit:
            yield "over", {"at": state.time, "x": row["x"], "said": f"{row['x']} > {limit}"}
        yield {"at": state.time, "x": row["x"], "said": f"{state.count} {list(state.recent)} {dict(state.kinds)}"}

    def on_timer(self, name: str, state: Any) -> dict[str, Any]:
        if name == "quiet":
            state.set_timer("quick", state.time)
        return {"at": state.time, "x": state.count * 1.0, "said": f"{name} {list(state.recent)}"}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> Iterator[Any]:
        shared.limits[str(row["n"])] = row["x"]
        yield {"k": row["k"], "at": row["t"], "x": row["x"], "said": f"limit {len(shared.limits)}"}
        yield "over", {"k": row["k"], "x": row["x"], "said": "a limit"}
        if row["x"] is None:
            raise ValueError("no limit")


class Steps:
    """Says how far each value lies from the one before, and that nothing has come since."""

    state = {"before": hr.Value("DOUBLE"), "since": hr.Value("TIMESTAMP_LTZ(3)")}
    output = {"step": "DOUBLE", "at": "TIMESTAMP_LTZ(3)"}

    def on_record(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        before, state.before, state.since = state.before, row["x"], state.time
        state.set_timer("since", state.time + 20_000)
        return {"step": None if before is None or row["x"] is None else row["x"] - before, "at": state.time}

    def on_timer(self, _: str, state: Any) -> dict[str, Any]:
        return {"step": None, "at": state.since}


@hr.pipeline("watching", version="1")
def watching() -> dict[str, hr.Stream]:
    """A process told of limits, and what it gives in every other thing: joined, in windows, in another process."""
    plant = events("plant", 4)
    seen = plant.process(Watch, by=["k"], broadcast=events("limits", 1), failed_to="failed")
    both = seen.union(seen.side("over")).where("x > 0.5").derive(double="x * 2")
    means = plant.window(hr.tumbling(hr.seconds(20)), by=["k", "n"]).aggregate(x="AVG(x)", rows="COUNT(*)")
    windows = both.window(hr.sliding(hr.seconds(40), hr.seconds(20)), by=["k"]).aggregate(n="COUNT(*)", all="ARRAY_AGG(x)", last="LAST_VALUE(said)")
    return {
        "seen": seen, "both": both, "windows": windows, "gathered": windows.aggregate(by=[], n="SUM(n)"),
        "steps": both.process(Steps, by=["k"]), "of-means": means.process(Steps, by=["n"], name="of_means"), "means": means,
    }  # fmt: skip


@hr.pipeline("arriving", version="1")
def arriving() -> dict[str, hr.Stream]:
    """The same as it arrives, beside what goes through."""
    plant = events("plant", 4)
    seen = plant.process(Watch, by=["k"], order="arrival", broadcast=events("limits", 1), failed_to="failed")
    return {"seen": seen, "over": seen.side("over").where("x > 1"), "through": plant.where("n > 1")}


@hr.pipeline("running", version="1")
def running() -> dict[str, hr.Stream]:
    """Running aggregates over frames of each kind, and what stands behind them: a window, another frame, a process."""
    plant = events("plant", 4)
    statistics = {name: text for name, text in STATISTICS.items() if name != "rows"}
    bounded = {
        **statistics,
        "number": "COUNT(*)",
        "change": "x - LAG(x)",
        "earlier": "LAG(n, 3, 0)",
        "double": "SUM(x * 2)",
        "named": "MAP_AGG(CAST(n AS STRING), x)",
    }
    endless = {name: text for name, text in bounded.items() if name not in ("mid", "third", "all")}
    rows = plant.over(by=["k"], rows=4, **bounded, name="rows")
    recent = plant.where("n > 0").over(by=["k", "n"], time=hr.seconds(20), **bounded, name="recent")
    return {
        "rows": rows, "recent": recent, "so-far": plant.over(by=["k"], **endless),
        "windows": rows.where("change > 0").window(hr.tumbling(hr.seconds(20)), by=["k"]).aggregate(all="ARRAY_AGG(mean)"),
        "twice": recent.derive(far="mean - x").over(by=["k"], rows=2, farthest="MAX(far)", name="twice"),
        "steps": rows.process(Steps, by=["k"]),
        "next": plant.over(by=["k"], rows=2, mean="AVG(x)", next="LEAD(x)", later="LEAD(n, 2, -1)", name="next").where("next IS NOT NULL OR n > 1"),
    }  # fmt: skip


class Above:
    """Says by how much a value lies above the last mean of its key, of which a window tells."""

    shared = {"means": hr.Map("DOUBLE")}
    output = {"at": "TIMESTAMP_LTZ(3)", "above": "DOUBLE"}

    def on_record(self, row: dict[str, Any], state: Any) -> Iterator[Any]:
        mean = state.shared.means.get(str(row["k"]))
        if mean is not None and row["x"] is not None and row["x"] > mean:
            yield {"at": state.time, "above": row["x"] - mean}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> dict[str, Any]:
        shared.means[str(row["k"])] = row["mean"]
        return {"k": row["k"], "above": row["mean"]}


class Joined(Steps):
    """The same with the rows of a window and of a process."""

    state = {**Steps.state, "mean": hr.Value("DOUBLE")}
    output = {**Steps.output, "mean": "DOUBLE"}

    def on_window(self, row: dict[str, Any], state: Any) -> None:
        state.mean = row["x"]

    def on_step(self, row: dict[str, Any], state: Any) -> dict[str, Any]:
        return {"step": row["step"], "mean": state.mean, "at": state.since}


@hr.pipeline("layering", version="1")
def layering() -> dict[str, hr.Stream]:
    """Windows over windows, also behind a process; derived rows joined; a window that is broadcast, and one that is an input."""
    plant = events("plant", 4)
    short = plant.window(hr.tumbling(hr.seconds(20)), by=["k", "n"]).aggregate(x="AVG(x)", rows="COUNT(*)", all="ARRAY_AGG(x)")
    long = short.window(hr.sliding(hr.minutes(2), hr.minutes(1)), by=["k"]).aggregate(mean="AVG(x)", rows="SUM(rows)", all="ARRAY_AGG(x)")
    above = plant.process(Above, by=["k"], broadcast=long)
    steps = short.process(Steps, by=["k"])
    both = short.select("k", "x", what="'short'").union(
        steps.select("k", "step", what="'step'").select("k", "what", x="step").select("k", "x", "what")
    )
    both = both.union(long.select("k", x="mean", what="'long'"))
    return {
        "short": short, "long": long, "above": above, "both": both,
        "longest": long.window(hr.cumulating(hr.minutes(6), hr.minutes(2)), by=[]).aggregate(mean="AVG(mean)", rows="MAX(rows)"),
        "of-both": both.window(hr.tumbling(hr.minutes(1)), by=["what"]).aggregate(all="ARRAY_AGG(x)", total="SUM(x)"),
        "first": long.top_n(1, order="mean DESC"),
        "joined": plant.process(Joined, by=["k"], inputs={"window": hr.input(short), "step": hr.input(steps)}),
    }  # fmt: skip


PIPELINES = {
    "fingerprint": fingerprint, "revising": revising, "merging": merging, "means": means, "watching": watching, "arriving": arriving, "running": running,
    "layering": layering,
}  # fmt: skip
FILES = {
    "fingerprint": {"sensor-data": 2}, "revising": {"plant": 3}, "merging": {"plant": 2, "other": 2}, "means": {"plant": 2},
    "watching": {"plant": 2, "limits": 1}, "arriving": {"plant": 2, "limits": 1}, "running": {"plant": 2}, "layering": {"plant": 2},
}  # fmt: skip


def write_inputs(folder: Path, name: str, records: int, seed: int) -> dict[str, list[Path]]:
    """Write the pipeline's input files, of unlike length, disordered and with broken lines; `records` in all, or nearly."""
    chance, inputs = random.Random(seed), {}
    folder.mkdir(parents=True, exist_ok=True)
    for topic, count in FILES[name].items():
        inputs[topic] = [folder / f"{topic}.{number}.ndjson" for number in range(count)]
        for number, path in enumerate(inputs[topic]):
            now, lines = START, []
            for _ in range(records * (number + 1) * 2 // (count * (count + 1) * len(FILES[name]))):
                now += chance.choice([0, 1, 40, 900, 900]) if chance.random() < 0.99 else 45_000
                lines.append(chance.choice(BROKEN) if chance.random() < 0.03 else json.dumps(record(chance, topic, now - chance.choice(LATE))))
            path.write_text("\n".join(lines) + "\n" * (number + 1))
    return inputs


def record(chance: random.Random, topic: str, time: int) -> dict[str, object]:
    value = None if chance.random() < 0.05 else chance.random() * 10 ** chance.randint(-3, 3)
    if topic == "sensor-data":
        sensors = {name: f"{chance.random():.6f}" for name in "pqr" if chance.random() < 0.8}
        return {"equip_id": chance.choice("abc"), "timestamp": time, "data": sensors}
    return {"at": time, "x": value} if topic == "other" else {"k": chance.choice(["a", "b", None]), "t": time, "x": value, "n": chance.randint(0, 3)}


def found(folder: Path) -> dict[str, bytes]:
    """Return the files of an output folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def main(name: str, inputs: str | Path, output: str | Path, chunk: int | str, commit_seconds: float | str) -> None:
    files = {topic: [Path(inputs) / f"{topic}.{number}.ndjson" for number in range(count)] for topic, count in FILES[name].items()}
    run_files(PIPELINES[name].plan(), files, Path(output), chunk=int(chunk), commit_seconds=float(commit_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
