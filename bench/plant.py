"""What bringing readings of OPC UA and Modbus into a topic costs: CPU seconds of the bridge, the servers in other processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "connectors"), str(Path(__file__).parents[1] / "tests")]

from plant_servers import PlantServer  # noqa: E402

from headrace.connectors.ingest import Ingest  # noqa: E402
from headrace.connectors.modbus import source as modbus  # noqa: E402
from headrace.connectors.opc import source as opc  # noqa: E402
from headrace.connectors.protocol import Source  # noqa: E402
from headrace.topics.sqlite import SqliteLog  # noqa: E402

NODES, BURST = 100, 30_000
DEVICES, REGISTERS, SECONDS = 200, 100, 10.0


async def brought(
    source: Source, folder: Path, *, records: int | None = None, duration: float | None = None, begin: object = None
) -> tuple[int, float]:
    """Bridge into a fresh log, and return how many records came and the CPU seconds of this process since the first of them."""
    with closing(SqliteLog(folder / "log.db")) as log, closing(Ingest(log, source, "readings")) as ingest:
        running = asyncio.create_task(ingest.run(records=records, duration=duration))
        while not ingest.passed:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        if callable(begin):
            begin()
        before, cpu = ingest.passed, time.process_time()
        await running
        return ingest.passed - before, time.process_time() - cpu


def opcua(folder: Path) -> None:
    with PlantServer("opc_server.py", json.dumps({"values": {f"v{number}": number for number in range(NODES)}})) as server:
        one = opc(f"opc.tcp://127.0.0.1:{server.port}/plant/?interval=100ms&queue=10000&timeout=60s")

        def burst() -> None:
            for number in range(NODES):
                server.tell(node=f"v{number}", burst=BURST // NODES)

        # The first value of each burst may be the one before.
        count, seconds = asyncio.run(brought(one, folder, records=BURST - NODES, begin=burst))
        print(f"OPC UA: {count:,} changes, {1e6 * seconds / count:.1f} µs of CPU each, {count / seconds:,.0f} per CPU-second")


DEVICE_SCRIPT = """
import asyncio, struct, sys
async def device(reader, writer):
    count = 0
    try:
        while True:
            head = await reader.readexactly(12)
            size = int.from_bytes(head[10:12], "big")
            count += 1
            data = struct.pack(f">{size}H", *[(count + one) % 65536 for one in range(size)])
            writer.write(head[:4] + struct.pack(">HBBB", 3 + len(data), head[6], head[7], len(data)) + data)
    except (OSError, asyncio.IncompleteReadError):
        writer.close()
async def main():
    servers = [await asyncio.start_server(device, "127.0.0.1", 0) for _ in range(int(sys.argv[1]))]
    print(*[one.sockets[0].getsockname()[1] for one in servers], flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


def registers(folder: Path) -> None:
    """The devices answer at once and with other values each time, so that both reports have as many readings."""
    with subprocess.Popen([sys.executable, "-c", DEVICE_SCRIPT, str(DEVICES)], stdout=subprocess.PIPE, text=True) as devices:
        assert devices.stdout is not None
        ports = devices.stdout.readline().split()
        lines = [f"d{port}/r{address},127.0.0.1:{port},holding,{address},uint16" for port in ports for address in range(REGISTERS)]
        (folder / "map.csv").write_text("\n".join(["tag,host,table,address,type", *lines]))
        for report in ("all", "changes&deadband=70000"):
            one = modbus(f"modbus://?map={folder / 'map.csv'}&interval=1s&report={report}&timeout=10s")
            part = folder / report[:3]
            part.mkdir()
            count, seconds = asyncio.run(brought(one, part, duration=SECONDS))
            what = f"Modbus, {DEVICES} devices with {REGISTERS} registers each second, report={report}"
            print(f"{what}: {count:,} readings, {100 * seconds / SECONDS:.0f} % of a core, {one.skipped} polls skipped")
        devices.kill()


if __name__ == "__main__":
    for what in sys.argv[1:] or ["opcua", "registers"]:
        with tempfile.TemporaryDirectory() as name:
            {"opcua": opcua, "registers": registers}[what](Path(name))
