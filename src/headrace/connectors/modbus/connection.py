"""One connection of Modbus TCP: requests one after the other, with a time limit each."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

from headrace.connectors.modbus.blocks import Block
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault

try:
    from pymodbus.client import AsyncModbusTcpClient
    from pymodbus.exceptions import ModbusException
    from pymodbus.pdu import ModbusPDU
    from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
    from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package pymodbus", where="the bridge", fix="pip install 'headrace[modbus]'") from None

__all__ = ["Connection", "Excepted", "Silent"]

_REQUESTS: dict[str, type[ModbusPDU]] = {
    "coil": ReadCoilsRequest,
    "discrete": ReadDiscreteInputsRequest,
    "input": ReadInputRegistersRequest,
    "holding": ReadHoldingRegistersRequest,
}

# What it logs comes back as an error here, or as a reading.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL + 1)


class Excepted(Exception):
    """The device answered with an exception."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Silent(Exception):
    """The device did not answer in time, and the connection still stands."""


class Connection:
    """A connection to one host."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self._host, self._port, self._timeout = host, port, timeout
        self._client: AsyncModbusTcpClient | None = None

    async def open(self) -> None:
        """Connect. Raises Unavailable."""
        self.close()
        client = AsyncModbusTcpClient(self._host, port=self._port, timeout=self._timeout, retries=0, reconnect_delay=0)
        # A silent unit of a gateway is no reason to end the connection of the others.
        client.set_max_no_responses(1 << 30)
        context = client.ctx
        receive = context.callback_data

        def received(data: bytes, addr: tuple[str, int] | None = None) -> int:
            """Take bytes; those that are no Modbus end the connection, and not with a traceback."""
            try:
                return receive(data, addr)
            except Exception as error:  # noqa: BLE001  (whatever a parser makes of them)
                if not context.response_future.done():
                    context.response_future.set_exception(Unavailable(f"answers with what is no Modbus: {error}"))
                return len(data)

        def lost(connected: bool) -> None:  # noqa: FBT001  (as the library calls it)
            """Tell who waits for an answer that there will be none."""
            if not connected and not context.response_future.done():
                context.response_future.set_exception(Unavailable("connection lost"))
                context.response_future.exception()  # it may be that no one waits

        context.callback_data = received  # type: ignore[method-assign]
        context.trace_connect = lost
        if not await client.connect():
            raise Unavailable(await self._why())
        self._client = client

    async def _why(self) -> str:
        """Return why a connection could not be made: the library does not say."""
        try:
            async with asyncio.timeout(self._timeout):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except TimeoutError:
            return "does not answer"
        except OSError as error:
            return (os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)).lower()
        writer.close()
        return "does not answer"

    async def read(self, block: Block) -> Sequence[int]:
        """Return the registers or bits of a block.

        Raises
        ------
        Excepted, Silent
            The connection still stands.
        Unavailable
            It is lost.
        """
        client = self._client
        if client is None or not client.connected:
            raise Unavailable("connection lost")
        request = _REQUESTS[block.table](address=block.address, count=block.size, dev_id=block.unit_id)
        try:
            response = await client.execute(False, request)
        except ModbusException:
            if client.connected:
                raise Silent from None
            raise Unavailable("connection lost") from None
        if response.isError():
            raise Excepted(response.exception_code)
        values: Sequence[int] = response.bits if block.table in {"coil", "discrete"} else response.registers
        if len(values) < block.size:
            raise Excepted(4)
        return values

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            client, self._client = self._client, None
            client.close()
