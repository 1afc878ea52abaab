"""The state of a run's windows and processes as named parts, each written once.

Buffered rows are stored as they came, and dropped when they are done with. Of a process's keys those touched since the
last commit are stored; parts of like size are then made one, so that what a commit writes follows the keys touched.
A key that is gone stands in a part as a deletion, until no older part has the key; so what is stored is bounded by the
keys that live, whatever has come and gone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import polars as pl

from headrace.engines.embedded.graph import Graph
from headrace.engines.embedded.processing import Processing
from headrace.errors import ProcessError
from headrace.kernels.columnar.order import in_time
from headrace.kernels.columnar.window import WindowState
from headrace.kernels.keyed.keyspace import Keyspace

__all__ = ["STATE_FORMAT", "Parts", "is_whole"]

STATE_FORMAT = 3
_FRAMES = ("folded", "stragglers", "revisions")
_MOST_FRAMES = 32
_MANY_KEYS = 50_000


class Parts:
    """Knows which frames and which keys have been stored, and under what names. A name tells the checksum of what is stored."""

    def __init__(self) -> None:
        self._stored: dict[int, str] = {}
        self._frames: dict[int, pl.DataFrame] = {}
        self._keys: dict[int, list[_Segment]] = {}
        self._next = 0

    def save(self, graph: Graph) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what the state is, and the parts of it that are new."""
        new: dict[str, bytes] = {}
        windows = [self._save_window(window.state, new) for window in graph.windows]
        processes = [self._save_process(number, process, new) for number, process in enumerate(graph.processes)]
        return {"format": STATE_FORMAT, "windows": windows, "processes": processes, "next": self._next}, new

    def _save_window(self, state: WindowState, new: dict[str, bytes]) -> dict[str, Any]:
        frames = {name: self._name(frame, new) for name in _FRAMES if (frame := getattr(state, name)) is not None}
        return {"clock": state.clock, "buffer": self._save_buffer(state.buffer, new), **frames}

    def _save_buffer(self, buffer: dict[int, list[pl.DataFrame]], new: dict[str, bytes]) -> dict[str, list[str]]:
        for rows in buffer.values():
            self._gather(rows)
        return {str(rank): [self._name(rows, new) for rows in frames] for rank, frames in buffer.items() if frames}

    def _save_process(self, number: int, process: Processing, new: dict[str, bytes]) -> dict[str, Any]:
        space = process.keyspace
        segments = self._keys.setdefault(number, [])
        if touched := space.take_touched():
            segments.append(_Segment("", touched, 0))
            # Each is at least twice the next, so that a key is written anew some log(keys) times; those of many keys are left alone.
            while len(segments) > 1 and len(segments[-2].keys) < min(2 * len(segments[-1].keys), _MANY_KEYS):
                last = segments.pop()
                segments[-1] = _Segment("", [*dict.fromkeys([*segments[-1].keys, *last.keys])], 0)
            keys = segments.pop().keys
            self._add(segments, len(segments), keys if segments else [key for key in keys if key in space], space, new)
            if sum(len(segment.keys) for segment in segments) > 2 * (len(space) + _MANY_KEYS):
                self._write_stalest(segments, space, new)
        process.stored_bytes = sum(segment.size for segment in segments)
        return {
            "clock": process.clock,
            "buffer": self._save_buffer(process.buffer, new),
            "rules": self._save_buffer(process.rules, new),
            "keys": [segment.name for segment in segments],
            "version": process.operator.declared.version,
            "code": process.code,
            "slots": _forms(process),
            "shared": space.shared.encode().hex() if process.operator.declared.shared else None,
        }

    def _write_stalest(self, segments: list[_Segment], space: Keyspace, new: dict[str, bytes]) -> None:
        """Write the segment anew that has the most to drop: keys that stand in later ones, and deletions of keys that no older one has."""
        first: dict[bytes, int] = {}
        for place, segment in enumerate(segments):
            for key in segment.keys:
                if key not in space:
                    first.setdefault(key, place)
        later: set[bytes] = set()
        left: list[tuple[float, int, list[bytes]]] = []
        for place in range(len(segments) - 1, -1, -1):
            fresh = [key for key in segments[place].keys if key not in later]
            keys = [key for key in fresh if first.get(key) != place]
            left.append((len(keys) / len(segments[place].keys), place, keys))
            later.update(fresh)
        _, place, keys = min(left)
        del segments[place]
        self._add(segments, place, keys, space, new)

    def _add(self, segments: list[_Segment], place: int, keys: list[bytes], space: Keyspace, new: dict[str, bytes]) -> None:
        """Store keys as a segment at a place, if there are any."""
        if keys:
            data = space.encoded(keys)
            segments.insert(place, _Segment(self._put(data, new), keys, len(data)))

    def _gather(self, frames: list[pl.DataFrame]) -> None:
        """Make one frame of those that have not been stored, and of all when there are many."""
        known = [place for place, frame in enumerate(frames, 1) if id(frame) in self._stored]
        stored = 0 if len(frames) > _MOST_FRAMES else max(known, default=0)
        if len(frames) - stored > 1:
            one = pl.concat(frames[stored:], rechunk=True)
            frames[stored:] = [in_time(one) if "@time" in one.columns else one]

    def _name(self, frame: pl.DataFrame, new: dict[str, bytes]) -> str:
        if id(frame) not in self._stored:
            data = io.BytesIO()
            frame.write_ipc(data)
            self._stored[id(frame)], self._frames[id(frame)] = self._put(data.getvalue(), new), frame
        return self._stored[id(frame)]

    def _put(self, data: bytes, new: dict[str, bytes]) -> str:
        name = f"{self._next}-{crc32(data):08x}"
        self._next += 1
        new[name] = data
        return name

    def keep(self, saved: Mapping[str, Any]) -> set[str]:
        """Return the names that a saved state needs, and forget the other frames."""
        buffers = [state[name] for name in ("buffer", "rules") for state in (*saved["windows"], *saved["processes"]) if name in state]
        named = {name for buffer in buffers for names in buffer.values() for name in names}
        named |= {state[name] for state in saved["windows"] for name in _FRAMES if name in state}
        for key, name in list(self._stored.items()):
            if name not in named:
                del self._stored[key], self._frames[key]
        return named | {name for state in saved["processes"] for name in state["keys"]}

    def restore(self, saved: Mapping[str, Any], graph: Graph, load: Callable[[str], bytes]) -> None:
        """Give the stages a saved state. `load` returns a part and answers for its being whole, which `is_whole` tells."""
        self._next = saved["next"]
        for window, state in zip(graph.windows, saved["windows"], strict=True):
            window.state = WindowState(clock=state["clock"], buffer=self._load_buffer(state["buffer"], load))
            for name in _FRAMES:
                if name in state:
                    setattr(window.state, name, self._load(state[name], load))
        for number, (process, state) in enumerate(zip(graph.processes, saved["processes"], strict=True)):
            _check_forms(process, state)
            process.clock = state["clock"]
            if (before := state.get("code")) is not None and process.code not in {None, before}:
                process.code_before = before
            process.buffer, process.rules = self._load_buffer(state["buffer"], load), self._load_buffer(state["rules"], load)
            parts = [load(name) for name in state["keys"]]
            keys, sizes = process.keyspace.load(parts), map(len, parts)
            self._keys[number] = [_Segment(*one) for one in zip(state["keys"], keys, sizes, strict=True)]
            process.stored_bytes = sum(segment.size for segment in self._keys[number])
            process.keyspace.wake(migrate=state["version"] != process.operator.declared.version)
            if state["shared"] is not None:
                process.keyspace.restore_shared(bytes.fromhex(state["shared"]))

    def _load_buffer(self, buffer: Mapping[str, list[str]], load: Callable[[str], bytes]) -> dict[int, list[pl.DataFrame]]:
        return {int(rank): [self._load(name, load) for name in names] for rank, names in buffer.items()}

    def _load(self, name: str, load: Callable[[str], bytes]) -> pl.DataFrame:
        frame = pl.read_ipc(load(name))
        self._stored[id(frame)], self._frames[id(frame)] = name, frame
        return frame


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stored part of a process's keys, of a size in bytes; of a key in several, the last holds."""

    name: str
    keys: list[bytes]
    size: int


def _forms(process: Processing) -> dict[str, str]:
    """Return in what form each piece of declared state is kept."""
    return {slot.name: f"{slot.kind} of {slot.type}{'' if slot.ttl_ms is None else ' with a ttl'}" for slot in process.operator.declared.slots}


def _check_forms(process: Processing, state: Mapping[str, Any]) -> None:
    """Raise ProcessError if what was kept under this version has another form than is declared. What is new is no matter."""
    declared, version = _forms(process), process.operator.declared.version
    for name, form in state["slots"].items() if state["version"] == version else ():
        if declared.get(name) != form:
            what = f"{name!r} was kept as a {form}, and is declared {f'a {declared[name]}' if name in declared else 'no more'}"
            fix = f"set state_version = {version + 1} and write migrate, or start anew"
            raise ProcessError(what, where=f"state of process {process.operator.name}", fix=fix)


def is_whole(name: str, data: bytes) -> bool:
    """Return whether a part is what was stored under the name."""
    return name.endswith(f"-{crc32(data):08x}")
