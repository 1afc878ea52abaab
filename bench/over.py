"""Running aggregates for the figures of docs/performance.md; `bench/run.py --only over` runs it on the readings of `processes.py`.

python over.py PIPELINE FILE FOLDER      runs one with the keyed kernel alone, as Flink and Spark do
"""

from __future__ import annotations

import sys
from pathlib import Path

import headrace as hr

__all__ = ["PIPELINES", "all_rows", "minutes", "ten", "wide"]


def readings() -> hr.Stream:
    schema = {"tag": "STRING NOT NULL", "at": "BIGINT", "value": "DOUBLE"}
    return hr.stream("readings", schema=schema, event_time="TO_TIMESTAMP_LTZ(at, 3)", watermark=hr.seconds(5))


@hr.pipeline("ten", version="1")
def ten() -> dict[str, hr.Stream]:
    """The mean of ten rows, and the row before."""
    return {"out": readings().over(by=["tag"], rows=10, mean="AVG(value)", before="LAG(value)")}


@hr.pipeline("wide", version="1")
def wide() -> dict[str, hr.Stream]:
    """Five statistics of ten rows."""
    five = {"n": "COUNT(value)", "least": "MIN(value)", "most": "MAX(value)", "mean": "AVG(value)", "spread": "STDDEV_POP(value)"}
    return {"out": readings().over(by=["tag"], rows=10, **five)}


@hr.pipeline("minutes", version="1")
def minutes() -> dict[str, hr.Stream]:
    """The mean of five minutes: of 300 rows, at a reading a second."""
    return {"out": readings().over(by=["tag"], time=hr.minutes(5), mean="AVG(value)")}


@hr.pipeline("all_rows", version="1")
def all_rows() -> dict[str, hr.Stream]:
    """The mean so far, and the row before."""
    return {"out": readings().over(by=["tag"], mean="AVG(value)", before="LAG(value)")}


PIPELINES = {"ten": ten, "wide": wide, "minutes": minutes, "all_rows": all_rows}

if __name__ == "__main__":
    from headrace.engines.embedded import over
    from headrace.engines.embedded.run import run_files

    over._MANY = sys.maxsize
    name, file, folder = sys.argv[1:]
    run_files(PIPELINES[name].plan(), {"readings": [Path(file)]}, Path(folder))
