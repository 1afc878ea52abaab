"""The events between a source and a topic: what is committed next, and what is acknowledged then. Sans-IO.

The position of the last event and the ledger are committed with the records. So the topic has no record of which the position does
not know, and lacks none of which it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

import msgspec

from headrace._json import NOT_JSON
from headrace.connectors.protocol import Event
from headrace.topics.dead_letters import encode_event_letter
from headrace.topics.protocol import Commit, Outgoing

__all__ = ["Inflow", "Position", "of_session", "resumes", "shown"]

MOST_RECORDS = 10_000
MOST_BYTES = 4 << 20
_SHOWN = 100
AHEAD = 64  # events that are collected during a commit
TOGETHER_SECONDS = 0.002  # events that come together are committed together, also after a pause


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a source has been read: the manifest of its commits.

    Attributes
    ----------
    source
        The source's name.
    last
        The position of the last event committed; None before the first.
    passed
        How many records were committed.
    duplicate
        How many events were dropped because their ids were committed.
    malformed
        How many events could not be records, and are dead letters.
    shed
        How many events the source had dropped before they were read, where it says so.
    ids
        The ids of the last events committed, as many as the source may deliver again.
    """

    source: str
    last: Any = None
    passed: int = 0
    duplicate: int = 0
    malformed: int = 0
    shed: int = 0
    ids: tuple[str, ...] = ()

    @property
    def ledger(self) -> Mapping[str, int]:
        """The ledger of the events."""
        counts = {"accepted": self.passed, "malformed": self.malformed, "duplicate": self.duplicate, **({"shed": self.shed} if self.shed else {})}
        return {"received": sum(counts.values()), **counts}


def resumes(last: Any) -> str:  # noqa: ANN401  (a value of JSON)
    """Return where a source resumes, in words."""
    if last is None:
        return "from the first event"
    return f"in session {last['session']}" if of_session(last) else f"after event {shown(last)}"


def of_session(last: Any) -> bool:  # noqa: ANN401  (a value of JSON)
    """Return whether a position names no event: the outside system keeps what was not acknowledged, in a session with this name."""
    return isinstance(last, dict) and last.keys() == {"session"}


def shown(last: Any) -> str:  # noqa: ANN401  (a value of JSON)
    """Return a position as text, cut where it is long; of a place in a file, and of offsets, only these."""
    if isinstance(last, dict) and "path" in last and "at" in last:
        return f"at byte {last['at']} of {last['path']}"
    if isinstance(last, dict) and "offsets" in last:
        last = last["offsets"]
    text = last if isinstance(last, str) else msgspec.json.encode(last).decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


