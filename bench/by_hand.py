"""Run bench/by_hand.sql on a Flink cluster of its own: SERVERS PARALLELISM."""

from __future__ import annotations

import sys
import tempfile
import uuid
from pathlib import Path

from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.run import submit, wait
from headrace.topics.kafka import KafkaLog

servers, parallelism = sys.argv[1:]
log = KafkaLog(servers, Path())
for topic in ("by-hand.dead", "by-hand.counts"):
    if topic not in {known.name for known in log.topics()}:
        log.create(topic)
log.close()
script = Path(__file__).with_suffix(".sql").read_text()
with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), fetched(Path(), kafka=True), Sizes(slots=int(parallelism))) as cluster:
    for name, value in {"servers": servers, "parallelism": parallelism, "folder": folder, "run": uuid.uuid4().hex}.items():
        script = script.replace(f"{{{name}}}", value)
    wait(cluster.rest, submit(cluster.rest, script))
