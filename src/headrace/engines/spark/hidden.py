"""The hidden columns that go along with every row of a Spark script."""

from __future__ import annotations

__all__ = ["BOUNDS", "CLOSED", "GIVEN", "HIDDEN", "INPUT_ORDER", "LIVE_CLOSED", "PLACED", "RECORD", "TIME", "WINDOW"]

RECORD = ("_source", "_partition", "_offset")
TIME = ("_time_ms", "_watermark_ms", "_shown_ms", "_entry")
WINDOW = ("_start_ms", "_end_ms", "_key")
GIVEN = (*RECORD, *TIME[:3], "_arrived_ms", "_entry")
HIDDEN = frozenset([
    *RECORD, *TIME, *WINDOW, "_time", "_window", "_taken", "_ends", "_at", "_arrived_ms", "_row", "_due_ms", "_rank", "_at_ms", "_mark_ms", "_bound_ms",
])  # fmt: skip
BOUNDS = {"window_start": "TIMESTAMP_MILLIS(`_start_ms`)", "window_end": "TIMESTAMP_MILLIS(`_end_ms`)", "revision": "0L"}
CLOSED = {  # rows of windows as records of source 0, of the last ms of their windows
    "_source": "0",
    "_partition": "0",
    **dict.fromkeys(("_offset", "_time_ms"), "`_end_ms` - 1"),
    "_watermark_ms": str(-(2**62)),
    "_shown_ms": "`_end_ms` - 1",
    "_arrived_ms": "CAST(NULL AS BIGINT)",
    "_entry": "ARRAY(ROW_NUMBER() OVER (PARTITION BY `_end_ms` ORDER BY `_start_ms`, `_key`))",
}
LIVE_CLOSED = {  # the same in a stream, which cannot number them: Python puts them in order
    **CLOSED,
    "_entry": "STRUCT(`_start_ms`, `_key`)",
    "_time": "WINDOW_TIME(`_window`)",
}
# What the host reads of a record of several inputs.
PLACED = ("_source", "_partition", "_offset", "_entry", "_time_ms", "_shown_ms", "_arrived_ms")
INPUT_ORDER = "STRUCT({}`_source`, `_partition`, `_offset`, `_entry`)"
