# ruff: noqa: ARG002, D101, D102  (as such jobs are written)
"""The fingerprint job as PyFlink's DataStream API has it written: a process function over all values of a window.

Run by `bench/engines.py` with a Python that has apache-flink: SERVERS JARS PARALLELISM.
"""

import json
import statistics
import sys
import uuid

from pyflink.common import Duration, SimpleStringSchema, Types, WatermarkStrategy
from pyflink.common.watermark_strategy import TimestampAssigner
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import KafkaOffsetsInitializer, KafkaRecordSerializationSchema, KafkaSink, KafkaSource
from pyflink.datastream.functions import ProcessWindowFunction
from pyflink.datastream.window import Time, TumblingEventTimeWindows


class EventTime(TimestampAssigner):
    def extract_timestamp(self, value, record_timestamp):
        return json.loads(value)["timestamp"]


class Fingerprint(ProcessWindowFunction):
    def process(self, key, context, elements):
        values = {}
        for element in elements:
            for sensor, raw in json.loads(element)["data"].items():
                try:
                    values.setdefault(sensor, []).append(float(raw))
                except ValueError:
                    continue
        data = {
            sensor: {
                "min": min(held),
                "max": max(held),
                "median": statistics.median(held),
                "mean": statistics.fmean(held),
                "std_dev": statistics.pstdev(held),
            }
            for sensor, held in values.items()
        }
        window = context.window()
        yield json.dumps(
            {
                "fingerprint": {
                    "uuid": str(uuid.uuid4()),
                    "equip_id": key,
                    "type": "kiln",
                    "start_ms": window.start,
                    "end_ms": window.end,
                    "data": data,
                }
            }
        )


def main(servers, jars, parallelism):
    environment = StreamExecutionEnvironment.get_execution_environment()
    environment.set_parallelism(int(parallelism))
    environment.add_jars(*(f"file://{jar}" for jar in jars.split(":")))
    environment.enable_checkpointing(10_000)
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
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(servers)
        .set_record_serializer(
            KafkaRecordSerializationSchema.builder().set_topic("fingerprint-output").set_value_serialization_schema(SimpleStringSchema()).build()
        )
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix("datastream")
        .set_property("transaction.timeout.ms", "600000")
        .build()
    )
    times = WatermarkStrategy.for_bounded_out_of_orderness(Duration.of_seconds(10)).with_timestamp_assigner(EventTime())
    (
        environment.from_source(source, times, "sensor-data")
        .key_by(lambda value: json.loads(value)["equip_id"], key_type=Types.STRING())
        .window(TumblingEventTimeWindows.of(Time.minutes(1)))
        .process(Fingerprint(), Types.STRING())
        .sink_to(sink)
    )
    environment.execute("datastream")


if __name__ == "__main__":
    main(*sys.argv[1:])
