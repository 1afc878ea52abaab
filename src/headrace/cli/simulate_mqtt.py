"""An MQTT broker as what a simulated plant writes to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from headrace.connectors import find
from headrace.connectors.protocol import Record, Unavailable
from headrace.connectors.retries import Retries
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["MqttSink"]

_PATIENCE_SECONDS = 60.0


class MqttSink:
    """Publishes each line as a message at QoS 1. A broker that is away is waited for, a minute at most.

    Raises
    ------
    PlanError
        If the address is wrong.
    """

    def __init__(self, address: str) -> None:
        module: Any = find(address)
        self._target = module.target(address)
        self._loop = asyncio.Runner()
        self._number = 0

    def write(self, data: bytes) -> object:
        """Publish lines, and return when the broker has them."""
        records = [Record("simulate", 0, self._number + place, 0, None, line) for place, line in enumerate(data.splitlines())]
        if records:
            self._number += len(records)
            self._loop.run(self._send(records))
        return len(data)

    async def _send(self, records: list[Record]) -> None:
        retries = Retries(_PATIENCE_SECONDS)
        while True:
            try:
                never = await self._target.send(records)
            except Unavailable as fault:
                wait = retries.failed(time.monotonic())
                if wait is None:
                    fix = "is the broker running, and the address right?"
                    raise EnvironmentFault(f"{fault.what}, for {_PATIENCE_SECONDS:g} s", where=self._target.name, fix=fix) from None
                await asyncio.sleep(wait)
            else:
                if never:
                    raise PlanError(next(iter(never.values())), where=self._target.name, fix="give a topic of the message's fields")
                return

    def flush(self) -> object:
        """Do nothing: what was written has been published."""
        return None

    def close(self) -> object:
        """End the connection."""
        try:
            self._loop.run(self._target.close())
        finally:
            self._loop.close()
        return None
