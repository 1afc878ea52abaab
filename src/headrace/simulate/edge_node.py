"""Simulated devices as those of an edge node of Sparkplug B, which declares them in births and sends their values."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from headrace._clock import now_ms
from headrace.connectors.mqtt_address import SERVER_PARAMETERS, parsed, server_of, version_of
from headrace.connectors.mqtt_client import Connection, connect
from headrace.connectors.mqtt_server import Server, Will
from headrace.connectors.protocol import Unavailable
from headrace.connectors.retries import Retries
from headrace.connectors.sparkplug_host import NAMESPACE
from headrace.connectors.sparkplug_payload import Undecodable, encoded, parse
from headrace.errors import EnvironmentFault, PlanError
from headrace.simulate.devices import Devices, Message
from headrace.simulate.serving import Served

__all__ = ["edge_node"]

_EXAMPLE = "sparkplug://user@127.0.0.1:1883/GROUP/EDGE"
_PATIENCE_SECONDS = 60.0
_INT64, _DOUBLE, _BOOLEAN = 4, 10, 11
_REBIRTH = "Node Control/Rebirth"


def edge_node(address: str, devices: Devices) -> Served:
    """Connect an edge node to the broker of an address `sparkplug://host:port/GROUP/EDGE`. A broker that is away is waited for, a minute at most.

    Raises
    ------
    PlanError
        If the address is wrong, or the broker refuses it.
    EnvironmentFault
        If the broker is away.
    """
    one = parsed(address, SERVER_PARAMETERS, _EXAMPLE, "--to")
    path = unquote(one.path.removeprefix("/"))
    group, slash, edge = path.partition("/")
    if not re.fullmatch(r"[^/+#\0]+", group) or not re.fullmatch(r"[^/+#\0]+", edge if slash else "simulate"):
        raise PlanError(f"has the path {path!r}", where="--to", fix=f"give a group, or a group and an edge node: {_EXAMPLE}")
    server = server_of(one, "--to", f"headrace-{secrets.token_hex(7)}", path, v5=version_of(one))
    return Served(_EdgeNode(server, group, edge if slash else "simulate", devices), devices)


class _EdgeNode:
    """An edge node. What it would send while the broker is away is lost, as is usual at QoS 0; its births have the last values."""

    def __init__(self, server: Server, group: str, edge: str, devices: Devices) -> None:
        self._server, self._group, self._edge, self._variables = server, group, edge, devices.variables
        # The value and the time of each variable's last message; without one it has no value.
        self._last: dict[str, dict[str, tuple[float | None, int | None]]] = {
            device: dict.fromkeys(variables, (None, devices.empty_ms)) for device, variables in self._variables.items()
        }
        names = [(device, name) for device, variables in self._variables.items() for name in variables]
        self._aliases = {place: number for number, place in enumerate(names)}
        self._connection: Connection | None = None
        self._seq = self._births = -1
        self._born = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._running = asyncio.create_task(self._run())
        born = asyncio.create_task(self._born.wait())
        await asyncio.wait([self._running, born], return_when=asyncio.FIRST_COMPLETED)
        born.cancel()
        self._check()

    def _check(self) -> None:
        """Raise what has ended the connection for good."""
        if self._running is not None and self._running.done():
            self._running.result()

    async def _run(self) -> None:
        """Stay connected, and declare all whenever a host asks for it."""
        retries = Retries(_PATIENCE_SECONDS)
        while True:
            try:
                await self._serve(retries)
            except Unavailable as fault:
                self._connection = None
                wait = retries.failed(time.monotonic())
                if wait is None:
                    fix = "is the broker running, and the address right?"
                    raise EnvironmentFault(f"{fault.what}, for {_PATIENCE_SECONDS:g} s", where=self._server.name, fix=fix) from None
                await asyncio.sleep(wait)

    async def _serve(self, retries: Retries) -> None:
        self._births = (self._births + 1) % 256
        connection = await connect(replace(self._server, will=Will(self._topic("NDEATH"), self._death(), retain=False)))
        try:
            command = self._topic("NCMD")
            await connection.subscribe(command, 1, retained=False)
            self._connection = connection
            self._declare(connection)
            retries.succeeded()
            self._born.set()
            while True:
                await connection.wait()
                while connection.arrived:
                    message = connection.arrived.popleft().message
                    connection.acknowledge([message.mid] if message.mid else [])
                    if message.topic.decode(errors="replace") == command and _asks_for_births(message.payload):
                        self._declare(connection)
        finally:
            connection.close()

    def _topic(self, kind: str, device: str = "") -> str:
        return "/".join(filter(None, (NAMESPACE, self._group, kind, self._edge, device)))

    def _death(self) -> bytes:
        return encoded(now_ms(), None, [{"name": "bdSeq", "datatype": _INT64, "long_value": self._births}])

    def _next(self) -> int:
        self._seq = (self._seq + 1) % 256
        return self._seq

    def _declare(self, connection: Connection) -> None:
        """Send the births of the node and of its devices."""
        now, self._seq = now_ms(), -1
        own = [
            {"name": "bdSeq", "datatype": _INT64, "long_value": self._births},
            {"name": _REBIRTH, "datatype": _BOOLEAN, "boolean_value": False},
        ]
        connection.send(self._topic("NBIRTH"), encoded(now, self._next(), own))
        for device in self._last:
            connection.send(self._topic("DBIRTH", device), encoded(now, self._next(), self._declared(device)))

    def _declared(self, device: str) -> Iterator[Mapping[str, Any]]:
        for name, variable in self._variables[device].items():
            value, at = self._last[device][name]
            unit = {} if variable.unit is None else {"unit": variable.unit}
            yield {"name": name, **unit, **self._metric(device, name, value, at)}

    def _metric(self, device: str, name: str, value: float | None, at: int | None) -> dict[str, Any]:
        known: dict[str, Any] = {"is_null": True} if value is None else {"double_value": value}
        return {"alias": self._aliases[device, name], "datatype": _DOUBLE, **known, **({} if at is None else {"timestamp": at})}

    async def update(self, messages: Iterable[Message]) -> None:
        self._check()
        for device, seconds, values in messages:
            at = round(seconds * 1000)
            self._last[device] |= {name: (value, at) for name, value in values.items()}
            if self._connection is not None and not self._connection.lost:
                metrics = [self._metric(device, name, value, at) for name, value in values.items()]
                self._connection.send(self._topic("DDATA", device), encoded(at, self._next(), metrics))

    async def stop(self) -> None:
        if self._connection is not None and not self._connection.lost:
            self._connection.send(self._topic("NDEATH"), self._death())  # a broker does not send the will of a client that says goodbye
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError, EnvironmentFault, PlanError):
                await self._running


def _asks_for_births(payload: bytes) -> bool:
    try:
        return any(metric.name == _REBIRTH and metric.value is True for metric in parse(payload).metrics)
    except Undecodable:
        return False
