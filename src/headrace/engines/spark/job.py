"""The part of every script that runs its plan: read topics, make views, write the outputs. It stands in every script."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

# plan: what stands between these two lines is of one plan.
PIPELINE = ""
SOURCES: dict[str, int] = {}
READERS: dict[str, tuple[str, str]] = {}
HEADERED: tuple[str, ...] = ()
JAVA_FUNCTIONS: dict[str, tuple[str, str]] = {}
FUNCTIONS: list[str] = []
VIEWS: dict[str, str] = {}
KEPT: tuple[str, ...] = ()
PROCESSES: dict[str, Any] = {}
OUTPUTS: dict[str, tuple[str, str]] = {}
LEDGER = ""
# end of plan

SETTINGS = {
    "spark.sql.ansi.enabled": "false",  # a BIGINT wraps around, what cannot be read is NULL
    "spark.sql.caseSensitive": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
    "spark.sql.files.minPartitionNum": "1",  # with the next: a file is read by one task, so that its records can be numbered
    "spark.sql.files.maxPartitionBytes": str(2**62),
}
HEADERS = "ARRAY<STRUCT<key: STRING, value: BINARY>>"
UNKNOWN = "CAST(NULL AS BIGINT) AS arrived_ms", "CAST(NULL AS BINARY) AS key", f"CAST(NULL AS {HEADERS}) AS headers"  # of records of files
BLANK = r"'^[ \\t\\r\\x0B\\f]*\\z'"
FATES = ("accepted", "malformed", "future", "duplicate", "late", "filtered", "shed")


def records_of_files(spark: SparkSession, paths: Sequence[str]) -> DataFrame:
    """Return the lines of files that are no blank ones, numbered from 0; each file is a partition."""
    files = []
    for partition, path in enumerate(paths):
        lines = spark.read.option("lineSep", "\n").text("".join(f"\\{c}" if c in "*?[]{}\\" else c for c in path))
        if lines.rdd.getNumPartitions() > 1:
            raise ValueError(f"{path} is more than one file, or is read in parts: its records cannot be numbered")
        placed = lines.select(f.monotonically_increasing_id().alias("line"), f.expr("CAST(value AS BINARY) AS value"))
        marked = "line = 0 AND SUBSTRING(value, 1, 3) = X'EFBBBF'"  # the byte order mark of a file
        bare = placed.select(f.expr(f"IF({marked}, SUBSTRING(value, 4), value) AS value"))
        whole = f.expr("IF(SUBSTRING(value, -1) = X'0D', SUBSTRING(value, 1, OCTET_LENGTH(value) - 1), value) AS value")
        numbered = f.expr(f"CAST({partition} AS INT) AS partition"), f.monotonically_increasing_id().alias("offset")
        kept = bare.where(f"NOT CAST(value AS STRING) RLIKE {BLANK}").select(whole)
        files.append(kept.select(*numbered, *map(f.expr, UNKNOWN), "value"))
    every = files[0]
    for one in files[1:]:
        every = every.unionAll(one)
    return every


def connection(servers: str, file: str | None) -> dict[str, str]:
    """Return the options with which Spark connects to Kafka."""
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file is not None else []
    given = [line.partition("=") for line in lines if line.strip() and line.strip()[0] not in "#!"]
    return {"kafka.bootstrap.servers": servers} | {f"kafka.{name.strip()}": value.strip() for name, _, value in given}


def records_of_topic(spark: SparkSession, kafka: dict[str, str], topic: str) -> DataFrame:
    """Return what a Kafka topic holds now; the ends of its partitions are those of this moment."""
    options = {**kafka, "subscribe": topic, "startingOffsets": "earliest", "endingOffsets": "latest", "includeHeaders": str(topic in HEADERED)}
    records = spark.read.format("kafka").options(**options, **{"kafka.isolation.level": "read_committed"}).load()
    there = records.where("value IS NOT NULL")  # a tombstone is no record
    headers = f"COALESCE(headers, CAST(ARRAY() AS {HEADERS}))" if topic in HEADERED else f"CAST(NULL AS {HEADERS})"
    return there.selectExpr("partition", "offset", "UNIX_MILLIS(timestamp) AS arrived_ms", "key", f"{headers} AS headers", "value")


def write_file(lines: DataFrame, order: str, folder: str, topic: str) -> None:
    """Write lines in their order as one file; in a folder of one part where the output is not on this machine."""
    ordered = lines.repartition(1).sortWithinPartitions(*map(f.expr, order.split(" | "))).select("json")
    if "://" in folder:
        ordered.write.mode("overwrite").text(f"{folder}/{topic}.ndjson")
        return
    aside = Path(folder) / f".{topic}.parts"
    ordered.write.mode("overwrite").text(str(aside.absolute()))
    parts = sorted(aside.glob("part-*"))
    whole = parts[0] if parts else aside / "empty"
    whole.touch()
    whole.replace(Path(folder) / f"{topic}.ndjson")
    shutil.rmtree(aside)


def write_topic(lines: DataFrame, order: str, kafka: dict[str, str], topic: str) -> None:
    """Write lines to a Kafka topic in their order, at least once: a task that is tried again writes its lines again."""
    ordered = lines.repartition(1).sortWithinPartitions(*map(f.expr, order.split(" | ")))
    ordered.select(f.col("json").alias("value")).write.format("kafka").options(**kafka).option("topic", topic).save()


def write_ledger(folder: str, sources: dict[str, dict[str, Any]]) -> None:
    """Write what became of each record received."""
    text = json.dumps({"pipeline": PIPELINE, "sources": sources}, indent=2, ensure_ascii=False) + "\n"
    Path(folder, ".ledger.json").write_text(text, encoding="utf-8")
    Path(folder, ".ledger.json").replace(Path(folder, "ledger.json"))


def register(spark: SparkSession, inputs: dict[str, list[str]], kafka: dict[str, str] | None) -> None:
    """Make views of the topics' records, and the functions that read them."""
    for topic, number in SOURCES.items():
        function, gives = READERS[topic]
        spark.udf.registerJavaFunction(f"hr_read_{number}", function, gives)
        records = records_of_files(spark, inputs[topic]) if kafka is None else records_of_topic(spark, kafka, topic)
        records.createOrReplaceTempView(f"records_{number}")
    for called, (function, gives) in JAVA_FUNCTIONS.items():
        spark.udf.registerJavaFunction(called, function, gives)


