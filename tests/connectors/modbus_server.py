"""A Modbus server in a process of its own, as tests need one: PORT and a definition in JSON.

The definition names units, and of each its tables and busy addresses. A register counts up at each read if its value is "count".
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

BITS, WORDS = ("coil", "discrete"), ("holding", "input")


def device(unit: int, definition: dict[str, Any]) -> SimDevice:
    def block(table: str) -> list[SimData]:
        kind = DataType.BITS if table in BITS else DataType.REGISTERS
        given = definition.get(table, {}) or {"60000": [False] if table in BITS else [0]}
        return [SimData(int(address), values=values, datatype=kind) for address, values in given.items()]

    busy = dict.fromkeys(definition.get("busy", []), 2)
    counting, fails, silent = definition.get("counting", {}), definition.get("fails", {}), definition.get("silent", False)

    async def action(code: int, start: int, address: int, count: int, registers: list[int], _: object) -> ExcCodes | None:
        if silent:
            await asyncio.sleep(3600)
        for one in range(address, address + count):
            if busy.get(one, 0) > 0:
                busy[one] -= 1
                return ExcCodes.DEVICE_BUSY
            if str(one) in fails:
                return ExcCodes(fails[str(one)])
            if code == 3 and str(one) in counting:
                registers[one - start] = (registers[one - start] + 1) % 65_536
        return None

    return SimDevice(unit, simdata=tuple(block(table) for table in ("coil", "discrete", "holding", "input")), action=action)


async def serve(ports: list[int], definition: dict[str, Any]) -> None:
    servers = [
        ModbusTcpServer([device(int(unit), one) for unit, one in definition.items()], address=("127.0.0.1", port), ignore_missing_devices=True)
        for port in ports
    ]
    await asyncio.gather(*(one.serve_forever() for one in servers))


def main(ports: str, definition: str) -> None:
    """Serve until the process is ended."""
    asyncio.run(serve([int(port) for port in ports.split(",")], json.loads(definition)))
