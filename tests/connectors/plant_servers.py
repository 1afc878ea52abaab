"""Servers of a plant in processes of their own, and readings of a topic, for the tests of connectors that read them."""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any, Self

from forking import Forked
from headrace.connectors.ingest import Ingest
from headrace.connectors.protocol import Source
from headrace.topics.protocol import Log
from headrace.topics.sqlite import SqliteLog
from ports import free_port
from serving import LIMIT
from waiting import now

TOPIC = "readings"


def _main_of(module: str, *arguments: str) -> None:
    importlib.import_module(module).main(*arguments)


class PlantServer:
    """A module of this folder, whose `main` gets PORT as its first argument and listens there."""

    def __init__(self, module: str, *arguments: str, ports: int = 1) -> None:
        self.ports = [free_port() for _ in range(ports)]
        self.port = self.ports[0]
        self._call = _main_of, f"connectors.{module}", ",".join(map(str, self.ports)), *arguments
        self._process: Forked | None = None

    def start(self) -> None:
        self._process = Forked(*self._call, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        give_up_at = time.monotonic() + LIMIT
        while time.monotonic() < give_up_at:
            assert self._process.poll() is None, self._process.communicate()[1]
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.ports[-1]), timeout=1).close()
                return
            time.sleep(0.05)
        self.end()
        raise AssertionError("the server does not listen")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def tell(self, **command: Any) -> None:
        """Give a command to a server that takes commands."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

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
        while not (found := now(lambda: seen(readings(self.log)))):
            if self._running.done():
                self._running.result()
            assert time.monotonic() < give_up_at, f"{what}: not within {LIMIT:.0f} s; told {self.told}, last {readings(self.log)[-5:]}"
            await asyncio.sleep(0.05)
        return found

    async def __aexit__(self, *_: object) -> None:
        self.done = True
        with closing(self._own), closing(self.ingest):
            await asyncio.wait_for(self._running, LIMIT)


class Relay:
    """A network between a client and a port of a server that a test cuts."""

    def __init__(self, to: int) -> None:
        self._to, self.port = to, free_port()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, forth}
        self._serving.add(asyncio.current_task())
        await asyncio.gather(self._copy(reader, forth), self._copy(back, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self._writers.discard(writer)

    def cut(self) -> None:
        """Break all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving)
