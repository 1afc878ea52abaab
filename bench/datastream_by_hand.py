"""Run bench/datastream.py on a Flink cluster of its own: STYLE SERVERS PARALLELISM."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from headrace.engines.flink.client import pyflink
from headrace.engines.flink.cluster import Cluster, Sizes, fetched

style, servers, parallelism = sys.argv[1:]
jars, python = fetched(Path(), kafka=True), pyflink(Path())
connector = next(jar for jar in jars if "connector-kafka" in jar.name)
with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), jars, Sizes(slots=int(parallelism), managed=256)) as cluster:
    script = Path(__file__).with_name("datastream.py")
    command = [python, script, style, cluster.rest.url, python, connector, servers, parallelism, uuid.uuid4().hex]
    subprocess.run([str(one) for one in command], check=True, timeout=7200)
