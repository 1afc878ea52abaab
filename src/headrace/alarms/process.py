"""The processes that host alarms on every engine: one for the alarms of each tag, one for floods of alarms."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from math import isnan
from typing import Any, NamedTuple

import msgspec

from headrace.alarms.cause import STANDING
from headrace.alarms.condition import Seen
from headrace.alarms.definition import Definition, definitions_of, take_definition, with_definition
from headrace.alarms.hosting import Texts, is_live, set_due
from headrace.alarms.tag import CURRENT, EVIDENCE, NUISANCE, OLDER, TRANSITION, Command, Last, Row, Tag
from headrace.errors import PlanError
from headrace.plan.process import List, Map, Value
from headrace.plant.quality import is_bad

__all__ = ["ClockedFixedAlarms", "ClockedSharedAlarms", "Evidence", "FirstOut", "FixedAlarms", "Flood", "KeySteady", "SharedAlarms", "TagAlarms"]

Given = dict[str, Any]
_decode_seen = msgspec.json.Decoder(Seen).decode
_encode_seen = msgspec.json.Encoder().encode


class Evidence(NamedTuple):
    """The topics of readings and of conditions; None where a column `topic` has it. A row's place is in `partition` and `offset`."""

    readings: str | None
    conditions: str | None


class KeySteady(NamedTuple):
    """`Steady` of a tag, with the event time and the arrival of its last reading, and whether it is of a live run with a wall clock."""

    low: float
    high: float
    silence: int | None
    by_time: int
    by_clock: int
    last_time: int | None
    last_now: int | None
    live: bool


def _seen(topic: str | None, row: Given, time: int) -> Seen | None:
    """Return where a row is; None if that is not known."""
    topic, partition, offset = row.get("topic") if topic is None else topic, row.get("partition"), row.get("offset")
    return None if topic is None or partition is None or offset is None else Seen(topic, partition, offset, time)


class TagAlarms:
    """The alarms of each tag. What is due goes by event time alone."""

    output = TRANSITION
    side_outputs = {"current": CURRENT, "journal": TRANSITION, "nuisances": NUISANCE, "older": OLDER}
    state = {
        "last_time": Value("BIGINT"),
        "last_arrived": Value("BIGINT"),
        "last_value": Value("DOUBLE"),
        "last_bad": Value("BOOLEAN", False),
        "older": Value("BIGINT", 0),
        "alarms": Map("STRING"),
    }
    _clock = False
    evidence: Evidence | None = None

    def with_evidence(self, evidence: Evidence) -> TagAlarms:
        """Return the process itself, which from now on names the records that moved an alarm."""
        self.evidence = evidence
        transition = {**TRANSITION, **EVIDENCE}
        self.output, self.side_outputs = transition, {**self.side_outputs, "journal": transition}
        self.state = {**self.state, "last_seen": Value("STRING")}
        return self

    def on_record(self, row: Given, state: Any) -> list[Row]:  # noqa: ANN401
        """Judge a reading."""
        tag = self._tag(state)
        value, quality = row["value"], row.get("quality")
        bad = value is None or isnan(value) or (quality is not None and is_bad(quality))
        seen = None if self.evidence is None else _seen(self.evidence.readings, row, state.time)
        if tag.reading(value, bad=bad, older=state.older, seen=seen):
            state.older += 1
        return self._save(tag, state)

    def on_command(self, row: Given, state: Any) -> list[Row]:  # noqa: ANN401
        """Carry out an operator's command, or refuse it."""
        tag = self._tag(state)
        name = (row["command"] or "").strip().lower().replace(" ", "_")
        one_shot = bool(row["one_shot"])
        tag.command(Command(row["definition"] or "", name, row["by"], row["reason"], row["sequence"], row["until"], one_shot))
        return self._save(tag, state)

    def on_condition(self, row: Given, state: Any) -> list[Row]:  # noqa: ANN401
        """Take the condition of a custom alarm as a rule has found it."""
        tag = self._tag(state)
        if row["active"] is not None:
            seen = None if self.evidence is None else _seen(self.evidence.conditions, row, state.time)
            tag.condition(row["definition"] or "", active=row["active"], value=row["value"], seen=seen)
        return self._save(tag, state)

    def on_timer(self, _name: str, state: Any) -> list[Row]:  # noqa: ANN401
        """Do what is due by event time."""
        tag = self._tag(state)
        tag.pass_time(by_clock=False)
        return self._save(tag, state)

    def _needed(self, rows: Any, states: Iterable[Any]) -> Any:  # noqa: ANN401
        """Return which of many readings may move an alarm. The embedded engine asks for it."""
        from headrace.alarms.steady import needed  # Polars is not on every worker

        return needed(rows, [self._steady(state) for state in states], clock=self._clock)

    def _steady(self, state: Any) -> KeySteady | None:  # noqa: ANN401
        """Return which readings change nothing of a tag but its last reading; None if any reading may change more."""
        tag = self._tag(state)
        live = self._clock and state.live
        steady = tag.steady()
        due, _ = tag.next_due() or (None, 0)
        # Timers of definitions that have changed since are replaced with the next reading.
        if steady is None or (None if live else due) != state.timers.get("due"):
            return None
        time, now = (None, None) if tag.last is None else (tag.last.time, tag.last.arrived)
        return KeySteady(*steady, time, now, live)

    def _tag(self, state: Any, *, now: int | None = None) -> Tag:  # noqa: ANN401
        name, last = state.key["tag"], None
        if state.last_time is not None:
            last = Last(state.last_time, state.last_arrived, state.last_value, state.last_bad)
        definitions, live = definitions_of(self._texts(name, state)), self._is_live(state, woken=now is not None)
        now = state.now if now is None else now
        tag = Tag(name, definitions, state.alarms, last, time=state.time, now=now, clock=self._clock, live=live)
        if self.evidence is not None:
            tag.evidence, tag.last_seen = True, None if state.last_seen is None else _decode_seen(state.last_seen)
        return tag

    def _is_live(self, state: Any, *, woken: bool) -> bool:  # noqa: ANN401, ARG002
        """Return whether the wall clock is known to be another than event time."""
        return False

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401
        raise NotImplementedError

    def _save(self, tag: Tag, state: Any) -> list[Row]:  # noqa: ANN401
        tag.save()
        if tag.last is not None:
            state.last_time, state.last_arrived, state.last_value, state.last_bad = tag.last
        if self.evidence is not None:
            state.last_seen = None if tag.last_seen is None else _encode_seen(tag.last_seen).decode()
        set_due(state, *(tag.next_due() or (None, None)), clock=self._clock)
        return tag.rows


