"""What bench/process_on_spark.py has headrace do, written by hand for Spark: OUT FILE… (run by spark-submit; it needs no headrace)."""

from __future__ import annotations

import sys

import pandas as pd
from pyspark.sql import SparkSession


def count(readings: pd.DataFrame) -> pd.DataFrame:
    """Count the readings of a tag in the order of their times, and tell of every thousandth."""
    state, told = 0, []
    for tag, _at, _value in readings.sort_values("at", kind="stable").itertuples(index=False, name=None):
        state += 1  # noqa: SIM113  (a state, not a place)
        if state % 1000 == 0:
            told.append((tag, state))
    return pd.DataFrame(told, columns=["tag", "count"])


if __name__ == "__main__":
    spark = SparkSession.builder.getOrCreate()
    rows = spark.read.schema("tag STRING, at BIGINT, value DOUBLE").json(sys.argv[2:])
    rows.groupBy("tag").applyInPandas(count, "tag STRING, count BIGINT").coalesce(1).write.mode("overwrite").json(sys.argv[1])
    spark.stop()
