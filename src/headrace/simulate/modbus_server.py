"""Simulated devices as a Modbus server: a unit for each, whose holding registers have the values of its last message."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.connectors.address import Address
from headrace.connectors.modbus.registers import COLUMNS
from headrace.errors import EnvironmentFault, PlanError
from headrace.simulate.devices import Devices, Message
from headrace.simulate.serving import Served

if TYPE_CHECKING:
    from pymodbus.constants import ExcCodes
    from pymodbus.server import ModbusTcpServer

__all__ = ["modbus_server", "register_map"]

_EXAMPLE = "modbus://127.0.0.1:5020?map=registers.csv"
_MOST_UNITS = 247
_WORDS = 4  # of a float64
_TIME = "timestamp"  # the first register of each


def modbus_server(address: str, devices: Devices) -> Served:
    """Serve devices at an address, and write their register map to the file that it names.

    Raises
    ------
    PlanError
        If the address is wrong, there are more devices than units, or the file is another map.
    EnvironmentFault
        If the port is not free, or the file cannot be written.
    """
    given = Address(address, ("map",), _EXAMPLE, "--to")
    path = given.get("map")
    if not given.host or given.path.strip("/") or given.user is not None:
        raise given.wrong("is not modbus://HOST:PORT?map=FILE.csv")
    if path is None:
        raise given.wrong("names no register map to write")
    if (count := len(devices.variables)) > _MOST_UNITS:
        raise PlanError(f"there are {count} controllers", where="--to", fix=f"a Modbus server has up to {_MOST_UNITS} units; give fewer --plcs")
    served = Served(_Registers(given.host, given.port or 502, devices), devices)
    try:
        _write(Path(path), register_map(devices))
    except BaseException:
        served.close()
        raise
    return served


def register_map(devices: Devices) -> str:
    """Return the register map of devices."""
    header = ("tag", "unit_id", "table", "address", "type", "unit")
    assert set(header) <= {*COLUMNS}
    lines = [
        f"{device}/{name},{number},holding,{place * _WORDS},float64,{unit or ''}"
        for number, (device, variables) in enumerate(devices.variables.items(), 1)
        for place, (name, unit) in enumerate([(_TIME, "SEC"), *((name, one.unit) for name, one in variables.items())])
    ]
    return "\n".join([",".join(header), *lines, ""])


def _write(path: Path, text: str) -> None:
    try:
        if not path.exists():
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            raise PlanError("exists already, and is another register map", where=str(path), fix="name a new file, so that nothing is overwritten")
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "is not text"
        raise EnvironmentFault(f"cannot be written: {what}", where=str(path), fix="name a file in a folder that exists") from None


class _Registers:
    """A server whose units have the registers of devices. What a client writes is refused."""

    def __init__(self, host: str, port: int, devices: Devices) -> None:
        self._host, self._port = host, port
        # A value that no message has had yet is NaN.
        self._values = {device: dict.fromkeys((_TIME, *variables), math.nan) for device, variables in devices.variables.items()}
        self._words = {device: _words(values) for device, values in self._values.items()}
        self._server: ModbusTcpServer | None = None

    async def start(self) -> None:
        try:
            from pymodbus.server import ModbusTcpServer
        except ModuleNotFoundError:
            raise EnvironmentFault("needs the package pymodbus", where="--to", fix="pip install 'headrace[modbus]'") from None
        import headrace.connectors.modbus.connection  # noqa: F401  (which makes pymodbus log nothing)

        units = [self._unit(number, device) for number, device in enumerate(self._words, 1)]
        server = ModbusTcpServer(units, address=(self._host, self._port), ignore_missing_devices=True)
        try:
            await server.serve_forever(background=True)
        except RuntimeError:
            await server.shutdown()  # type: ignore[no-untyped-call]
            raise EnvironmentFault(
                "the server cannot listen", where=f"modbus://{self._host}:{self._port}", fix="is the port in use, or not this user's? give another"
            ) from None
        self._server = server

    def _unit(self, number: int, device: str) -> Any:  # noqa: ANN401  (pymodbus is imported when it is needed)
        from pymodbus.simulator import DataType, SimData, SimDevice

        async def read(_code: int, _start: int, _address: int, _count: int, registers: list[int], _new: object) -> ExcCodes | None:
            registers[:] = self._words[device]
            return None

        size = len(self._words[device])
        return SimDevice(number, simdata=[SimData(0, count=size, datatype=DataType.REGISTERS, readonly=True)], action=read)

    async def update(self, messages: Iterable[Message]) -> None:
        for device, seconds, given in messages:
            values = self._values[device]
            values |= {_TIME: seconds, **{name: math.nan if one is None else one for name, one in given.items()}}
            self._words[device] = _words(values)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.shutdown()  # type: ignore[no-untyped-call]


def _words(values: dict[str, float]) -> list[int]:
    return list(struct.unpack(f">{len(values) * _WORDS}H", struct.pack(f">{len(values)}d", *values.values())))
