"""The fingerprint job in PyFlink's DataStream API: `python datastream.py STYLE URL PYTHON JAR SERVERS PARALLELISM RUN`.

JSON is parsed, timed and put in windows in Python; a record that cannot be read is dropped. There is no lateness by partition, no dead letter and no ledger.
STYLE is `steps`, as it is usually written: a message is parsed, its sensors are unnested, nulls filtered, each sensor has a window and each
equipment another; or `whole`, where the messages of an equipment come whole into one window.
"""

# ruff: noqa: D101, D102, ARG002  (the methods are PyFlink's)

from __future__ import annotations

import json
import statistics
import sys
import uuid
from pathlib import Path

from pyflink.common import Duration, SimpleStringSchema, Time, Types, WatermarkStrategy
from pyflink.common.watermark_strategy import TimestampAssigner
from pyflink.datastream import DataStream
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import KafkaOffsetsInitializer, KafkaRecordSerializationSchema, KafkaSink, KafkaSource
from pyflink.datastream.functions import ProcessWindowFunction
from pyflink.datastream.window import TimeWindow, TumblingEventTimeWindows

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


def statistics_of(values: list[float]) -> dict[str, float]:
    """Return what a fingerprint tells of a sensor."""
    return {
        "min": min(values),
        "max": max(values),
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "std_dev": statistics.pstdev(values),
    }


def fingerprint(equipment: str, window: TimeWindow, data: dict) -> str:
    """Return a fingerprint as it is written."""
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{equipment}/{window.start}"))
    return json.dumps({"uuid": name, "equip_id": equipment, "type": "kiln", "start_ms": window.start, "end_ms": window.end, "data": data})


class OfMessages(ProcessWindowFunction):
    def process(self, key, context, elements):
        values = {}
        for message in elements:
            for sensor, text in message["data"].items():
                if text is not None and text != "null":
                    values.setdefault(sensor, []).append(float(text))
        yield fingerprint(key, context.window(), {sensor: statistics_of(each) for sensor, each in sorted(values.items())})


class OfSensor(ProcessWindowFunction):
    def process(self, key, context, elements):
        equipment, sensor = key
        yield equipment, sensor, json.dumps(statistics_of([value for _, _, value in elements]))


class OfSensors(ProcessWindowFunction):
    def process(self, key, context, elements):
        yield fingerprint(key, context.window(), {sensor: json.loads(each) for _, sensor, each in sorted(elements)})


def whole(messages: DataStream) -> DataStream:
    """Return the fingerprints of messages, by windows of whole messages."""
    keyed = messages.key_by(lambda message: str(message["equip_id"]), Types.STRING())
    return keyed.window(TumblingEventTimeWindows.of(Time.minutes(1))).process(OfMessages(), Types.STRING())


def steps(messages: DataStream) -> DataStream:
    """Return the fingerprints of messages, step by step."""
    minute, string = TumblingEventTimeWindows.of(Time.minutes(1)), Types.STRING()
    texts = messages.flat_map(
        lambda message: [(str(message["equip_id"]), sensor, text) for sensor, text in message["data"].items()], Types.TUPLE([string, string, string])
    )
    values = texts.filter(lambda one: one[2] is not None and one[2] != "null").map(
        lambda one: (one[0], one[1], float(one[2])), Types.TUPLE([string, string, Types.DOUBLE()])
    )
    sensors = values.key_by(lambda one: (one[0], one[1]), Types.TUPLE([string, string])).window(minute)
    each = sensors.process(OfSensor(), Types.TUPLE([string, string, string]))
    return each.key_by(lambda one: one[0], string).window(minute).process(OfSensors(), string)


def main(style: str, url: str, python: str, jar: str, servers: str, parallelism: str, run: str) -> None:
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
    sound = messages.filter(lambda message: message is not None).assign_timestamps_and_watermarks(timed)
    fingerprints = {"steps": steps, "whole": whole}[style](sound)
    fingerprints.sink_to(sink)
    environment.execute("datastream")


if __name__ == "__main__":
    main(*sys.argv[1:])
