"""Records as a connector reads them from the partitions of a topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl

from headrace.connectors.protocol import Record
from headrace.kernels.reading.batch import Lines
from headrace.topics.protocol import PartitionReader

__all__ = ["fresh", "offsets_of", "records_of"]


def fresh(
    readers: Sequence[PartitionReader], firsts: Callable[[], Mapping[int, int]], gone: Callable[[int, int, int], object]
) -> Iterator[tuple[int, Lines]]:
    """Yield what was fetched, by the partition's number.

    Parameters
    ----------
    firsts
        Returns the first offset that each partition has now.
    gone
        Is told of records that retention dropped before they were read: the partition, the first of them and the one behind them.
    """
    for number, reader in enumerate(readers):
        while not reader.drained:
            expected = reader.position["record"]
            lines = reader.read()
            assert isinstance(lines, Lines)
            if not len(lines):
                continue
            # Where a log passes over offsets that are no records, such as Kafka's marks of transactions, nothing is gone.
            if offsets_of(lines)[0] > expected and (first := firsts()[number]) > expected:
                gone(number, expected, first)
            yield number, lines


def offsets_of(lines: Lines) -> pl.Series:
    """Return the records' offsets; where a log counts the records that retention took before them too, less those."""
    assert lines.stamps is not None
    return lines.stamps.offsets.tail(len(lines))


def records_of(topic: str, number: int, lines: Lines) -> Iterator[Record]:
    """Yield the records of a partition, with what the log says of each."""
    stamps = lines.stamps
    assert stamps is not None
    values = [lines.odd[place] if text is None else text.encode() for place, text in enumerate(lines.text.to_list())]
    keys: Sequence[bytes | None] = [None] * len(values) if stamps.keys is None else stamps.keys.to_list()
    columns = offsets_of(lines).to_list(), stamps.arrived_ms.to_list(), keys, values, stamps.order.to_list()
    for offset, arrived_ms, key, value, order in zip(*columns, strict=True):
        yield Record(topic, number, offset, arrived_ms, key, value, order)
