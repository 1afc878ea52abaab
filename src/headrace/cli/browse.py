"""`headrace browse`: what an outside system has, live."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace.cli.paths import OutputPath
from headrace.cli.stopping import asked_to_stop
from headrace.cli.tables import counted
from headrace.cli.values import duration_ms
from headrace.connectors import find
from headrace.connectors.browsing import Browse
from headrace.connectors.protocol import Unavailable
from headrace.errors import EnvironmentFault, PlanError
from headrace.plant.quality import Quality, is_bad, is_good

__all__ = ["browse"]

_COLUMNS = ("tag", "value", "quality", "unit", "time")
_REFRESH_SECONDS = 0.5
_LONGEST = 200  # characters of a text
_ENDLESS_SECONDS = 10.0  # of what never has been seen whole


def browse(
    address: str,
    /,
    *,
    range_: Annotated[list[str] | None, Parameter(name="--range")] = None,
    tags: OutputPath | None = None,
    duration: str | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Show what an outside system has: each tag with its value, quality, unit and time, live until Ctrl-C.

    Parameters
    ----------
    address
        opc.tcp://…: variables; modbus://…: registers, those of its map or of --range; mqtt://HOST/FILTER: the values of messages, each with its topic
        and its place in the payload, of all topics without a filter; sparkplug://HOST/GROUP: metrics of edge nodes.
    range_
        modbus: registers without a map, such as holding:0-200; may be repeated.
    tags
        Write what was found to this file, to begin with: a list of tags; for modbus and --range a register map. It may not exist yet.
    duration
        Stop after so long: 30s, 5m. Where the output is no terminal, or with --tags, the values are shown once; those of a broker after 10 s.
    json
        Print readings as JSON, one a line, as a bridge would write them.
    """
    module = find(address)
    if module is None or not hasattr(module, "browse"):
        raise PlanError(
            f"cannot be browsed: {address.partition(':')[0] or address!r}",
            where="ADDRESS",
            fix="give opc.tcp://…, modbus://…, mqtt://… or sparkplug://…",
        )
    if tags is not None and tags.exists():
        raise PlanError("exists already", where=str(tags), fix="name a new file, so that nothing is overwritten")
    shown: Browse = module.browse(address, range_ or [])
    terminal = sys.stdout.isatty() and not json
    seconds = duration_ms(duration, "--duration") / 1000 if duration is not None else None
    once = seconds is None and (not terminal or tags is not None)
    if once and shown.count is None:
        seconds = _ENDLESS_SECONDS
    found = asyncio.run(_watch(shown, asked_to_stop(), seconds, once=once, live=terminal and not once, as_json=json))
    if not found and shown.count is None:
        raise EnvironmentFault("no message arrived", where=shown.source.name, fix="give a longer --duration, or another topic filter")
    if not json and not (terminal and not once):
        _print(_table(found))
    if tags is not None:
        text = shown.listed(found)
        _write(tags, text)
        written = text.rstrip("\n").count("\n")  # the first line names the columns; not every place has a tag of its own
        print(f"headrace: {counted(written, 'tag')} written to {tags}", file=sys.stderr)


async def _watch(
    shown: Browse, stop: Callable[[], bool], seconds: float | None, *, once: bool, live: bool, as_json: bool
) -> dict[str, Mapping[str, Any]]:
    """Take readings until the end, and return the last of each tag."""
    found: dict[str, Mapping[str, Any]] = {}
    end = None if seconds is None else time.monotonic() + seconds
    complete = asyncio.Event()
    reading = asyncio.create_task(_read(shown, found, complete, as_json=as_json))
    display = _display() if live else None
    try:
        while not stop() and not reading.done() and (end is None or time.monotonic() < end) and not (once and complete.is_set()):
            await asyncio.sleep(_REFRESH_SECONDS if live else 0.05)
            if display is not None:
                display.update(_table(found), refresh=True)
        if reading.done():
            reading.result()
    finally:
        if display is not None:
            display.stop()
        reading.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await reading
        await shown.source.close()
    return found


async def _read(shown: Browse, found: dict[str, Mapping[str, Any]], complete: asyncio.Event, *, as_json: bool) -> None:
    """Take the readings of a source."""
    try:
        events = await shown.source.open(None)
        assert events is not None
        async for event in events:
            if event.malformed is not None:
                continue
            reading = msgspec.json.decode(event.value)
            found[reading["tag"]] = reading
            if as_json:
                print(event.value.decode(), flush=True)
            if shown.count is not None and len(found) >= shown.count():
                complete.set()
    except Unavailable as fault:
        raise EnvironmentFault(fault.what, where=shown.source.name, fix=fault.fix or "is its server running, and the address right?") from None


def _table(found: Mapping[str, Mapping[str, Any]]) -> Any:  # noqa: ANN401  (rich is imported when it is needed)
    from rich.table import Table
    from rich.text import Text

    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for tag, one in sorted(found.items()):
        quality = one["quality"]
        value = "" if one["value"] is None else f"{one['value']:.6g}" if isinstance(one["value"], float) else _shown(str(one["value"]))
        style = "" if is_good(quality) else "red" if is_bad(quality) else "yellow"
        when = datetime.fromtimestamp(one["time"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        table.add_row(Text(_shown(tag)), Text(value), Text(_name(quality), style=style), Text(_shown(one["unit"] or "")), when)
    return table


def _shown(text: str) -> str:
    """Return a text on one line, without characters that a terminal would obey, and cut if it is long."""
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return cut if cut.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in cut)


def _name(quality: int) -> str:
    with suppress(ValueError):
        return Quality(quality).name
    return f"0x{quality:08X}"


def _display() -> Any:  # noqa: ANN401
    from rich.live import Live

    live = Live(auto_refresh=False, vertical_overflow="crop")
    live.start()
    return live


def _print(table: Any) -> None:  # noqa: ANN401
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    console.print(table)


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix="name a file in a folder that exists") from None