class Inflow:
    """Collects events while a commit is under way, and says what the next one is.

    Parameters
    ----------
    topic
        Where the records go.
    position
        What was committed before.
    key
        The field of a record that is its key, where the event has none.
    redelivers
        How many of its last events the source may deliver again.
    window
        After how many events it waits for acknowledgements; 0: after as many as it may deliver again.
    batch_seconds
        How long to collect events, at most: so much time is from one commit to the next. After a pause there is no reason to wait.

    Attributes
    ----------
    position
        What has been committed.
    due_at
        When the collected events are to be committed at the latest; None if there are none.
    malformed
        Why events of the last commit could not be records.
    """

    def __init__(
        self, topic: str, position: Position, *, key: str | None = None, redelivers: int = 0, window: int = 0, batch_seconds: float = 0.1
    ) -> None:
        self._window = window or redelivers
        self._topic, self._key, self._redelivers, self._batch_seconds = topic, key, redelivers, batch_seconds
        self._rested_at = -inf  # when the next commit may begin
        self.position = position
        self.malformed: Sequence[str] = ()
        self.discard()

    def discard(self) -> None:
        """Forget the events that were not committed: the source delivers them again."""
        self.due_at: float | None = None
        self._events: list[Event] = []
        self._repeated: list[Event] = []
        self._committing: list[Event] | None = None
        self._size = 0
        self._ids = dict.fromkeys(self.position.ids)

    def offer(self, event: Event, now: float) -> bool:
        """Take an event, and return whether no further one may be offered before `commit` is called: the source has to wait.

        An event whose id has been taken is only acknowledged.
        """
        if self.due_at is None:
            self.due_at = max(now + min(TOGETHER_SECONDS, self._batch_seconds), self._rested_at)
        if self._redelivers and event.id is not None:
            known = event.repeats and event.id in self._ids
            # The last to be delivered are the last to be forgotten.
            self._ids.pop(event.id, None)
            self._ids[event.id] = None
            if known:
                self._repeated.append(event)
                return self.due(now)
        self._events.append(event)
        self._size += len(event.value)
        return self.due(now)

    def due(self, now: float) -> bool:
        """Return whether it is time for a commit. A source that waits for acknowledgements delivers no more: then it is time too."""
        if self.due_at is None:
            return False
        count = len(self._events) + len(self._repeated)
        most = MOST_RECORDS if self._committing is None else AHEAD
        return now >= self.due_at or count >= min(most, self._window or most) or self._size >= MOST_BYTES

    def commit(self, most: float) -> Commit:
        """Return what makes the collected events durable, at most so many records, with the position after them."""
        events, rest = (self._events, []) if len(self._events) <= most else (self._events[: int(most)], self._events[int(most) :])
        before = self.position
        # A repetition of an event that is not committed yet is not acknowledged yet either.
        later = {event.id for event in rest}
        repeated = [event for event in self._repeated if event.id not in later]
        last = next((event.position for event in reversed(events) if event.position is not None), before.last)
        ids = self._forget(rest) if self._redelivers else ()
        records = [event for event in events if event.malformed is None]
        bad = [event for event in events if event.malformed is not None] if len(records) < len(events) else []
        passed, malformed = before.passed + len(records), before.malformed + len(bad)
        shed = before.shed + sum(event.shed for event in events)
        self._next = Position(before.source, last, passed, before.duplicate + len(repeated), malformed, shed, ids)
        self._committing = events + repeated
        self._repeated = [event for event in self._repeated if event.id in later]
        self._events, self._size = rest, sum(len(event.value) for event in rest)
        self.due_at = self.due_at if rest else None
        manifest = {**msgspec.to_builtins(self._next), "ledger": {before.source: self._next.ledger}}
        cursors = {(self._topic, 0): self._next.passed}
        outgoing = [self._outgoing(some, partition) for partition, some in _divided(records)]
        self.malformed = [event.malformed or "" for event in bad]
        if bad:
            outgoing.append(self._letters(bad))
        return Commit(msgspec.json.encode(manifest), {}, (), outgoing, cursors)

    def _forget(self, rest: Sequence[Event]) -> tuple[str, ...]:
        """Return the ids that are committed now: the last ones, without those of events that are not committed yet. Others are forgotten."""
        later = dict.fromkeys(event.id for event in rest if event.id is not None)
        ids = [one for one in self._ids if one not in later][-self._redelivers :]
        self._ids = dict.fromkeys([*ids, *later])
        return tuple(ids)

    def committed(self, now: float = -inf) -> list[Event]:
        """Note that the commit stands, and return the events that the source may now forget."""
        assert self._committing is not None
        self._rested_at = now + self._batch_seconds
        self.position, done, self._committing = self._next, self._committing, None
        return done

    def _letters(self, events: Sequence[Event]) -> Outgoing:
        name = f"bridge:{self._topic}"
        lines = [encode_event_letter(name, self._topic, event.malformed or "", event.value)[:-1] for event in events]
        return Outgoing(f"{self._topic}.dead-letter", b"\n".join(lines), len(lines), None, 0)

    def _outgoing(self, events: Sequence[Event], partition: int | None) -> Outgoing:
        values = [event.value for event in events]
        lines = b"\n".join(values)
        if lines.count(b"\n") != len(values) - 1:
            # A log takes lines, so there may be no line feed within a record.
            lines = b"\n".join([value.replace(b"\n", b"\r") for value in values])
        keys = [event.key for event in events]
        if self._key is not None:
            keys = [_key_of(value, self._key) if key is None else key for key, value in zip(keys, values, strict=True)]
        return Outgoing(self._topic, lines, len(values), keys if any(key is not None for key in keys) else None, partition)


def _divided(events: Sequence[Event]) -> Iterator[tuple[int | None, Sequence[Event]]]:
    """Yield the events of each partition, in their order; None: the key chooses it."""
    partitions = dict.fromkeys(event.partition for event in events)
    for partition in partitions:
        yield partition, events if len(partitions) == 1 else [event for event in events if event.partition == partition]


def _key_of(value: bytes, field: str) -> str | None:
    """Return the text of a record's field; None if it has none, or is no JSON object."""
    try:
        found = msgspec.json.decode(value, type=dict[str, msgspec.Raw]).get(field)
        key = None if found is None else msgspec.json.decode(found, type=str | int | float | None)
    except NOT_JSON:
        return None
    return None if key is None else str(key)
