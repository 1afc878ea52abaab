"""The fingerprint job as PyFlink's DataStream API is usually written: `python datastream.py URL PYTHON JAR SERVERS PARALLELISM RUN`.

JSON is parsed, timed and put in windows in Python; a record that cannot be read is dropped. There is no lateness by partition, no dead letter and no ledger.
"""

# ruff: noqa: D102, ARG002  (the methods are PyFlink's)

from __future__ import annotations

import json
import statistics
import sys
import uuid
from pathlib import Path

from pyflink.common import Duration, SimpleStringSchema, Time, Types, WatermarkStrategy
from pyflink.common.watermark_strategy import TimestampAssigner
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import KafkaOffsetsInitializer, KafkaRecordSerializationSchema, KafkaSink, KafkaSource
from pyflink.datastream.functions import ProcessWindowFunction
from pyflink.datastream.window import TumblingEventTimeWindows

from remote import environment_of


def message_of(line: str) -> dict | None:
    """Return a message, None if it is none."""
    try:
        message = json.loads(line)
        sound = message["equip_id"] is not None and message["data"].items() is not None
        sound &= 946684800000 <= message["timestamp"] < 4102444800000  # one from the year 2262 would end every window
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return message if sound else None


class At(TimestampAssigner):
    """The event time of a message."""

    def extract_timestamp(self, value, record_timestamp):
        return value["timestamp"]


class Fingerprint(ProcessWindowFunction):
    """The fingerprint of an equipment's window."""

    def process(self, key, context, elements):
        values = {}
        for message in elements:
            for sensor, text in message["data"].items():
                if text is not None and text != "null":
                    values.setdefault(sensor, []).append(float(text))
        data = {
            sensor: {
                "min": min(each),
                "max": max(each),
                "median": statistics.median(each),
                "mean": statistics.fmean(each),
                "std_dev": statistics.pstdev(each),
            }
            for sensor, each in sorted(values.items())
        }
        window = context.window()
        name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{key}/{window.start}"))
        yield json.dumps({"uuid": name, "equip_id": key, "type": "kiln", "start_ms": window.start, "end_ms": window.end, "data": data})


def main(url: str, python: str, jar: str, servers: str, parallelism: str, run: str) -> None:
    options = {
        "parallelism.default": parallelism,
        "execution.checkpointing.interval": "10 s",
        "execution.checkpointing.incremental": "true",
        "state.backend.type": "rocksdb",
    }
    environment = environment_of(url, python, options)
    environment.add_jars(Path(jar).absolute().as_uri())
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(servers)
        .set_topics("sensor-data")
        .set_group_id("datastream")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_bounded(KafkaOffsetsInitializer.latest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    values = KafkaRecordSerializationSchema.builder().set_topic("fingerprint-output").set_value_serialization_schema(SimpleStringSchema()).build()
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(servers)
        .set_record_serializer(values)
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix(f"datastream-{run}")
        .set_property("transaction.timeout.ms", "600000")
        .build()
    )
    timed = WatermarkStrategy.for_bounded_out_of_orderness(Duration.of_seconds(10)).with_timestamp_assigner(At())
    messages = environment.from_source(source, WatermarkStrategy.no_watermarks(), "sensor-data").map(message_of)
    fingerprints = (
        messages.filter(lambda message: message is not None)
        .assign_timestamps_and_watermarks(timed)
        .key_by(lambda message: str(message["equip_id"]), Types.STRING())
        .window(TumblingEventTimeWindows.of(Time.minutes(1)))
        .process(Fingerprint(), Types.STRING())
    )
    fingerprints.sink_to(sink)
    environment.execute("datastream")


if __name__ == "__main__":
    main(*sys.argv[1:])
