"""Simulated devices as an OPC UA server: an object for each, with a variable for each of its values."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace.connectors.address import Address
from headrace.errors import EnvironmentFault
from headrace.plant.quality import Quality
from headrace.plant.units import unit_symbol
from headrace.simulate.devices import Devices, Message, Variable
from headrace.simulate.serving import Served

if TYPE_CHECKING:
    from asyncua import Server

__all__ = ["opc_server"]

_EXAMPLE = "opc.tcp://127.0.0.1:4840"
_URI = "urn:headrace:simulate"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNECE = "http://www.opcfoundation.org/UA/units/un/cefact"


def opc_server(address: str, devices: Devices) -> Served:
    """Serve devices at an address.

    Raises
    ------
    PlanError
        If the address is wrong.
    EnvironmentFault
        If the port is not free, or a package is missing.
    """
    given = Address(address, (), _EXAMPLE, "--to")
    if not given.host or given.user is not None:
        raise given.wrong("is not opc.tcp://HOST:PORT")
    host = f"[{given.host}]" if ":" in given.host else given.host
    return Served(_Variables(f"opc.tcp://{host}:{given.port or 4840}{given.path}", devices), devices)


class _Variables:
    """A server without security, whose variables only the simulation writes."""

    def __init__(self, url: str, devices: Devices) -> None:
        self._url, self._devices = url, devices.variables
        self._empty = None if devices.empty_ms is None else _time(devices.empty_ms)
        self._server: Server | None = None
        self._nodes: dict[tuple[str, str], Any] = {}

    async def start(self) -> None:
        try:
            from asyncua import Server, ua
        except ModuleNotFoundError:
            raise EnvironmentFault("needs the package asyncua", where="--to", fix="pip install 'headrace[opcua]'") from None
        logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)  # what goes wrong is an error here
        server = Server()
        await server.init()
        server.set_endpoint(self._url)
        server.set_server_name("headrace simulate")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        index = await server.register_namespace(_URI)
        for device, variables in self._devices.items():
            await self._add(server, device, variables, index)
        try:
            await server.start()
        except OSError as error:
            raise EnvironmentFault(
                f"the server cannot listen: {error.strerror or error}", where=self._url, fix="is the port in use, or not this user's? give another"
            ) from None
        self._server = server

    async def _add(self, server: Server, device: str, variables: Mapping[str, Variable], index: int) -> None:
        from asyncua import ua

        parent = await server.nodes.objects.add_object(ua.NodeId(device, index), ua.QualifiedName(device, index))
        for name, (unit, span) in variables.items():
            path = f"{device}.{name}"
            waiting = ua.DataValue(ua.Variant(math.nan, ua.VariantType.Double), ua.StatusCode(Quality.BAD_NO_DATA), SourceTimestamp=self._empty)
            node = await parent.add_variable(ua.NodeId(path, index), ua.QualifiedName(name, index), math.nan, ua.VariantType.Double)
            await server.write_attribute_value(node.nodeid, waiting)
            if unit is not None:
                symbol = ua.LocalizedText(unit_symbol(unit))
                shown = ua.EUInformation(_UNECE, int.from_bytes(unit.encode(), "big"), symbol, symbol)
                await node.add_property(ua.NodeId(f"{path}.EngineeringUnits", index), ua.QualifiedName("EngineeringUnits", 0), shown)
            if span is not None:
                await node.add_property(ua.NodeId(f"{path}.EURange", index), ua.QualifiedName("EURange", 0), ua.Range(*span))
            self._nodes[device, name] = node.nodeid

    async def update(self, messages: Iterable[Message]) -> None:
        from asyncua import ua

        assert self._server is not None
        for device, seconds, values in messages:
            time = _time(round(seconds * 1000))
            for name, number in values.items():
                value = ua.Variant(math.nan if number is None else number, ua.VariantType.Double)
                status = ua.StatusCode(Quality.BAD_NO_DATA if number is None else Quality.GOOD)
                stamped = ua.DataValue(value, status, SourceTimestamp=time, ServerTimestamp=datetime.now(UTC))
                await self._server.write_attribute_value(self._nodes[device, name], stamped)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()


def _time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
