"""What a PyFlink author would write to count records by tag: `python process_by_hand_on_flink.py URL PYTHON FILE FOLDER [ordered]`.

As the records come; or, `ordered`, each when the watermark has passed it, in the order of event time.
"""

# ruff: noqa: D102, ARG002  (the methods are PyFlink's)

from __future__ import annotations

import json
import sys

from pyflink.common import Duration, Types, WatermarkStrategy
from pyflink.common.serialization import Encoder
from pyflink.common.watermark_strategy import TimestampAssigner
from pyflink.datastream.connectors.file_system import FileSink, FileSource, StreamFormat
from pyflink.datastream.functions import KeyedProcessFunction
from pyflink.datastream.state import ListStateDescriptor, ValueStateDescriptor

from remote import environment_of


class Count(KeyedProcessFunction):
    """Counts, and tells of every thousandth record."""

    def open(self, context):
        self.count = context.get_state(ValueStateDescriptor("count", Types.LONG()))

    def process_element(self, value, ctx):
        count = (self.count.value() or 0) + 1
        self.count.update(count)
        if count % 1000 == 0:
            yield json.dumps({"tag": ctx.get_current_key(), "count": count})


class Ordered(Count):
    """The same in the order of event time."""

    def open(self, context):
        super().open(context)
        self.waiting = context.get_list_state(ListStateDescriptor("waiting", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value, ctx):
        self.waiting.add(value)
        ctx.timer_service().register_event_time_timer(value["at"] + 1)
        return ()

    def on_timer(self, timestamp, ctx):
        due, left = [], []
        for one in self.waiting.get():
            (due if one["at"] < timestamp else left).append(one)
        self.waiting.update(left)
        for one in sorted(due, key=lambda one: one["at"]):
            yield from super().process_element(one, ctx)


class At(TimestampAssigner):
    """The event time of a record."""

    def extract_timestamp(self, value, record_timestamp):
        return value["at"]


def main(url: str, python: str, file: str, folder: str, ordered: str = "") -> None:
    options = {
        "python.fn-execution.bundle.size": "5000",
        "python.state.cache-size": "10000",
        "parallelism.default": "1",
        "execution.checkpointing.interval": "2 s",
    }
    environment = environment_of(url, python, options)
    source = FileSource.for_record_stream_format(StreamFormat.text_line_format(), file).build()
    rows = environment.from_source(source, WatermarkStrategy.no_watermarks(), "readings").map(json.loads)
    if ordered:
        rows = rows.assign_timestamps_and_watermarks(
            WatermarkStrategy.for_bounded_out_of_orderness(Duration.of_seconds(5)).with_timestamp_assigner(At())
        )
    counts = rows.key_by(lambda row: row["tag"], Types.STRING()).process(Ordered() if ordered else Count(), Types.STRING())
    counts.sink_to(FileSink.for_row_format(folder, Encoder.simple_string_encoder()).build())
    environment.execute("by hand")


if __name__ == "__main__":
    main(*sys.argv[1:])
