"""A limit of a running rules pipeline is changed on SQLite, Kafka and Flink: nothing is lost, nothing comes twice, and the state is kept.

With the limit come a column, two outputs, a window and a topic of failures.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import flink_changing
import pytest

import headrace as hr
from broker import Shared
from flink import client
from headrace.engines.embedded.live import Limits, Live, Patience, run_live
from headrace.engines.flink.rest import Rest
from headrace.engines.flink.run import run_topics
from headrace.errors import EnvironmentFault
from headrace.plan.pipeline import Plan
from headrace.topics.prefixed import PrefixedLog
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog

pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

from flink_topics import LIMIT, Topics

from headrace.topics.kafka import KafkaLog

START = 1_706_123_400_000
BEFORE = flink_changing.rules.plan()
AFTER = flink_changing.rules.plan(limit=80.0, least=50.0, label="new", second=True)
PATIENCE = Patience(None, None, None, rings=False)


def at(second: int, key: str, value: float) -> bytes:
    return json.dumps({"k": key, "t": START + second * 1000, "v": value}).encode()


# What came before the change is judged by the limits of before: the event of c shows that the watermark has passed it.
FIRST = [
    *(at(second, key, value) for second, key, value in [(1, "a", 40.0), (1, "b", 85.0), (2, "b", 85.0), (3, "a", 95.0), (4, "a", 95.0)]),
    *(at(second, "c", 95.0) for second in (5, 6, 7)),
    at(40, "d", 60.0),
]
SECOND = [at(41, "a", 85.0), at(42, "b", 85.0), at(43, "b", 85.0), at(44, "d", 45.0), at(300, "d", 60.0), at(400, "e", 60.0)]
# On Flink the job begins behind these.
BEGIN_BEHIND = [at(900, "a", 99.0), b"{"]
EVENTS = [("a", 41, 80.0, "new"), ("c", 7, 90.0, None)]
# a had 40, 95, 95 before the change; 45 of d is no longer above the least.
MEANS = [
    ("a", 4, 315.0 / 4, "new"),
    ("b", 4, 85.0, "new"),
    ("c", 3, 95.0, "new"),
    ("d", 1, 60.0, "new"),
    ("d", 1, 60.0, "new"),
    ("e", 1, 60.0, "new"),
]
# The new window begins with the records after the change.
LONGER = [("a", 1), ("b", 2), ("d", 1), ("e", 1)]


def check(rows_of: Callable[[str], list[Any]]) -> None:
    """See that there is each row once, by its limits."""
    events, means = rows_of("events"), rows_of("means")
    found = sorted((row["k"], (_ms(row["time"]) - START) // 1000, row["above"], row["label"]) for row in events)
    assert found == EVENTS
    assert sorted((row["k"], row["n"], row["mean"], row["label"]) for row in means) == MEANS
    assert sorted((row["k"], row["n"]) for row in rows_of("more")) == [(key, n) for key, n, *_ in MEANS if n > 2]
    assert sorted((row["k"], row["n"]) for row in rows_of("longer")) == LONGER
    assert rows_of("failed") == []


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def rows(log: Log, topic: str) -> list[Any]:
    found = []
    for part in log.topic(topic).partitions:
        place = part.first
        while entries := log.entries(topic, part.number, place, 1000):
            found += [json.loads(entry.value) for entry in entries]
            place = entries[-1].offset + 1
    return found


def on_embedded(log: Log) -> None:
    log.create("readings")
    for plan, records in ((BEFORE, FIRST), (AFTER, SECOND)):
        log.append("readings", records)
        run_live(Live(plan, log, PATIENCE), Limits(records=len(records), drain=plan is AFTER))
    check(partial(rows, log))
    changed = [step for step in rows(log, "changing-rules.clock") if step["plan"]]
    assert [(step["offsets"], step["settings"]["limit"]) for step in changed] == [([len(FIRST)], ["90.0", "80.0"])]


def test_on_sqlite(tmp_path: Path) -> None:
    with closing(SqliteLog(tmp_path / "log.db")) as log:
        on_embedded(log)


def test_on_kafka(kafka: Shared, tmp_path: Path) -> None:
    with closing(PrefixedLog(KafkaLog(kafka.servers, tmp_path), f"t{uuid.uuid4().hex[:8]}.")) as log:
        on_embedded(log)


def test_on_flink(kafka: Shared, flink: Rest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    topics = Topics(kafka.servers, tmp_path / "home", AFTER, 1)
    with closing(topics.log):
        topics.log.append(f"{topics.prefix}readings", BEGIN_BEHIND)
        begins = {"readings": (len(BEGIN_BEHIND),)}

        def counted() -> bool:
            return sum(entry.get("received") or 0 for entry in topics.rows("changing-rules.ledger")) + len(BEGIN_BEHIND) == len(
                topics.values("readings", 0)
            )

        until: list[tuple[Any, list[bytes], Callable[[], bool], bool]] = [
            (BEFORE, FIRST, lambda: bool(topics.rows("events")) and counted(), False),
            (AFTER, SECOND, counted, True),
        ]
        for plan, records, stop, drain in until:
            topics.log.append(f"{topics.prefix}readings", records)
            run_topics(
                plan,
                topics.places(idle_after_ms=None, begins=begins),
                flink,
                tmp_path / "kept",
                client=client(),
                stop=stop,
                drain=drain,
                seconds=LIMIT,
            )
        check(topics.rows)
    assert "setting limit: 90.0 → 80.0" in caplog.text
    assert "watch: keeps its state" in caplog.text
    assert "window:k: keeps its state" in caplog.text
    assert "window:k.2: starts without state" in caplog.text


def only_windows(*added: str) -> Plan:
    """Return means, which Flink computes without Python, with other outputs."""

    def build() -> dict[str, hr.Stream]:
        rows = flink_changing.readings()
        means = rows.window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)", mean="AVG(v)")
        longer = rows.window(hr.tumbling(hr.minutes(2)), by=["k"]).aggregate(n="COUNT(*)")
        found = {"many": means.where("n > 1"), "longer": longer, "rows": rows.select("k", "v"), "few": means.select("k", "n")}
        return {**{one: found[one] for one in added}, "means": means}

    return hr.pipeline("windows-alone", version="1")(build).plan()


def test_outputs_of_a_job_of_sql_alone(kafka: Shared, flink: Rest, tmp_path: Path) -> None:
    topics = Topics(kafka.servers, tmp_path / "home", only_windows("many", "longer", "rows", "few"), 1)
    kept, places = tmp_path / "kept", topics.places(idle_after_ms=None)
    with closing(topics.log):
        topics.log.append(f"{topics.prefix}readings", [at(1, "a", 1.0), at(2, "b", 1.0)])
        run_topics(only_windows(), places, flink, kept, stop=topics.all_counted, seconds=LIMIT)
        with pytest.raises(EnvironmentFault, match=r"its planner joined, parted or narrowed some of them .*--anew"):
            run_topics(only_windows("few"), places, flink, kept, seconds=LIMIT)
        topics.log.append(f"{topics.prefix}readings", [at(3, "a", 3.0), at(4, "a", 8.0)])
        changed = only_windows("many", "longer", "rows")
        run_topics(changed, places, flink, kept, stop=topics.all_counted, drain=True, seconds=LIMIT)
        found = {topic: sorted((row["k"], row.get("n", row.get("v"))) for row in topics.rows(topic)) for topic in changed.topics}
    assert found == {
        "means": [("a", 3), ("b", 1)],
        "many": [("a", 3)],
        "longer": [("a", 2)],
        "rows": [("a", 3.0), ("a", 8.0)],
    }