def fixed(definitions: Iterable[Definition]) -> Texts:
    """Return definitions by tag. Raises PlanError if one contradicts another one, or is there twice."""
    by_tag: dict[str, list[str]] = {}
    seen = set[str]()
    for one in definitions:
        if one.alarm_id in seen:
            raise PlanError("is defined twice", where=f"alarm {one.alarm_id}", fix="remove one of them")
        seen.add(one.alarm_id)
        by_tag[one.tag] = with_definition(by_tag.get(one.tag, ()), one)
    return Texts(by_tag)


class FixedAlarms(TagAlarms):
    """The same with definitions that the pipeline has."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self.definitions = fixed(definitions)

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401, ARG002
        return self.definitions.get(tag, ())


class SharedAlarms(TagAlarms):
    """The same with definitions that come by a topic, and change while it runs."""

    shared = {"definitions": Map("ARRAY<STRING>")}

    def on_broadcast(self, row: Given, shared: Any) -> None:  # noqa: ANN401
        """Take a definition, or withdraw one; one that contradicts itself or others is kept out, and those stay."""
        take_definition(row, shared.definitions)

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401
        texts: Sequence[str] = state.shared.definitions.get(tag, ())
        return tuple(texts)


class _Clock:
    """Timers of alarms that also go by the wall clock, in live runs."""

    _clock = True
    state = {**TagAlarms.state, "live": Value("BOOLEAN", False)}

    def _is_live(self, state: Any, *, woken: bool) -> bool:  # noqa: ANN401
        return is_live(state, woken=woken)

    def on_clock(self: Any, _name: str, state: Any) -> list[Row]:  # noqa: ANN401
        """Do what is due by the wall clock."""
        tag = self._tag(state, now=state.clock)
        tag.pass_time(by_clock=True)
        rows: list[Row] = self._save(tag, state)
        return rows


class ClockedFixedAlarms(_Clock, FixedAlarms):
    """The alarms of each tag, whose definitions the pipeline has."""


class ClockedSharedAlarms(_Clock, SharedAlarms):
    """The alarms of each tag, whose definitions come by a topic."""


class FirstOut:
    """Finds which alarm of a group came first since all of them were normal, and which followed."""

    output = {
        "event": "STRING NOT NULL", "alarm_id": "STRING NOT NULL", "time": "BIGINT NOT NULL", "sequence": "BIGINT NOT NULL",
        "first": "STRING NOT NULL", "place": "BIGINT NOT NULL", "after_ms": "BIGINT NOT NULL",
    }  # fmt: skip
    state = {"standing": Map("BIGINT"), "first": Value("STRING"), "began": Value("BIGINT"), "place": Value("BIGINT", 0)}

    def on_record(self, row: Given, state: Any) -> Given | None:  # noqa: ANN401
        """Follow a transition."""
        name, time, to = row["alarm_id"], row["time"], row["to"]
        stands = name in state.standing
        if to == "refused" or stands == (to in STANDING):
            return None
        if not stands:
            if not len(state.standing):
                state.first, state.began, state.place = name, time, 0
            state.place += 1
            state.standing[name] = state.place
            event, place = "first" if state.place == 1 else "followed", state.place
        else:
            place = state.standing.pop(name)
            if len(state.standing):
                return None
            event = "over"
        where = {"first": state.first, "place": place, "after_ms": time - state.began}
        return {"event": event, "alarm_id": name, "time": time, "sequence": row["sequence"], **where}


class Flood:
    """Finds floods: from more than 10 raises in 10 minutes until fewer than 5 in 10 minutes."""

    output = {"flood": "STRING NOT NULL", "time": "BIGINT NOT NULL", "raises": "BIGINT NOT NULL"}
    state = {"raises": List("BIGINT"), "flood": Value("BOOLEAN", False)}
    most, fewest, within_ms = 10, 5, 600_000

    def on_record(self, row: Given, state: Any) -> Iterator[Given]:  # noqa: ANN401
        """Count a raise."""
        yield from self.on_timer("", state)
        raises = list(state.raises)
        insort(raises, row["time"])
        state.raises = raises = [time for time in raises if time > raises[-1] - self.within_ms]
        if len(raises) > self.most and not state.flood:
            state.flood = True
            yield {"flood": "began", "time": row["time"], "raises": len(raises)}
        if state.flood and len(raises) >= self.fewest:
            state.set_timer("fewer", raises[-self.fewest] + self.within_ms)

    def on_timer(self, _name: str, state: Any) -> Iterator[Given]:  # noqa: ANN401
        """End a flood if there have been fewer raises."""
        raises = list(state.raises)
        if state.flood and len(raises) >= self.fewest and (end := raises[-self.fewest] + self.within_ms) <= state.time:
            state.flood = False
            state.clear_timer("fewer")
            yield {"flood": "ended", "time": end, "raises": self.fewest - 1}
