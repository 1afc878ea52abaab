"""Two backtests of one history side by side: which events are lost, which are found sooner or later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from headrace.backtest.figures import shown
from headrace.backtest.judge import Backtest
from headrace.backtest.labels import Label

__all__ = ["Change", "Comparison"]


class Change(NamedTuple):
    """An event, and its time to detection before and after in seconds; None if it was missed."""

    label: Label
    before: float | None
    after: float | None


@dataclass(frozen=True)
class Comparison:
    """Two backtests with the same labels."""

    before: Backtest
    after: Backtest

    @cached_property
    def changes(self) -> list[Change]:
        """The events, by start."""
        pairs = zip(self.before.events, self.after.events, strict=True)
        return [Change(before.label, before.delay_s, after.delay_s) for before, after in pairs]

    @property
    def summary(self) -> str:
        """The change in one line: `312 → 41 alarms, no event lost, 1 found 6 s later`."""
        parts = [f"{len(self.before.alarms):,} → {len(self.after.alarms):,} alarms"]
        parts.append(f"{len(self.before.false_alarms):,} → {len(self.after.false_alarms):,} of them false")
        if self.changes:
            lost = [one.label.name for one in self.changes if one.before is not None and one.after is None]
            parts.append(_named(len(lost), "lost", lost) if lost else "no event lost")
        if gained := [one.label.name for one in self.changes if one.before is None and one.after is not None]:
            parts.append(_named(len(gained), "found anew", gained))
        moved = [one.after - one.before for one in self.changes if one.before is not None and one.after is not None]
        parts += _moved([by for by in moved if by > 0], "later") + _moved([-by for by in moved if by < 0], "sooner")
        return ", ".join(parts)


def _named(count: int, what: str, names: Sequence[str]) -> str:
    listed = ", ".join(names[:3]) + (", …" if count > 3 else "")
    return f"{count:,} event{'' if count == 1 else 's'} {what} ({listed})"


def _moved(by: Sequence[float], where: str) -> list[str]:
    return [f"{len(by):,} found {'up to ' if len({*by}) > 1 else ''}{shown('time_to_detection_s', max(by))} {where}"] if by else []
