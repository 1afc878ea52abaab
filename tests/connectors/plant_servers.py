"""Servers of a plant in processes of their own, and readings of a topic, for the tests of connectors that read them."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

from headrace.connectors.ingest import Ingest
from headrace.connectors.protocol import Source
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from serving import LIMIT, free_port

HERE = Path(__file__).parent
TOPIC = "readings"


class PlantServer:
    """A script of this folder, which gets PORT as its first argument and listens there."""

    def __init__(self, script: str, *arguments: str, ports: int = 1) -> None:
        self.ports = [free_port() for _ in range(ports)]
        self.port = self.ports[0]
        self._command = [sys.executable, str(HERE / script), ",".join(map(str, self.ports)), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        give_up_at = time.monotonic() + LIMIT
        while time.monotonic() < give_up_at:
            assert self._process.poll() is None, self._process.communicate()[1]
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.ports[-1]), timeout=1).close()
                return
            time.sleep(0.05)
        raise AssertionError("the server does not listen")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()

    close = end

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def readings(log: Log, topic: str = TOPIC) -> list[dict[str, Any]]:
    """The readings of a topic's first partition."""
    found: list[dict[str, Any]] = []
    if topic not in {info.name for info in log.topics()}:
        return found
    while more := log.entries(topic, 0, len(found), 100_000):
        found += [json.loads(entry.value) for entry in more]
    return found


def by_tag(found: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    tags = defaultdict(list)
    for one in found:
        tags[one["tag"]].append(one)
    return dict(tags)


class Bridged:
    """A bridge from a source that runs beside a test."""

    def __init__(self, log: SqliteLog, source: Source, **options: Any) -> None:
        self.log, self.told, self.done = log, list[str](), False
        # The bridge commits in a thread, and a log is used by one thread at a time.
        self._own = SqliteLog(log.path)
        self.ingest = Ingest(self._own, source, TOPIC, **({"patience": None, "told": self.told.append} | options))

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.ingest.run(lambda: self.done))
        return self

    async def until(self, seen: Callable[[list[dict[str, Any]]], Any], what: str = "it") -> Any:
        """Wait until the readings show something, and return it."""
        give_up_at = time.monotonic() + LIMIT
        while not (found := seen(readings(self.log))):
            if self._running.done():
                self._running.result()
            assert time.monotonic() < give_up_at, f"{what}: not within {LIMIT:.0f} s; told {self.told}, last {readings(self.log)[-5:]}"
            await asyncio.sleep(0.05)
        return found

    async def __aexit__(self, *_: object) -> None:
        self.done = True
        with closing(self._own), closing(self.ingest):
            await asyncio.wait_for(self._running, LIMIT)
