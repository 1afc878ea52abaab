"""The process that puts consequential alarms under the alarm that caused them.

Theory of operation
-------------------
A definition names the alarms by which its alarm may be caused. An occurrence is a consequence of another alarm that stands if that one was active
when it was raised, or was raised at most `caused_within` before or after it: alarms have different delays, so the cause may come second. Of several
causes the one that was raised first counts, as in first-out; of those the one that the definition names first. Where alarms may cause each other,
the first one is the cause: what is below an alarm is never above it.

An alarm stays under its cause until either is normal or set aside; while the cause stands it may be raised anew. If the cause goes first, another
one is looked for, or the alarm stands by itself again: an operator never has an alarm hidden under one that he does not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from headrace.alarms.definition import definitions_of, take_definition
from headrace.alarms.hosting import Texts
from headrace.alarms.machine import LIFE_CYCLE
from headrace.errors import PlanError
from headrace.plan.process import Map

__all__ = ["STANDING", "Causes", "FixedCauses", "SharedCauses", "unknown_causes"]

Given = dict[str, Any]
STANDING = frozenset(LIFE_CYCLE) - {"normal"}
_ACTIVE = frozenset(["unacknowledged", "acknowledged"])
_WITHIN_S = 60.0


class _Standing(msgspec.Struct, array_like=True):
    """An alarm that is not normal: its occurrence, the first one since it was normal, when it was raised and cleared, and what it is under.

    `under` is the cause, and `since` that alarm's `began`: if it has another one, the cause was normal in between.
    """

    sequence: int
    began: int
    raised: int
    cleared: int | None = None
    under: str | None = None
    since: int = 0


_decode = msgspec.json.Decoder(_Standing).decode
_encode = msgspec.json.Encoder().encode


class Causes:
    """The consequences of alarms, from the transitions of all alarms."""

    output = {
        "event": "STRING NOT NULL", "alarm_id": "STRING NOT NULL", "time": "BIGINT NOT NULL", "sequence": "BIGINT NOT NULL",
        "cause": "STRING NOT NULL", "cause_sequence": "BIGINT NOT NULL", "after_ms": "BIGINT NOT NULL",
    }  # fmt: skip
    state = {"standing": Map("STRING")}

    def on_record(self, row: Given, state: Any) -> Iterator[Given]:  # noqa: ANN401
        """Follow a transition."""
        name, to = row["alarm_id"], row["to"]
        if to == "refused":
            return
        was = self._standing(name, state)
        if to not in STANDING:
            if was is not None:
                del state.standing[name]
                yield from self._gone(name, was, row["time"], state)
        elif was is None or was.sequence != row["sequence"]:
            yield from self._raised(name, was, row, state)
        elif was.cleared is None and to not in _ACTIVE:
            was.cleared = row["time"]
            self._keep(name, was, state)

    def _raised(self, name: str, was: _Standing | None, row: Given, state: Any) -> Iterator[Given]:  # noqa: ANN401
        """Look for the cause of a new occurrence, and for what it has caused before it was raised itself."""
        sequence, time = row["sequence"], row["time"]
        one = _Standing(sequence, sequence if was is None else was.began, time, None if row["to"] in _ACTIVE else time)
        self._keep(name, one, state)
        yield from self._put(name, one, time, state)
        for other in self._effects(name, state):
            effect = self._standing(other, state)
            if effect is not None and self._cause(effect, state) is None:
                yield from self._put(other, effect, time, state)

    def _gone(self, name: str, was: _Standing, time: int, state: Any) -> Iterator[Given]:  # noqa: ANN401
        """Look for another cause of what an alarm that is over has caused, the latest first: it may be a consequence of an earlier one."""
        left = {}
        for other in self._effects(name, state):
            effect = self._standing(other, state)
            if effect is not None and (effect.under, effect.since) == (name, was.began):
                left[other] = effect
        rows = {}
        for other, effect in sorted(left.items(), key=lambda one: -one[1].raised):
            effect.under = None
            rows[other] = [*self._put(other, effect, time, state)] or [_row("released", other, effect, name, was, time)]
            self._keep(other, effect, state)
        for other in left:
            yield from rows[other]

    def _put(self, name: str, one: _Standing, time: int, state: Any) -> Iterator[Given]:  # noqa: ANN401
        """Put an alarm under its cause, if one stands."""
        causes, within = self._declared(name, state)
        fits = []
        for place, other in enumerate(causes):
            cause = self._standing(other, state)
            if cause is not None and _may_cause(cause, one, within) and not self._below(other, cause, name, state):
                fits.append((cause.raised, place, other, cause))
        if not fits:
            return
        _, _, under, cause = min(fits, key=lambda found: found[:2])
        one.under, one.since = under, cause.began
        self._keep(name, one, state)
        yield _row("grouped", name, one, under, cause, time)

    def _below(self, name: str, one: _Standing, above: str, state: Any) -> bool:  # noqa: ANN401
        """Return whether an alarm is another one, or below it."""
        while name != above:
            cause = self._cause(one, state)
            if cause is None or one.under is None:
                return False
            name, one = one.under, cause
        return True

    def _cause(self, one: _Standing, state: Any) -> _Standing | None:  # noqa: ANN401
        """Return the cause that an alarm is under, if that still stands."""
        cause = None if one.under is None else self._standing(one.under, state)
        return cause if cause is not None and cause.began == one.since else None

    def _standing(self, name: str, state: Any) -> _Standing | None:  # noqa: ANN401
        text = state.standing.get(name)
        return None if text is None else _decode(text)

    def _keep(self, name: str, one: _Standing, state: Any) -> None:  # noqa: ANN401
        state.standing[name] = _encode(one).decode()

    def _declared(self, name: str, state: Any) -> tuple[tuple[str, ...], int]:  # noqa: ANN401
        """Return the alarms that may cause an alarm, and within how many ms."""
        tag, _, definition = name.rpartition("/")
        for _, one in definitions_of(self._texts(tag, state)):
            if one.definition == definition:
                return one.caused_by or (), round((_WITHIN_S if one.caused_within is None else one.caused_within) * 1000)
        return (), 0

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401
        raise NotImplementedError

    def _effects(self, name: str, state: Any) -> Iterable[str]:  # noqa: ANN401
        """Return the alarms that an alarm may cause, or could by earlier definitions, in the order of their ids."""
        raise NotImplementedError


class FixedCauses(Causes):
    """The same with definitions that the pipeline has."""

    def __init__(self, definitions: Texts) -> None:
        self.definitions = definitions
        self.effects: dict[str, list[str]] = {}
        every = (one for texts in definitions.values() for _, one in definitions_of(texts))
        for one in sorted(every, key=lambda one: one.alarm_id):
            for cause in one.caused_by or ():
                self.effects.setdefault(cause, []).append(one.alarm_id)

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401, ARG002
        return self.definitions.get(tag, ())

    def _effects(self, name: str, state: Any) -> Iterable[str]:  # noqa: ANN401, ARG002
        return self.effects.get(name, ())


class SharedCauses(Causes):
    """The same with definitions that come by a topic, and change while it runs. Those that are refused are left to `hr.alarm` to report.

    The alarms that a cause may have are numbered by it, each an entry of its own: with one list for each cause, thousands of definitions that name
    the same one would each write it anew.
    """

    shared = {"definitions": Map("ARRAY<STRING>"), "counts": Map("BIGINT"), "numbered": Map("STRING"), "known": Map("BOOLEAN")}

    def on_broadcast(self, row: Mapping[str, Any], shared: Any) -> None:  # noqa: ANN401
        """Take a definition, or withdraw one."""
        try:
            take_definition(row, shared.definitions)
        except PlanError:
            return
        # A cause that a definition no longer names stays here: the alarm may still be under it, and is released when that is over.
        for _, one in definitions_of(tuple(shared.definitions[row["tag"]])):
            for cause in (one.caused_by or ()) if one.definition == row["definition"] else ():
                pair = f"{len(cause)} {cause} {one.alarm_id}"
                if pair not in shared.known:
                    count = shared.counts.get(cause, 0)
                    shared.known[pair], shared.numbered[f"{count} {cause}"], shared.counts[cause] = True, one.alarm_id, count + 1

    def _texts(self, tag: str, state: Any) -> tuple[str, ...]:  # noqa: ANN401
        return tuple(state.shared.definitions.get(tag, ()))

    def _effects(self, name: str, state: Any) -> Iterable[str]:  # noqa: ANN401
        shared = state.shared
        return sorted(shared.numbered[f"{number} {name}"] for number in range(shared.counts.get(name, 0)))


def unknown_causes(named: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """Yield the alarms that name a cause which is no alarm itself, each with that name.

    Parameters
    ----------
    named
        The alarms that may cause it, by the id of each alarm that is defined.
    """
    return ((alarm, cause) for alarm, causes in named.items() for cause in causes if cause not in named)


def _may_cause(cause: _Standing, effect: _Standing, within_ms: int) -> bool:
    """Return whether an alarm was active when another one was raised, or the two were raised close to each other."""
    was_active = cause.raised <= effect.raised and (cause.cleared is None or cause.cleared >= effect.raised)
    return was_active or abs(cause.raised - effect.raised) <= within_ms


def _row(event: str, name: str, one: _Standing, under: str, cause: _Standing, time: int) -> Given:
    where = {"cause": under, "cause_sequence": cause.sequence, "after_ms": one.raised - cause.raised}
    return {"event": event, "alarm_id": name, "time": time, "sequence": one.sequence, **where}
