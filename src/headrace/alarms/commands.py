"""A command of an operator as a record of the topic of commands. The command line and the page write the same."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from headrace.errors import PlanError

__all__ = ["Command"]

_LONGEST = {"by": 200, "reason": 2000}  # characters
_NEED_REASON = {"shelve": "give --reason TEXT", "out_of_service": "give --reason TEXT", "comment": "write the comment"}
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Command:
    """An operator's command for an alarm.

    Attributes
    ----------
    name
        `acknowledge`, `shelve`, and so on.
    alarm
        The alarm's id: TAG/DEFINITION.
    time
        When it is given, ms since the epoch.
    by, reason
        By whom, and why; of a comment `reason` is the text. At most 200 and 2,000 characters.
    sequence
        The occurrence that it is meant for; None for whichever there is.
    until
        When a shelve ends, ms since the epoch.
    one_shot
        True for a shelve that ends when the alarm clears.
    """

    name: str
    alarm: str
    time: int
    by: str | None
    reason: str | None = None
    sequence: int | None = None
    until: int | None = None
    one_shot: bool | None = None

    def __post_init__(self) -> None:
        """Check it. Raises PlanError if `alarm` is not the id of an alarm, a name or a reason is missing, or a text is too long."""
        if not all(self.alarm.rpartition("/")):
            raise PlanError(f"{self.alarm!r} is not the id of an alarm", where="alarms", fix="write TAG/DEFINITION")
        if self.by is not None and not self.by.strip():
            raise PlanError("a name is missing", where=self._where, fix="give --by NAME")
        if self.name in _NEED_REASON and not (self.reason or "").strip():
            raise PlanError("a reason is missing", where=self._where, fix=_NEED_REASON[self.name])
        for name, longest in _LONGEST.items():
            if len(getattr(self, name) or "") > longest:
                what = "the name" if name == "by" else "the reason"
                raise PlanError(f"{what} has more than {longest:,} characters", where=self._where, fix="write it shorter")

    @property
    def _where(self) -> str:
        return f"alarms {self.name.replace('_', '-')}"

    def record(self) -> tuple[bytes, bytes]:
        """Return the record, and its key. Raises PlanError if a text is not UTF-8."""
        tag, _, definition = self.alarm.rpartition("/")
        row = {
            "tag": tag,
            "definition": definition,
            "time": self.time,
            "command": self.name,
            "by": self.by,
            "reason": self.reason,
            "sequence": self.sequence,
            "until": self.until,
            "one_shot": self.one_shot,
        }
        try:
            return _encode({name: value for name, value in row.items() if value is not None}), tag.encode()
        except UnicodeEncodeError:
            raise PlanError("a text is not UTF-8", where=self._where, fix="set the terminal to UTF-8") from None
