"""Pipelines for the figures of the whole water system; `bench/run.py` runs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import headrace as hr
from headrace.apps import water
from headrace.kernels.reading.rules import double_of
from headrace.simulate.water import water_tags

__all__ = ["everything", "limits", "ruled", "scored"]

RULES = [
    {"kind": "parameter", "name": "loss", "formula": "FIT201 - FIT301"},
    {"kind": "rule", "name": "mass-balance", "when": "ABS(loss) > 2.5", "for": 30, "value": "loss"},
    {"kind": "rule", "name": "dry", "when": "LIT101 < 250 AND P101 = 2", "value": "LIT101"},
    {"kind": "rule", "name": "filter", "when": "DPIT301 > 30 AND FIT301 < 0.5", "value": "DPIT301"},
    {"kind": "rule", "name": "acid", "when": "AIT202 NOT BETWEEN 6 AND 9.5", "value": "AIT202"},
    {"kind": "rule", "name": "membranes", "when": "PIT501 - PIT502 > 100 OR PIT503 > 300", "value": "PIT501"},
    {"kind": "state", "name": "RUNNING", "when": "FIT101 > 0.5", "for": 600},
    {"kind": "state", "name": "SHUTDOWN", "when": "FIT101 < 0.1", "for": 7200},
]


def _rows() -> hr.Stream:
    return hr.stream(
        "scada.normal",
        schema={"t_stamp": "STRING NOT NULL"},
        event_time="TO_TIMESTAMP_LTZ(TRY_CAST(t_stamp AS BIGINT) / 1000000, 3)",
        watermark=hr.seconds(1),
        rest="fields",
    )


@hr.pipeline("ruled", version="1")
def ruled() -> dict[str, hr.Stream]:
    """Five rules and two run states over all tags of the plant, as one equipment."""
    return _ruled(_rows())


def _ruled(rows: hr.Stream) -> dict[str, hr.Stream]:
    readings = rows.unnest("fields", key="parameter", value="raw").derive(value="TRY_CAST(raw AS DOUBLE)", equipment="'water'")
    return hr.rules(readings, RULES).topics(commands="rules.commands")


@hr.pipeline("scored", version="1")
def scored(model: str = "pca.json") -> dict[str, hr.Stream]:
    """The scores of all tags by a detector, which `headrace fit` has made."""
    return _scored(_rows(), model)


def _scored(rows: hr.Stream, model: str) -> dict[str, hr.Stream]:
    return hr.detect(rows.derive(plant="'water'"), model, by=["plant"], values="fields").topics("detector", conditions="detector.conditions")


@hr.pipeline("everything", version="1")
def everything(model: str = "pca.json") -> dict[str, hr.Stream]:
    """The app's processed rows, alerts, statistics, readings and alarms, and beside them the rules and the detector, by one pipeline."""
    rows = water._rows(1, placed=True)
    return {**water._whole(rows, "swat", 60, 2.0), **_ruled(rows), **_scored(rows, model)}


def _definitions() -> Iterator[dict[str, Any]]:
    for tag in water_tags():
        for kind, limit in (("LL", tag.ll), ("L", tag.l), ("H", tag.h), ("HH", tag.hh)):
            if limit is not None:
                yield {"tag": tag.name, "definition": kind, "kind": kind, "limit": limit, "deadband": tag.deadband or 0.0, "on_delay": 2.0}
        yield {"tag": tag.name, "definition": "bad", "kind": "bad_quality", "on_delay": 30.0}
        yield {"tag": tag.name, "definition": "silent", "kind": "no_data", "after": 60.0}


@hr.pipeline("limits", version="1")
def limits() -> dict[str, hr.Stream]:
    """The alarms of all tags: by their limits, of bad quality, and of a minute of silence."""
    schema = {"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE", "quality": "BIGINT"}
    readings = hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(time, 3)", watermark=hr.seconds(1))
    return hr.alarm(readings, _definitions(), hr.alarm_commands()).topics()


def as_readings(source: str, target: str) -> None:
    """Write the rows of the plant as readings, a line for each tag; states are numbers, and what is no number is of bad quality."""
    states = {"Open": 2.0, "Closed": 1.0}
    with open(source) as rows, open(target, "w") as readings:
        for line in rows:
            row = json.loads(line)
            time = int(row.pop("t_stamp")) // 1_000_000
            for tag, text in row.items():
                value = states.get(text, double_of(text))
                shown, quality = ("null", 0x80000000) if value is None else (f"{value}", 0)
                readings.write(f'{{"tag":"{tag}","time":{time},"value":{shown},"quality":{quality}}}\n')


if __name__ == "__main__":
    as_readings(*sys.argv[1:])
