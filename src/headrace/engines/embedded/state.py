"""The state of a run's windows and processes as named parts, each written once.

Buffered rows are stored as they came, and dropped when they are done with. Of a process's keys those touched since the
last commit are stored; parts of like size are then made one, so that what a commit writes follows the keys touched.
A key that is gone stands in a part as a deletion, until no older part has the key; so what is stored is bounded by the
keys that live, whatever has come and gone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
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
from headrace.kernels.reading.text import polars_type
from headrace.plan.changes import definition, definitions_of_texts
from headrace.plan.pipeline import Plan
from headrace.plan.schema import Schema

__all__ = ["STATE_FORMATS", "Parts", "is_whole", "stages_of"]

STATE_FORMATS = (4, 3)  # the one that is written, and those that are read besides
_FRAMES = ("folded", "stragglers", "revisions")
_MOST_FRAMES = 32
_MANY_KEYS = 50_000


class Parts:
    """Knows which frames and which keys have been stored, and under what names. A name tells the checksum of what is stored."""

    def __init__(self) -> None:
        self._stored: dict[int, str] = {}
        self._frames: dict[int, pl.DataFrame] = {}
        self._keys: dict[str, list[_Segment]] = {}
        self._next = 0

    def save(self, graph: Graph) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what the state is, and the parts of it that are new."""
        new: dict[str, bytes] = {}
        stages = {window.node.name: {"definition": definition(window.node), **self._save_window(window.state, new)} for window in graph.windows}
        stages |= {one.node.name: {"definition": definition(one.node), **self._save_process(one, new)} for one in graph.processes}
        return {"format": STATE_FORMATS[0], "stages": stages, "next": self._next}, new

    def _save_window(self, state: WindowState, new: dict[str, bytes]) -> dict[str, Any]:
        frames = {name: self._name(frame, new) for name in _FRAMES if (frame := getattr(state, name)) is not None}
        return {"clock": state.clock, "buffer": self._save_buffer(state.buffer, new), **frames}

    def _save_buffer(self, buffer: dict[int, list[pl.DataFrame]], new: dict[str, bytes]) -> dict[str, list[str]]:
        for rows in buffer.values():
            self._gather(rows)
        return {str(rank): [self._name(rows, new) for rows in frames] for rank, frames in buffer.items() if frames}

    def _save_process(self, process: Processing, new: dict[str, bytes]) -> dict[str, Any]:
        space = process.keyspace
        segments = self._keys.setdefault(process.node.name, [])
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
        states = [*saved["stages"].values()] if "stages" in saved else [*saved["windows"], *saved["processes"]]
        buffers = [state[name] for name in ("buffer", "rules") for state in states if name in state]
        named = {name for buffer in buffers for names in buffer.values() for name in names}
        named |= {state[name] for state in states for name in _FRAMES if name in state}
        for key, name in list(self._stored.items()):
            if name not in named:
                del self._stored[key], self._frames[key]
        return named | {name for state in states for name in state.get("keys", ())}

    def restore(
        self,
        saved: Mapping[str, Any],
        graph: Graph,
        load: Callable[[str], bytes],
        *,
        names: Collection[str] | None = None,
        ranks: Mapping[int, int] | None = None,
    ) -> None:
        """Give stages a saved state.

        Parameters
        ----------
        load
            Returns a part, and answers for its being whole, which `is_whole` tells.
        names
            The stages that take theirs on; by default all.
        ranks
            The ranks that the partitions have now, by those that they had; by default these are the same.
        """
        self._next = saved["next"]
        states = stages_of(saved, graph.plan)
        loading = _Loading(self, load, {} if ranks is None else {was: now for was, now in ranks.items() if was != now})
        for window in graph.windows:
            if (name := window.node.name) in states and (names is None or name in names):
                state = states[name]
                window.state = WindowState(clock=state["clock"], buffer=loading.buffer(state["buffer"]))
                for frame in (one for one in _FRAMES if one in state):
                    setattr(window.state, frame, loading.frame(state[frame]))
        for process in graph.processes:
            if (name := process.node.name) in states and (names is None or name in names):
                self._restore_process(process, states[name], loading)

    def _restore_process(self, process: Processing, state: Mapping[str, Any], loading: _Loading) -> None:
        _check_forms(process, state)
        operator, name = process.operator, process.node.name
        process.clock = state["clock"]
        if (before := state.get("code")) is not None and process.code not in {None, before}:
            process.code_before = before
        process.buffer = loading.buffer(state["buffer"], operator.record_schema, name)
        process.rules = loading.buffer(state["rules"], operator.broadcast_schema, name)
        parts = [loading.load(part) for part in state["keys"]]
        keys, sizes = process.keyspace.load(parts), map(len, parts)
        self._keys[name] = [_Segment(*one) for one in zip(state["keys"], keys, sizes, strict=True)]
        process.stored_bytes = sum(segment.size for segment in self._keys[name])
        process.keyspace.wake(migrate=state["version"] != operator.declared.version)
        if state["shared"] is not None and operator.declared.shared:
            process.keyspace.restore_shared(bytes.fromhex(state["shared"]))

    def _know(self, frame: pl.DataFrame, name: str) -> None:
        """Take it that a frame is stored under a name."""
        self._stored[id(frame)], self._frames[id(frame)] = name, frame


