"""A server of a simulated plant in a thread of its own, which answers while the plant waits for its next tick."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from headrace.simulate.devices import Devices, Message

__all__ = ["Served", "Server"]

_T = TypeVar("_T")


class Server(Protocol):
    """A server of the values of devices. All its methods run in one event loop."""

    async def start(self) -> None:
        """Listen. Raises EnvironmentFault if it cannot."""

    async def update(self, messages: Iterable[Message]) -> None:
        """Serve the values of these messages from now on."""

    async def stop(self) -> None:
        """End the connections, and listen no more."""


class Served:
    """Hands what devices say in the lines of their plant to a server.

    Raises
    ------
    EnvironmentFault
        If the server cannot listen.
    """

    def __init__(self, server: Server, devices: Devices) -> None:
        self._server, self._messages = server, devices.messages
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulated server", daemon=True)
        self._thread.start()
        try:
            self._run(server.start())
        except BaseException:
            self._end()
            raise

    def _run(self, what: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def write(self, data: bytes) -> object:
        """Serve the values of these lines from now on."""
        self._run(self._server.update([message for line in data.splitlines() for message in self._messages(msgspec.json.decode(line))]))
        return len(data)

    def flush(self) -> object:
        """Do nothing: what was written is served."""
        return None

    def close(self) -> object:
        """Stop the server."""
        try:
            if not self._loop.is_closed():
                self._run(self._server.stop())
        finally:
            self._end()
        return None

    def _end(self) -> None:
        if self._loop.is_closed():
            return
        self._run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    """End the tasks that connections have left behind."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for one in others:
        one.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
