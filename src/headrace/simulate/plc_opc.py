"""Simulated controllers as an OPC UA server: an object for each, with a variable for each of its values."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace.connectors.address import Address
from headrace.errors import EnvironmentFault
from headrace.plant.quality import Quality
from headrace.simulate.plc import UNIT_CODES, VARIABLES
from headrace.simulate.serving import Served

if TYPE_CHECKING:
    from asyncua import Server

__all__ = ["opc_server"]

_EXAMPLE = "opc.tcp://127.0.0.1:4840"
_URI = "urn:headrace:simulate"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNECE = "http://www.opcfoundation.org/UA/units/un/cefact"


def opc_server(address: str, controllers: Sequence[str]) -> Served:
    """Serve controllers at an address.

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
    return Served(_Variables(f"opc.tcp://{host}:{given.port or 4840}{given.path}", controllers))


class _Variables:
    """A server without security, whose variables only the simulation writes."""

    def __init__(self, url: str, controllers: Sequence[str]) -> None:
        self._url, self._controllers = url, controllers
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
        server.set_server_name("headrace simulate plc")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        index = await server.register_namespace(_URI)
        for controller in self._controllers:
            await self._add(server, controller, index)
        try:
            await server.start()
        except OSError as error:
            raise EnvironmentFault(
                f"the server cannot listen: {error.strerror or error}", where=self._url, fix="is the port in use, or not this user's? give another"
            ) from None
        self._server = server

    async def _add(self, server: Server, controller: str, index: int) -> None:
        from asyncua import ua

        parent = await server.nodes.objects.add_object(ua.NodeId(controller, index), ua.QualifiedName(controller, index))
        for name, (low, high, unit) in VARIABLES.items():
            path = f"{controller}.{name}"
            waiting = ua.DataValue(ua.Variant(math.nan, ua.VariantType.Double), ua.StatusCode(Quality.BAD_NO_DATA))
            node = await parent.add_variable(ua.NodeId(path, index), ua.QualifiedName(name, index), math.nan, ua.VariantType.Double)
            await server.write_attribute_value(node.nodeid, waiting)
            code = UNIT_CODES[unit]
            shown = ua.EUInformation(_UNECE, int.from_bytes(code.encode(), "big"), ua.LocalizedText(unit), ua.LocalizedText(unit))
            await node.add_property(ua.NodeId(f"{path}.EngineeringUnits", index), ua.QualifiedName("EngineeringUnits", 0), shown)
            await node.add_property(ua.NodeId(f"{path}.EURange", index), ua.QualifiedName("EURange", 0), ua.Range(low, high))
            self._nodes[controller, name] = node.nodeid

    async def update(self, messages: Iterable[dict[str, Any]]) -> None:
        from asyncua import ua

        assert self._server is not None
        for message in messages:
            time = _EPOCH + timedelta(milliseconds=round(message["timestamp"] * 1000))
            for name, one in message["variables"].items():
                good = isinstance(one["value"], float)
                value = ua.Variant(one["value"] if good else math.nan, ua.VariantType.Double)
                status = ua.StatusCode(Quality.GOOD if good else Quality.BAD_NO_DATA)
                stamped = ua.DataValue(value, status, SourceTimestamp=time, ServerTimestamp=datetime.now(UTC))
                await self._server.write_attribute_value(self._nodes[message["plc_id"], name], stamped)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
