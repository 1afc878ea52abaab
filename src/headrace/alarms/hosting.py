"""Shared parts of the processes of alarms and of rules: definitions as texts, and durations by event time and the wall clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

__all__ = ["Texts", "is_live", "set_due", "version_of"]


def version_of(text: str) -> str:
    """Return the version of a definition that was encoded: a digest of its content."""
    return sha256(text.encode()).hexdigest()[:12]


class Texts(dict[str, tuple[str, ...]]):
    """Definitions by key, as texts. They are shown as a digest: a plan has them among its settings, and there may be many."""

    def __init__(self, by_key: Mapping[str, Iterable[str]]) -> None:
        super().__init__({key: tuple(texts) for key, texts in sorted(by_key.items())})
        self._digest = version_of("\n".join(text for texts in self.values() for text in texts))

    def __repr__(self) -> str:
        return f"<{sum(map(len, self.values()))} definitions, {self._digest}>"


def set_due(state: Any, by_time: int | None, by_clock: int | None, *, clock: bool) -> None:  # noqa: ANN401
    """Have a key called when something is due: by event time, and by the wall clock where its process has one; None: nothing is due."""
    if by_clock is not None and clock:
        state.set_clock_timer("due", by_clock)
    elif clock:
        state.clear_clock_timer("due")
    if by_time is not None:
        state.set_timer("due", by_time)
    else:
        state.clear_timer("due")


def is_live(state: Any, *, woken: bool) -> bool:  # noqa: ANN401
    """Return whether the wall clock is known to be another than event time, and remember it in `state.live`."""
    # A record of a live run may arrive in the millisecond of its event time, as all do in a run over files.
    if not state.live and (woken or state.now != state.time):
        state.live = True
    return bool(state.live)