def stages_of(saved: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return the saved state of each stage, with its definition, by name; that of an earlier format if the plan has the same stages.

    Raises
    ------
    KeyError
        If it is of an earlier format, and of other stages.
    """
    if "stages" in saved:
        return dict(saved["stages"])
    nodes = {node.name: node for node in plan.stages}
    shown = saved["operators"][0] if isinstance(saved["operators"], list) else str(plan)
    places = definitions_of_texts(plan, shown)
    if places is None:
        raise KeyError("stages")
    lists = {"window": saved["windows"], "process": saved["processes"]}
    return {name: {"definition": definition(nodes[name]), **lists[kind][place]} for name, (kind, place) in places.items()}


@dataclass(frozen=True, slots=True)
class _Loading:
    """Reads stored frames; their partitions have other ranks now, if `ranks` says so."""

    parts: Parts
    load: Callable[[str], bytes]
    ranks: Mapping[int, int]

    def buffer(self, saved: Mapping[str, list[str]], schema: Schema | None = None, stage: str = "") -> dict[int, list[pl.DataFrame]]:
        """Return the rows that wait, by rank; with the columns of a schema, if there is one."""
        found = {self.ranks.get(int(rank), int(rank)): [self.frame(name, schema, stage) for name in names] for rank, names in saved.items()}
        return dict(sorted(found.items()))

    def frame(self, name: str, schema: Schema | None = None, stage: str = "") -> pl.DataFrame:
        """Return a frame; one that is as it was stored need not be stored again."""
        stored = pl.read_ipc(self.load(name))
        frame = stored
        if self.ranks and "@partition" in frame.columns:
            frame = frame.with_columns(pl.col("@partition").replace(dict(self.ranks)))
        if schema is not None:
            frame = _fitted(frame, schema, stage)
        if frame is stored:
            self.parts._know(frame, name)
        return frame


def _fitted(rows: pl.DataFrame, schema: Schema, stage: str) -> pl.DataFrame:
    """Return rows that wait for a process with its columns: those that are new are NULL in them."""
    hidden = [name for name in rows.columns if name.startswith("@")]
    if rows.columns == [*hidden, *schema.names]:
        return rows
    new = [schema[name] for name in schema.names if name not in rows.columns]
    for field in new:
        if not field.nullable and len(rows):
            what = f"column {field.name!r} is new and NOT NULL, and rows that wait do not have it"
            raise ProcessError(what, where=f"state of process {stage}", fix=f"declare it without NOT NULL, or begin without state: --reset {stage}")
    return rows.with_columns(pl.lit(None, polars_type(field.type)).alias(field.name) for field in new).select(*hidden, *schema.names)


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
