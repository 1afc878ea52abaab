"""The state of a run's windows and processes as named parts, each written once.

Buffered rows are stored as they came, and dropped when they are done with. Of a process's keys those touched since the
last commit are stored; parts of like size are then made one, so that what a commit writes follows the keys touched.
A key that is gone stands in a part as a deletion, until no older part has the key; so what is stored is bounded by the
keys that live, whatever has come and gone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from zlib import crc32

import polars as pl

from headrace.errors import ProcessError
from headrace.kernels.columnar.order import in_time
from headrace.kernels.keyed.keyspace import Keyspace
from headrace.kernels.keyed.shared import Shared
from headrace.kernels.reading.text import polars_type
from headrace.plan.changes import definition, places_of_texts
from headrace.plan.graph import Node
from headrace.plan.operators import Operator
from headrace.plan.pipeline import Plan
from headrace.plan.schema import Schema

__all__ = ["STATE_FORMATS", "Loading", "Parts", "Saving", "Stateful", "is_whole", "stages_of"]

STATE_FORMATS = (4, 3)  # the one that is written, and those that are read besides
_MOST_FRAMES = 32
_MANY_KEYS = 50_000


class Stateful(Protocol):
    """A stage, as far as its state is concerned. `version` is that of the form in which it saves its state."""

    version: ClassVar[int]

    @property
    def node(self) -> Node[Operator]:
        """Its node in the plan."""

    def save(self, saving: Saving) -> dict[str, Any]:
        """Return its state, with parts stored by `saving`."""

    def restore(self, state: Mapping[str, Any], loading: Loading) -> None:
        """Take a saved state, with parts read by `loading`."""


class Parts:
    """Knows which frames and which keys have been stored, and under what names. A name tells the checksum of what is stored."""

    def __init__(self) -> None:
        self._stored: dict[int, str] = {}
        self._frames: dict[int, pl.DataFrame] = {}
        self._keys: dict[str, list[_Segment]] = {}
        self._shared: dict[str, tuple[int, str]] = {}
        self._next = 0

    def save(self, stages: Iterable[Stateful]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the state of stages, and its parts that are new."""
        new: dict[str, bytes] = {}
        saved = {}
        for stage in stages:
            saving = Saving(self, stage.node.name, new)
            state = {"definition": definition(stage.node), "form": stage.version, **stage.save(saving)}
            saved[stage.node.name] = {**state, "parts": saving.names}
        return {"format": STATE_FORMATS[0], "stages": saved, "next": self._next}, new

    def _save_keys(self, stage: str, space: Keyspace, new: dict[str, bytes]) -> list[_Segment]:
        segments = self._keys.setdefault(stage, [])
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
        return segments

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

    def _save_shared(self, stage: str, shared: Shared, new: dict[str, bytes]) -> str:
        """Store shared state, unless it is stored as it is, and return its name."""
        shared.settle()
        version, name = self._shared.get(stage, (-1, ""))
        if version != shared.version:
            name = self._put(shared.take_encoded(), new)
            self._shared[stage] = shared.version, name
        return name

    def _put(self, data: bytes, new: dict[str, bytes]) -> str:
        name = f"{self._next}-{crc32(data):08x}"
        self._next += 1
        new[name] = data
        return name

    def keep(self, saved: Mapping[str, Any]) -> set[str]:
        """Return the names that a saved state needs, and forget the other frames."""
        named = {name for state in saved["stages"].values() for name in state["parts"]} if "stages" in saved else _parts_of_format_3(saved)
        for key, name in list(self._stored.items()):
            if name not in named:
                del self._stored[key], self._frames[key]
        return named

    def restore(
        self,
        saved: Mapping[str, Any],
        plan: Plan,
        stages: Iterable[Stateful],
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
        states = stages_of(saved, plan)
        moved = {} if ranks is None else {was: now for was, now in ranks.items() if was != now}
        for stage in stages:
            if (name := stage.node.name) in states and (names is None or name in names):
                stage.restore(states[name], Loading(self, name, load, moved))

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
    places = places_of_texts(plan, shown)
    if places is None:
        raise KeyError("stages")
    lists = {"window": saved["windows"], "process": saved["processes"]}
    return {name: {"definition": definition(nodes[name]), **lists[kind][place]} for name, (kind, place) in places.items()}


def _parts_of_format_3(saved: Mapping[str, Any]) -> set[str]:
    states = [*saved["windows"], *saved["processes"]]
    buffers = [state[name] for name in ("buffer", "rules") for state in states if name in state]
    named = {name for buffer in buffers for names in buffer.values() for name in names}
    named |= {state[name] for state in states for name in ("folded", "stragglers", "revisions") if name in state}
    return named | {name for state in states for name in state.get("keys", ())}


class Saving:
    """Stores parts of the state of one stage, and notes their `names`."""

    def __init__(self, parts: Parts, stage: str, new: dict[str, bytes]) -> None:
        self._parts, self._stage, self._new = parts, stage, new
        self.names: list[str] = []

    def frame(self, frame: pl.DataFrame) -> str:
        """Store a frame, unless it is stored already, and return its name."""
        self.names.append(self._parts._name(frame, self._new))
        return self.names[-1]

    def buffer(self, buffer: dict[int, list[pl.DataFrame]]) -> dict[str, list[str]]:
        """Store buffered rows, whose new frames become one, and return the names by rank."""
        for rows in buffer.values():
            self._parts._gather(rows)
        return {str(rank): [self.frame(rows) for rows in frames] for rank, frames in buffer.items() if frames}

    def shared(self, shared: Shared) -> str:
        """Store shared state, unless it is stored as it is, and return its name."""
        self.names.append(self._parts._save_shared(self._stage, shared, self._new))
        return self.names[-1]

    def keys(self, space: Keyspace) -> tuple[list[str], int]:
        """Store the touched keys of a process, and return the names of all its parts and their size in bytes."""
        segments = self._parts._save_keys(self._stage, space, self._new)
        names = [segment.name for segment in segments]
        self.names += names
        return names, sum(segment.size for segment in segments)


@dataclass(frozen=True, slots=True)
class Loading:
    """Reads parts of the state of one stage. If its partitions have other ranks now, `ranks` has these by the old ones."""

    parts: Parts
    stage: str
    load: Callable[[str], bytes]
    ranks: Mapping[int, int]

    def buffer(self, saved: Mapping[str, list[str]], schema: Schema | None = None) -> dict[int, list[pl.DataFrame]]:
        """Return buffered rows by rank, with the columns of a schema if one is given."""
        found = {self.ranks.get(int(rank), int(rank)): [self.frame(name, schema) for name in names] for rank, names in saved.items()}
        return dict(sorted(found.items()))

    def frame(self, name: str, schema: Schema | None = None) -> pl.DataFrame:
        """Return a frame. It is stored again only if it is not as it was stored."""
        stored = pl.read_ipc(self.load(name))
        frame = stored
        if self.ranks and "@partition" in frame.columns:
            frame = frame.with_columns(pl.col("@partition").replace(dict(self.ranks)))
        if schema is not None:
            frame = _fitted(frame, schema, self.stage)
        if frame is stored:
            self.parts._know(frame, name)
        return frame

    def shared(self, saved: str | Mapping[str, str], shared: Shared) -> None:
        """Have shared state be what was saved: a part, and in commits of before the bytes themselves."""
        if isinstance(saved, str):
            shared.restore(bytes.fromhex(saved))
            return
        shared.restore(self.load(saved["part"]))
        self.parts._shared[self.stage] = shared.version, saved["part"]

    def keys(self, names: list[str], space: Keyspace) -> int:
        """Load the keys of a process, and return their size in bytes."""
        data = [self.load(name) for name in names]
        segments = [_Segment(*one) for one in zip(names, space.load(data), map(len, data), strict=True)]
        self.parts._keys[self.stage] = segments
        return sum(segment.size for segment in segments)


def _fitted(rows: pl.DataFrame, schema: Schema, stage: str) -> pl.DataFrame:
    """Return buffered rows with the columns of a schema. Columns that are new are NULL."""
    hidden = [name for name in rows.columns if name.startswith("@")]
    if rows.columns == [*hidden, *schema.names]:
        return rows
    new = [schema[name] for name in schema.names if name not in rows.columns]
    for field in new:
        if not field.nullable and len(rows):
            what = f"column {field.name!r} is new and NOT NULL, and rows that wait do not have it"
            raise ProcessError(what, where=f"state of process {stage}", fix=f"declare it without NOT NULL, or start without state: --reset {stage}")
    return rows.with_columns(pl.lit(None, polars_type(field.type)).alias(field.name) for field in new).select(*hidden, *schema.names)


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stored part of a process's keys, of a size in bytes; of a key in several, the last holds."""

    name: str
    keys: list[bytes]
    size: int


def is_whole(name: str, data: bytes) -> bool:
    """Return whether a part is what was stored under the name."""
    return name.endswith(f"-{crc32(data):08x}")
