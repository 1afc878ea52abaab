"""Keys that are coded on their way to a window: the bytes are those of texts, however many keys there are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import pytest

import headrace as hr
from engines.embedded.pipelines import found
from headrace.engines.embedded import graph
from headrace.engines.embedded.run import run_files
from headrace.kernels.columnar.coding import Coding, concat

T = 1_704_067_200_000


@hr.pipeline("sensors", version="1")
def sensors() -> dict[str, hr.Stream]:
    rows = hr.stream("messages", schema={"id": "STRING", "t": "BIGINT", "data": "MAP<STRING, DOUBLE>"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    entries = rows.unnest("data", key="sensor", value="value")
    sums = entries.window(hr.sliding(hr.seconds(6), hr.seconds(2)), by=["id", "sensor"]).aggregate(n="COUNT(*)", total="SUM(value)")
    packed = entries.window(hr.tumbling(hr.seconds(2)), by=["id"]).aggregate(last="MAP_AGG(sensor, value)")
    again = packed.unnest("last", key="sensor", value="value")
    return {"sums": sums, "again": again.window(hr.tumbling(hr.seconds(6)), by=["sensor"]).aggregate(n="COUNT(*)", mean="AVG(value)")}


def write_messages(path: Path, keys: int) -> None:
    dice = random.Random(keys)
    with path.open("w") as file:
        for number in range(400):
            data = {f"s{dice.randrange(keys)}": dice.gauss(0, 1e3) for _ in range(dice.randrange(4))}
            time = T + number * 100 - dice.randrange(3_000)
            file.write(json.dumps({"id": dice.choice([None, "", "a", f"b{dice.randrange(keys)}"]), "t": time, "data": data}) + "\n")


@pytest.mark.parametrize("keys", [3, 300])
def test_the_bytes_are_those_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int) -> None:
    source = tmp_path / "messages.ndjson"
    write_messages(source, keys)

    def run(name: str, coding: Callable[[], Coding] = Coding) -> dict[str, bytes]:
        monkeypatch.setattr(graph, "Coding", coding)
        run_files(sensors.plan(), {"messages": [source]}, tmp_path / name, chunk=3_000, commit_seconds=0 if name == "committed" else 60)
        return found(tmp_path / name)

    with monkeypatch.context() as patch:
        patch.setattr(graph, "only_keys", lambda *_: set())
        expected = run("texts")
    assert len(expected["sums.ndjson"].splitlines()) > 100
    assert [run("coded"), run("few", partial(Coding, most=40)), run("committed")] == [expected] * 3


def test_codes_begin_anew_or_end_when_there_are_many() -> None:
    coding = Coding(most=10)
    few = pl.Series("k", ["a", None, "b"] * 20)
    first = coding(few)
    assert first.cast(pl.String).equals(few)
    assert coding(few).dtype == first.dtype
    coding(pl.Series("k", [str(number) for number in range(20)]))
    second = coding(few)
    assert isinstance(second.dtype, pl.Categorical)
    assert second.dtype != first.dtype
    both = concat([first.to_frame(), second.to_frame(), few.to_frame()])
    assert both["k"].equals(pl.concat([few] * 3))
    for _ in range(2):
        coding(pl.Series("k", [str(number) for number in range(20)]))
    assert coding(few).dtype == pl.String
