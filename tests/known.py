"""Records of Kafka with keys and headers of all sorts, and the rows in which a plan has what Kafka knows of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from headrace.topics.kafka import KafkaLog

METADATA = {"device": "key", "headers": "headers", "part": "partition", "at": "offset", "received": "arrival_time"}
_RECORDS: list[tuple[int, bytes | None, list[tuple[str, bytes | None]] | None, dict[str, str | None]]] = [
    (0, b"a", [("unit", b"C"), ("line", "Ä".encode()), ("unit", b"K")], {"line": "Ä", "unit": "K"}),
    (0, None, None, {}),
    (1, b"\xff\x00", [("null", None), ("empty", b""), ("broken", b"\xff")], {"broken": None, "empty": "", "null": None}),
    (1, b"", [], {}),
    (0, "é".encode(), [("", b"no name")], {"": "no name"}),
    (1, b"a", [("a", b"1"), ("B", b"2"), ("b", b"3")], {"B": "2", "a": "1", "b": "3"}),
]


def send_known(servers: str, topic: str) -> None:
    """Send the records to a topic of two partitions, a tombstone and a record that is malformed among them."""
    producer = Producer({"bootstrap.servers": servers})
    for number, (partition, key, headers, _) in enumerate(_RECORDS):
        producer.produce(topic, b'{"v":%d}' % number, key, partition, headers=headers)  # type: ignore[arg-type]
        if number == 2:
            producer.produce(topic, None, b"tombstone", 0, headers=[("no", b"record")])
            producer.produce(topic, b"{}", b"malformed", 0, headers=[("no", b"row")])
    assert producer.flush(180) == 0


def known_rows(servers: str, topic: str) -> list[dict[str, Any]]:
    """Return the rows of the records that were sent, times in ms."""
    with closing(KafkaLog(servers, Path())) as log:
        entries = {json.loads(one.value)["v"]: one for part in (0, 1) for one in log.entries(topic, part, 0, 99) if one.value not in (b"", b"{}")}
    return [
        {
            "v": number, "device": None if key in (None, b"\xff\x00") else (key or b"").decode(), "headers": headers,
            "part": partition, "at": entries[number].offset, "received": entries[number].arrived_ms,
        }
        for number, (partition, key, _, headers) in enumerate(_RECORDS)
    ]  # fmt: skip


def in_ms(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in the order in which the records were sent, times in ms."""
    timed = [{**row, "received": round(datetime.fromisoformat(row["received"]).timestamp() * 1000)} for row in rows]
    return sorted(timed, key=lambda row: int(row["v"]))


def counted(rows: Iterable[dict[str, Any]]) -> list[dict[str, int]]:
    """Return how many rows each partition has, and the last offset of them."""
    places: dict[int, list[int]] = {0: [], 1: []}
    for row in rows:
        places[row["part"]].append(row["at"])
    return [{"part": part, "n": len(offsets), "last": max(offsets)} for part, offsets in places.items()]
