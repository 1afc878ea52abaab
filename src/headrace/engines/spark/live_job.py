"""The part of every live script that runs its plan: Structured Streaming from Kafka to Kafka. It stands in every such script."""

from __future__ import annotations

import argparse
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.streaming import StreamingQuery

# plan: what stands between these two lines is of one plan.
PIPELINE = ""
SOURCES: dict[str, int] = {}
READERS: dict[str, tuple[str, str]] = {}
HEADERED: tuple[str, ...] = ()
WATERMARKS: dict[str, str] = {}
PROCESSES: dict[str, Any] = {}
JAVA_FUNCTIONS: dict[str, tuple[str, str]] = {}
FUNCTIONS: list[str] = []
VIEWS: dict[str, str] = {}
QUERIES: dict[str, tuple[dict[str, str], dict[str, tuple[str, str]]]] = {}
# end of plan

SETTINGS = {
    "spark.sql.ansi.enabled": "false",  # a BIGINT wraps around, what cannot be read is NULL
    "spark.sql.caseSensitive": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.mapKeyDedupPolicy": "LAST_WIN",
    # They would filter before the watermark is taken, and rows that are filtered out would not move it.
    "spark.sql.optimizer.excludedRules": ",".join(
        f"org.apache.spark.sql.catalyst.optimizer.{rule}" for rule in ("PushDownPredicates", "PushPredicateThroughNonJoin")
    ),
}
HEADERS = "ARRAY<STRUCT<key: STRING, value: BINARY>>"
# A Python worker did not connect to Spark in time, when it started or when it asked for its state.
NOT_CONNECTED, TRIES = re.compile(r"Python worker .*to connect back|_client_socket\.connect[\s\S]*TimeoutError"), 10
PATIENCE = 30.0  # seconds
ROCKSDB = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"  # processes need it


def connection(servers: str, file: str | None) -> dict[str, str]:
    """Return the options with which Spark connects to Kafka."""
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file is not None else []
    given = [line.partition("=") for line in lines if line.strip() and line.strip()[0] not in "#!"]
    return {"kafka.bootstrap.servers": servers} | {f"kafka.{name.strip()}": value.strip() for name, _, value in given}


def records_of_topic(spark: SparkSession, kafka: dict[str, str], topic: str) -> DataFrame:
    """Return the stream of a topic's records, from its beginning at the first start."""
    options = {**kafka, "subscribe": topic, "startingOffsets": "earliest", "includeHeaders": str(topic in HEADERED)}
    records = spark.readStream.format("kafka").options(**options, **{"kafka.isolation.level": "read_committed"}).load()
    there = records.where("value IS NOT NULL")  # a tombstone is no record
    headers = f"COALESCE(headers, CAST(ARRAY() AS {HEADERS}))" if topic in HEADERED else f"CAST(NULL AS {HEADERS})"
    return there.selectExpr("partition", "offset", "UNIX_MILLIS(timestamp) AS arrived_ms", "key", f"{headers} AS headers", "value")


def start(spark: SparkSession, name: str, kafka: dict[str, str], checkpoint: str, trigger: str) -> StreamingQuery:
    """Start the query of a view: each micro-batch of its rows goes through the views behind it to the topics."""
    behind, outputs = QUERIES[name]

    def write(rows: DataFrame, _number: int) -> None:
        session = rows.sparkSession
        rows.persist().createOrReplaceTempView(name)
        for view, made in behind.items():
            session.sql(made).createOrReplaceTempView(view)
        for topic, (lines, order) in outputs.items():
            ordered = session.sql(lines).repartition(1).sortWithinPartitions(*map(f.expr, order.split(" | ")))
            values = ordered.select(f.col("json").alias("value"))
            values.write.format("kafka").options(**kafka).option("topic", topic).save()
        rows.unpersist()

    stream = spark.table(name).writeStream.queryName(name).outputMode("append").option("checkpointLocation", f"{checkpoint}/{name}")
    timed = stream.trigger(availableNow=True) if trigger == "available-now" else stream.trigger(processingTime=trigger)
    return timed.foreachBatch(write).start()


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error and its causes, as PySpark has them."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "_cause", None)


def attend(spark: SparkSession, begin: Callable[[str], StreamingQuery], asked: Event) -> None:
    """Start all queries and wait until they have ended, or are `asked` to; one whose Python worker did not connect in time resumes from its checkpoint."""
    queries, tries = {name: begin(name) for name in QUERIES}, dict.fromkeys(QUERIES, TRIES)
    while queries and not asked.is_set():
        with suppress(StreamingQueryException):  # which one ended is looked up below
            spark.streams.awaitAnyTermination(1)
        spark.streams.resetTerminated()
        for name, query in [(name, query) for name, query in queries.items() if not query.isActive]:
            error = query.exception()
            tries[name] -= 1
            if error is None:
                del queries[name]
            elif tries[name] and any(NOT_CONNECTED.search(str(one)) for one in with_causes(error)):
                queries[name] = begin(name)
            else:
                for other in queries.values():
                    other.stop()
                raise error
    end(queries.values())


def end(queries: Iterable[StreamingQuery]) -> None:
    """End queries between two micro-batches; one that is too long in the same is ended in it, and begins it anew when it is started again.

    One that has failed meanwhile is told of when all have ended.
    """
    left, give_up_at, failed = list(queries), time.monotonic() + PATIENCE, None
    while left:
        for query in [one for one in left if not one.isActive or not one.status["isTriggerActive"] or time.monotonic() > give_up_at]:
            failed = failed or (None if query.isActive else query.exception())
            query.stop()
            left.remove(query)
        time.sleep(0.05)
    if failed is not None:
        raise failed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the plan as the command line says, until a query fails or SIGTERM comes to this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kafka-servers", required=True, metavar="HOST:PORT")
    parser.add_argument("--checkpoint", required=True, metavar="FOLDER", help="where the queries keep how far they are and their open windows")
    parser.add_argument("--trigger", default="10 seconds", help="how often there is a micro-batch; available-now works off what is there and ends")
    parser.add_argument("--kafka-config", metavar="FILE", help="properties of Kafka's clients in Java, a line NAME=VALUE each: TLS and passwords")
    options = parser.parse_args(arguments)
    kafka = connection(options.kafka_servers, options.kafka_config)
    spark = SparkSession.builder.appName(PIPELINE).getOrCreate()
    for key, value in SETTINGS.items():
        spark.conf.set(key, value)
    if PROCESSES:
        spark.conf.set("spark.sql.streaming.stateStore.providerClass", ROCKSDB)
    for topic, number in SOURCES.items():
        function, gives = READERS[topic]
        spark.udf.registerJavaFunction(f"hr_read_{number}", function, gives)
        records_of_topic(spark, kafka, topic).createOrReplaceTempView(f"records_{number}")
    for called, (function, gives) in JAVA_FUNCTIONS.items():
        spark.udf.registerJavaFunction(called, function, gives)
    for statement in FUNCTIONS:
        spark.sql(statement)
    for name, query in VIEWS.items():
        view = PROCESSES[name].of(spark.sql(query)) if name in PROCESSES else spark.sql(query)
        (view.withWatermark("_time", WATERMARKS[name]) if name in WATERMARKS else view).createOrReplaceTempView(name)
    asked = Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        attend(spark, lambda name: start(spark, name, kafka, options.checkpoint, options.trigger), asked)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
    SparkSession.builder.getOrCreate().stop()
