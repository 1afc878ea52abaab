"""The processes that host alarms on every engine: one for the alarms of each tag, one for floods of alarms."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from math import isnan
from typing import Any

from headrace.alarms.definition import Definition, definition_of, definitions_of, with_definition
from headrace.alarms.tag import CURRENT, NUISANCE, OLDER, TRANSITION, Command, Last, Row, Tag
from headrace.plan.process import List, Map, Value
from headrace.plant.quality import is_bad

__all__ = ["ClockedFixedAlarms", "ClockedSharedAlarms", "FixedAlarms", "Flood", "SharedAlarms", "TagAlarms"]

Given = dict[str, Any]


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

    def on_record(self, row: Given, state: Any) -> list[Row]:  # noqa: ANN401
        """Judge a reading."""
        tag = self._tag(state)
        value, quality = row["value"], row.get("quality")
        bad = value is None or isnan(value) or (quality is not None and is_bad(quality))
        if tag.reading(value, bad=bad, older=state.older):
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
            tag.condition(row["definition"] or "", active=row["active"], value=row["value"])
        return self._save(tag, state)

    def on_timer(self, _name: str, state: Any) -> list[Row]:  # noqa: ANN401
        """Do what is due by event time."""
        tag = self._tag(state)
        tag.pass_time(by_clock=False)
        return self._save(tag, state)

    def _tag(self, state: Any, *, now: int | None = None) -> Tag:  # noqa: ANN401
        name, last = state.key["tag"], None
        if state.last_time is not None:
            last = Last(state.last_time, state.last_arrived, state.last_value, state.last_bad)
        definitions, live = definitions_of(self._texts(name, state)), self._is_live(state, woken=now is not None)
        return Tag(name, definitions, state.alarms, last, time=state.time, now=state.now if now is None else now, clock=self._clock, live=live)

    def _is_live(self, state: Any, *, woken: bool) -> bool:  # noqa: ANN401, ARG002
        """Return whether the wall clock is known to be another than event time."""
        return False

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401
        raise NotImplementedError

    def _save(self, tag: Tag, state: Any) -> list[Row]:  # noqa: ANN401
        tag.save()
        if tag.last is not None:
            state.last_time, state.last_arrived, state.last_value, state.last_bad = tag.last
        due = tag.next_due()
        if due is not None and self._clock:
            state.set_clock_timer("due", due[1])
        elif self._clock:
            state.clear_clock_timer("due")
        if due is not None and due[0] is not None:
            state.set_timer("due", due[0])
        else:
            state.clear_timer("due")
        return tag.rows


class Fixed(dict[str, tuple[str, ...]]):
    """Definitions by tag, as texts. It is shown as a digest: a plan has it among its settings, and there may be many."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        super().__init__()
        by_tag: dict[str, list[str]] = {}
        for one in definitions:
            by_tag[one.tag] = with_definition(by_tag.get(one.tag, ()), one)
        self.update({tag: tuple(texts) for tag, texts in sorted(by_tag.items())})
        self._digest = sha256("\n".join(text for texts in self.values() for text in texts).encode()).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"<{sum(map(len, self.values()))} definitions, {self._digest}>"


class FixedAlarms(TagAlarms):
    """The same with definitions that the pipeline has."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self.definitions = Fixed(definitions)

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401, ARG002
        return self.definitions.get(tag, ())


class SharedAlarms(TagAlarms):
    """The same with definitions that come by a topic, and change while it runs."""

    shared = {"definitions": Map("ARRAY<STRING>")}

    def on_broadcast(self, row: Given, shared: Any) -> None:  # noqa: ANN401
        """Take a definition, or withdraw one; one that contradicts itself or others is kept out, and those stay."""
        given = {name: value for name, value in row.items() if name not in {"time", "withdrawn"}}
        tag = str(given.get("tag"))
        texts = shared.definitions.get(tag, ())
        if row["withdrawn"]:
            left = [text for text, (_, one) in zip(texts, definitions_of(tuple(texts)), strict=True) if one.definition != given["definition"]]
            if len(left) == len(texts):
                raise ValueError(f"tag {tag!r} has no alarm {given['definition']!r} that could be withdrawn")
            shared.definitions[tag] = left
            return
        shared.definitions[tag] = with_definition(texts, definition_of(given))

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401
        texts: Sequence[str] = state.shared.definitions.get(tag, ())
        return tuple(texts)


class _Clock:
    """What is due goes by the wall clock too, in live runs."""

    _clock = True
    state = {**TagAlarms.state, "live": Value("BOOLEAN", False)}

    def _is_live(self, state: Any, *, woken: bool) -> bool:  # noqa: ANN401
        # A record of a live run may arrive in the millisecond of its event time, as all do in a run over files.
        if not state.live and (woken or state.now != state.time):
            state.live = True
        return bool(state.live)

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
