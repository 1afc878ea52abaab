"""The state of a run's windows as named parts, each written once: buffered rows as they came, dropped when their slices close."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import polars as pl

from headrace.engines.embedded.graph import Window
from headrace.kernels.columnar.window import WindowState

__all__ = ["STATE_FORMAT", "Parts", "is_whole"]

STATE_FORMAT = 2
_FRAMES = ("folded", "stragglers", "revisions")
_MOST_FRAMES = 32


class Parts:
    """Knows which frames have been stored, and under what names. A name tells the checksum of what is stored."""

    def __init__(self) -> None:
        self._stored: dict[int, str] = {}
        self._frames: dict[int, pl.DataFrame] = {}
        self._next = 0

    def save(self, windows: Sequence[Window]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what the windows' state is, and the parts of it that are new."""
        new: dict[str, bytes] = {}
        states = [self._save(window.state, new) for window in windows]
        return {"format": STATE_FORMAT, "windows": states, "next": self._next}, new

    def _save(self, state: WindowState, new: dict[str, bytes]) -> dict[str, Any]:
        for rows in state.buffer.values():
            self._gather(rows)
        buffer = {str(rank): [self._name(rows, new) for rows in frames] for rank, frames in state.buffer.items() if frames}
        frames = {name: self._name(frame, new) for name in _FRAMES if (frame := getattr(state, name)) is not None}
        return {"clock": state.clock, "buffer": buffer, **frames}

    def _gather(self, frames: list[pl.DataFrame]) -> None:
        """Make one frame of those that have not been stored, and of all when there are many."""
        known = [place for place, frame in enumerate(frames, 1) if id(frame) in self._stored]
        stored = 0 if len(frames) > _MOST_FRAMES else max(known, default=0)
        if len(frames) - stored > 1:
            frames[stored:] = [pl.concat(frames[stored:], rechunk=True)]

    def _name(self, frame: pl.DataFrame, new: dict[str, bytes]) -> str:
        if id(frame) not in self._stored:
            data = io.BytesIO()
            frame.write_ipc(data)
            name = f"{self._next}-{crc32(data.getbuffer()):08x}"
            self._next += 1
            new[name] = data.getvalue()
            self._stored[id(frame)], self._frames[id(frame)] = name, frame
        return self._stored[id(frame)]

    def keep(self, saved: Mapping[str, Any]) -> set[str]:
        """Return the names that a saved state needs, and forget the other frames."""
        named = {name for state in saved["windows"] for names in state["buffer"].values() for name in names}
        named |= {state[name] for state in saved["windows"] for name in _FRAMES if name in state}
        for key, name in list(self._stored.items()):
            if name not in named:
                del self._stored[key], self._frames[key]
        return named

    def restore(self, saved: Mapping[str, Any], windows: Sequence[Window], load: Callable[[str], bytes]) -> None:
        """Give the windows a saved state. `load` returns a part and answers for its being whole, which `is_whole` tells."""
        self._next = saved["next"]
        for window, state in zip(windows, saved["windows"], strict=True):
            buffer = {int(rank): [self._load(name, load) for name in names] for rank, names in state["buffer"].items()}
            frames = {name: self._load(state[name], load) for name in _FRAMES if name in state}
            window.state = WindowState(clock=state["clock"], buffer=buffer, **frames)

    def _load(self, name: str, load: Callable[[str], bytes]) -> pl.DataFrame:
        frame = pl.read_ipc(load(name))
        self._stored[id(frame)], self._frames[id(frame)] = name, frame
        return frame


def is_whole(name: str, data: bytes) -> bool:
    """Return whether a part is what was stored under the name."""
    return name.endswith(f"-{crc32(data):08x}")