def write(spark: SparkSession, output: str | None, kafka: dict[str, str] | None, empty: set[str]) -> None:
    """Write all outputs. Of those that are known to be empty none is computed: a job of Spark's takes a second even for no rows."""
    for topic, (query, order) in OUTPUTS.items():
        if output is not None and topic in empty and "://" not in output:
            Path(output, f"{topic}.ndjson").write_bytes(b"")
        elif output is not None:
            write_file(spark.sql(query), order, output, topic)
        elif kafka is not None and topic not in empty:
            write_topic(spark.sql(query), order, kafka, topic)


def run(spark: SparkSession, inputs: dict[str, list[str]], output: str | None, kafka: dict[str, str] | None) -> dict[str, dict[str, Any]]:
    """Run the plan, and return its ledger."""
    for key, value in SETTINGS.items():
        spark.conf.set(key, value)
    register(spark, inputs, kafka)
    for statement in FUNCTIONS:
        spark.sql(statement)
    kept = []
    for name, query in VIEWS.items():
        view = PROCESSES[name].of(spark.sql(query)) if name in PROCESSES else spark.sql(query)
        if name in KEPT:
            kept.append(view.persist())
        view.createOrReplaceTempView(name)
    try:
        counts = {row["source"]: row.asDict() for row in spark.sql(LEDGER).collect()}
        ledger = {topic: _account(counts.get(number, {})) for topic, number in SOURCES.items()}
        write(spark, output, kafka, {f"{topic}.dead-letter" for topic, one in ledger.items() if not one["malformed"] + one["future"]})
    finally:
        for view in kept:
            view.unpersist()
    if output is not None and "://" not in output:
        write_ledger(output, ledger)
    return ledger


def _account(counts: dict[str, int]) -> dict[str, int]:
    received = counts.get("received", 0)
    account = {"received": received, **{fate: counts.get(fate, 0) for fate in FATES}}
    if sum(account.values()) != 2 * received:
        raise ValueError(f"the ledger does not balance: {account}")
    return account


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Run the plan as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", action="append", default=[], metavar="[TOPIC=]FILE", help="several files of a topic are its partitions")
    parser.add_argument("--output", metavar="FOLDER", help="an NDJSON file for each topic, dead letters and the ledger")
    parser.add_argument(
        "--kafka-servers", metavar="HOST:PORT", help="read the topics from Kafka, up to their present ends; write to it without --output"
    )
    parser.add_argument("--kafka-config", metavar="FILE", help="properties of Kafka's clients in Java, a line NAME=VALUE each: TLS and passwords")
    options = parser.parse_args(arguments)
    kafka = None if options.kafka_servers is None else connection(options.kafka_servers, options.kafka_config)
    inputs: dict[str, list[str]] = {topic: [] for topic in SOURCES}
    for one in options.input:
        topic, _, path = one.rpartition("=") if one.partition("=")[0] in SOURCES else (next(iter(SOURCES)), "", one)
        inputs[topic].append(path)
    if options.kafka_servers is None and not all(inputs.values()):
        parser.error(f"give each topic a file: --input TOPIC=FILE; the topics are {', '.join(SOURCES)}")
    if options.kafka_servers is None and options.output is None:
        parser.error("name a folder: --output FOLDER")
    if options.output and "://" not in options.output:
        Path(options.output).mkdir(parents=True, exist_ok=True)
    return run(SparkSession.builder.appName(PIPELINE).getOrCreate(), inputs, options.output, kafka)


if __name__ == "__main__":
    print(json.dumps(main()))
    SparkSession.builder.getOrCreate().stop()
