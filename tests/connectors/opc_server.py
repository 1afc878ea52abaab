"""A server of OPC UA in a process of its own, as tests need one: PORT and a definition in JSON. It takes commands, one a line.

Definition: `values`: the variables of object Line1; `count`: milliseconds from one count of Line1/Count to the next; `history`: a file
that stores what Count was; `users`: passwords by user; `certificate`, `key`: files; `security`: names of policies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.history_sql import HistorySQLite
from asyncua.server.user_managers import UserManager

from connectors.opc_space import WithNodes

URI = "urn:headrace:tests"


class Users(UserManager):
    def __init__(self, passwords: dict[str, str]) -> None:
        self._passwords = passwords

    def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> User | None:  # noqa: ARG002
        if not self._passwords or (username in self._passwords and self._passwords[username] == password):
            return User(UserRole.User, name=username)
        return None


def variant(value: Any) -> ua.Variant:
    kinds = {int: ua.VariantType.Int64, float: ua.VariantType.Double, bool: ua.VariantType.Boolean, str: ua.VariantType.String}
    if isinstance(value, dict):
        (kind,) = value
        special: dict[str, Any] = {
            "null": ua.Variant(None, ua.VariantType.Null),
            "nan": ua.Variant(float("nan"), ua.VariantType.Double),
            "time": ua.Variant(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), ua.VariantType.DateTime),
            "structure": ua.Variant(ua.EUInformation("x", 1), ua.VariantType.ExtensionObject),
            "localized": ua.Variant(ua.LocalizedText("Ofen"), ua.VariantType.LocalizedText),
            "bytes": ua.Variant(b"\x00\xff", ua.VariantType.ByteString),
        }
        return special[kind]
    return ua.Variant(value, kinds[type(value[0] if isinstance(value, list) else value)])


def engineering_units(unit: str) -> ua.EUInformation:
    """What a server says of a unit: a code of UNECE, or a text that is none, as a vendor's own."""
    if unit.isupper() and unit.isalnum():
        return ua.EUInformation("http://www.opcfoundation.org/UA/units/un/cefact", int.from_bytes(unit.encode(), "big"))
    return ua.EUInformation("urn:vendor:units", -1, ua.LocalizedText(unit))


async def build(server: Server, definition: dict[str, Any]) -> Any:
    index = await server.register_namespace(URI)
    line = await server.nodes.objects.add_object(ua.NodeId("Line1", index), ua.QualifiedName("Line1", index))
    for name, value in definition.get("values", {}).items():
        node = await line.add_variable(ua.NodeId(name, index), ua.QualifiedName(name, index), variant(value))
        if name in definition.get("units", {}):
            await node.add_property(index, "EngineeringUnits", engineering_units(definition["units"][name]))
    count = await line.add_variable(ua.NodeId(1000, index), ua.QualifiedName("Count", index), 0, ua.VariantType.Int64)
    if "history" in definition:
        await server.historize_node_data_change(count, period=None, count=0)
    return index, count


async def counted(server: Server, count: Any, milliseconds: float, start: int) -> None:
    number = start
    while True:
        await asyncio.sleep(milliseconds / 1000)
        number += 1
        await server.write_attribute_value(count.nodeid, ua.DataValue(ua.Variant(number, ua.VariantType.Int64), SourceTimestamp=datetime.now(UTC)))


async def obey(server: Server, index: int) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        node = ua.NodeId(command["node"], index)
        if "write" in command:
            now = datetime.now(UTC) + timedelta(seconds=command.get("ahead", 0))
            stamp = None if command.get("unstamped") else now
            value = ua.DataValue(variant(command["write"]), ua.StatusCode(command.get("quality", 0)), SourceTimestamp=stamp, ServerTimestamp=now)
            # This server refuses a value of another type than the one before, and others do not.
            server.iserver.aspace._nodes[node].attributes[ua.AttributeIds.Value].value = None
            await server.write_attribute_value(node, value)
        if "burst" in command:
            for number in range(command["burst"]):
                value = ua.DataValue(ua.Variant(number, ua.VariantType.Int64), SourceTimestamp=datetime.now(UTC))
                await server.write_attribute_value(node, value)
        if "unit" in command:
            (found,) = [one for one in await server.get_node(node).get_properties() if (await one.read_browse_name()).Name == "EngineeringUnits"]
            await found.write_value(engineering_units(command["unit"]))
        if "delete" in command:
            await server.delete_nodes([server.get_node(node)], recursive=True)
        if "add" in command:
            line = server.get_node(ua.NodeId("Line1", index))
            await line.add_variable(node, ua.QualifiedName(command["node"], index), variant(command["add"]))


async def serve(port: int, definition: dict[str, Any]) -> None:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    server = WithNodes(user_manager=Users(definition.get("users", {})))
    if "history" in definition:
        storage = HistorySQLite(definition["history"])
        await storage.init()
        server.iserver.history_manager.set_storage(storage)
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant/")
    server.set_security_policy([getattr(ua.SecurityPolicyType, name) for name in definition.get("security", ["NoSecurity"])])
    if "users" in definition:
        server.set_identity_tokens([ua.UserNameIdentityToken])
    if "certificate" in definition:
        await server.set_application_uri(URI)
        await server.load_certificate(definition["certificate"])
        await server.load_private_key(definition["key"])
    index, count = await build(server, definition)
    async with server:
        start = definition.get("start", 0)
        tasks = [asyncio.create_task(obey(server, index))]
        if "count" in definition:
            tasks.append(asyncio.create_task(counted(server, count, definition["count"], start)))
        await asyncio.gather(*tasks)


def main(port: str, definition: str) -> None:
    """Serve until the process is ended."""
    asyncio.run(serve(int(port), json.loads(definition)))
