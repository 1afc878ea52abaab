"""The process that hosts rules on every engine: readings of an equipment go in; conditions, run states and suppressions come out.

Theory of operation
-------------------
The process has the last value of each parameter of an equipment. A reading changes one of them, and the conditions that depend on it are computed
again. A value of bad quality is unknown until the next one. A condition that is unknown changes nothing: a rule is neither active nor inactive anew,
a run state is neither entered nor left, and the durations of HELD are held.

What a duration makes due happens before the next reading, with its own time. When readings stop, durations run on by the wall clock: one that ends
3 s after the last reading ends 3 s after its arrival. An equipment has one clock: it never goes back, so a reading that is older than another
parameter's counts at the time of the newest. A reading that is older than the last of its own parameter changes nothing, and is reported.

The text that is retained of a condition begins with a mark: where no duration runs, a reading that the condition does not depend on passes it by
unread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import msgspec

from headrace.alarms.formula import RUN_STATE
from headrace.alarms.formula import Value as Given
from headrace.alarms.hosting import Texts, is_live, set_due
from headrace.alarms.rule_definition import (
    ALARM,
    EVERY,
    Condition,
    Rule,
    RuleSet,
    alarm_suppression,
    check_cycles,
    rule_of,
    rule_set,
    with_rule,
    without_rule,
)
from headrace.errors import PlanError
from headrace.plan.process import Map, Value
from headrace.plant.quality import is_bad

__all__ = ["ClockedFixedRules", "ClockedSharedRules", "EquipmentRules", "FixedRules", "SharedRules"]

Row = tuple[str, dict[str, Any]]
_RUNNING, _DONE, _UNKNOWN = 0, 1, 2
_OVER = {_RUNNING: False, _DONE: True, _UNKNOWN: None}


class Hold(msgspec.Struct, array_like=True):
    """Since when a condition has held: event time and the wall clock; `state` is whether it runs, is over, or the condition is unknown now."""

    since: int
    arrived: int
    state: int = _RUNNING


class Memory(msgspec.Struct, array_like=True):
    """The state of a condition: its definition's version, whether it is active, whether it is unknown, and its holds by number."""

    version: str
    active: bool = False
    unknown: bool = False
    holds: dict[int, Hold] = msgspec.field(default_factory=dict)


class Settled(NamedTuple):
    """How an equipment is before readings: its rules, the values and times of its parameters, its run state, and the time that it has reached.

    Of each condition, whether it is active (None: unknown) and its holds by number: since when, and whether they are over (None: the condition is
    unknown). Whether arrival is known to be another time than event time; None if that does not matter.
    """

    rules: RuleSet
    values: Mapping[str, float]
    times: Mapping[str, int]
    run_state: str | None
    reached: int
    active: Sequence[bool | None]
    holds: Sequence[Mapping[int, tuple[int, bool | None]]]
    live: bool | None


_decode = msgspec.json.Decoder(Memory).decode
_encode = msgspec.json.Encoder().encode
_AT_REST, _BUSY = "-", "+"


class _Moment:
    """The values of an equipment at a time, with which one condition at a time is computed."""

    def __init__(self, values: dict[str, Given], time: int, now: int, *, by_clock: bool) -> None:
        self.values, self.time, self.now, self.by_clock = values, time, now, by_clock
        self.holds: dict[int, Hold] = {}

    def value(self, name: str) -> Given:
        """Return a value; None if it is unknown."""
        return self.values.get(name)

    def held(self, number: int, active: bool | None, duration_ms: int) -> bool | None:  # noqa: FBT001
        """Return whether a condition has held for a duration, and retain since when."""
        hold = self.holds.get(number)
        if active is None:
            if hold is not None and hold.state == _RUNNING:
                hold.state = _UNKNOWN
            return None
        if not active:
            self.holds.pop(number, None)
            return False
        if hold is None:
            hold = self.holds[number] = Hold(self.time, self.now)
        elif hold.state == _UNKNOWN:
            hold.state = _RUNNING
        if self.time - hold.since >= duration_ms or (self.by_clock and self.now - hold.arrived >= duration_ms):
            hold.state = _DONE
        return hold.state == _DONE


class Equipment:
    """The rules of an equipment during one call.

    Attributes
    ----------
    rows
        The rows that are emitted, each with the name of its output.
    """

    def __init__(self, rules: RuleSet, state: Any, *, now: int) -> None:  # noqa: ANN401
        self.name, self.rules, self.state, self.now = str(state.key["equipment"]), rules, state, now
        self.rows: list[Row] = []
        self._memories: dict[str, Memory] = {}
        self._touched = set[str]()
        self._held: Mapping[str, str] = getattr(state.conditions, "values_", state.conditions)
        self._changed = state.version != rules.version
        if self._changed:
            self._adopt()

    # what comes

    def take(self, left_out: Iterable[Mapping[str, Any]]) -> None:
        """Take the last readings of parameters from among those that change no condition."""
        state = self.state
        for one in left_out:
            parameter, time, value = one["parameter"], one["@time"], one["value"]
            state.times[parameter] = time
            state.reached = max(state.reached, time)
            if value is not None:
                state.values[parameter] = value

    def reading(self, parameter: str, value: float | None) -> None:
        """Take a reading; a value that is None is unknown."""
        state, time = self.state, self.state.time
        last = state.times.get(parameter)
        if last is not None and time < last:
            row = {"parameter": parameter, "time": time, "last_time": last, "arrived": self.now, "value": value}
            self.rows.append(("older", row))
            return
        due = {place for at, _, place in self.pass_time(time) if at == time}
        state.times[parameter] = time
        if value is None:
            state.values.pop(parameter, None)
        else:
            state.values[parameter] = value
        conditions = [one for place, one in enumerate(self.rules.conditions) if self._changed or parameter in one.reads or place in due]
        state.version, self._changed = self.rules.version, False
        self._compute(conditions, time)

    def pass_time(self, before: int) -> list[tuple[int, int, int]]:
        """Do what is due by event time before a time, in the order in which it is due; return what is due then or later."""
        while (dues := [*self._dues()]) and (at := min(due[0] for due in dues)) < before:
            places = sorted({place for time, _, place in dues if time == at})
            self._compute([self.rules.conditions[place] for place in places], at)
        return dues

    def pass_clock(self, upto: int) -> None:
        """Do what is due by the wall clock up to a time, in the order in which it is due."""
        while (dues := [*self._dues()]) and (at := min(due[1] for due in dues)) <= upto:
            places = sorted({place for _, clock, place in dues if clock == at})
            time = max(time for time, clock, _ in dues if clock == at)
            self._compute([self.rules.conditions[place] for place in places], time, by_clock=True)

    def next_due(self) -> tuple[int, int] | None:
        """Return when the first duration ends, by event time and by the wall clock; None if none runs."""
        dues = [*self._dues()]
        return (min(due[0] for due in dues), min(due[1] for due in dues)) if dues else None

    def _dues(self) -> Iterator[tuple[int, int, int]]:
        """Yield the ends of durations that run: by event time, by the wall clock, and the place of the condition."""
        for place in self.rules.timed:
            one = self.rules.conditions[place]
            if self._rests(one.key):
                continue
            for number, hold in self._memory(one).holds.items():
                if hold.state == _RUNNING:
                    duration = one.durations[number]
                    yield hold.since + duration, hold.arrived + duration, place

    def settled(self, *, clock: bool) -> Settled | None:
        """Return how the equipment is before further readings; None if its next reading may do more than change a condition."""
        state, due = self.state, self.next_due()
        live = bool(state.live) if clock else None
        if (due[0] if due and not live else None) != state.timers.get("due"):
            return None
        memories = [self._memory(one) for one in self.rules.conditions]
        active = [None if one.unknown else one.active for one in memories]
        holds = [{number: (hold.since, _OVER[hold.state]) for number, hold in one.holds.items()} for one in memories]
        return Settled(self.rules, state.values, state.times, state.run_state, state.reached, active, holds, live)

    # conditions

    def _compute(self, conditions: Sequence[Condition], time: int, *, by_clock: bool = False) -> None:
        """Compute conditions at a time, and emit what changes."""
        state = self.state
        state.reached = time = time if state.reached is None else max(time, state.reached)
        moment = _Moment({**state.values, RUN_STATE: state.run_state}, time, self.now, by_clock=by_clock)
        self._derive(moment, conditions)
        entered = [one for one in conditions if one.rule.kind == "state" and self._judge(one, moment)]
        others = [one for one in conditions if one.rule.kind != "state"]
        if entered:
            self._enter(max(entered, key=lambda one: (max(one.durations), one.rule.name)).rule.name, time)
            moment.values[RUN_STATE] = state.run_state
            others = [one for one in self.rules.conditions if one.rule.kind != "state" and (one in others or RUN_STATE in one.reads)]
            self._derive(moment, others)
        suppressions = [one for one in others if self._judge(one, moment) and one.rule.kind == "suppression"]
        for one in suppressions:
            self._suppress(f"rule {one.rule.name}", one.rule.when, time)

    def _derive(self, moment: _Moment, conditions: Sequence[Condition]) -> None:
        """Compute the derived parameters that conditions need."""
        needs = frozenset[str]().union(*(one.needs for one in conditions))
        for name, formula in self.rules.parameters:
            if name in needs:
                moment.values[name] = formula.compute(moment)

    def _judge(self, one: Condition, moment: _Moment) -> bool:
        """Compute a condition; return whether a run state was entered, or a suppression began or ended."""
        memory = self._memory(one)
        self._touched.add(one.key)
        moment.holds = memory.holds
        found = one.formula.compute(moment)
        if one.durations[-1]:
            found = moment.held(len(one.durations) - 1, None if found is None else bool(found), one.durations[-1])
        if (found is None) != memory.unknown:
            memory.unknown = found is None
            self._report(one, moment)
        if found is None or found == memory.active:
            return False
        memory.active = bool(found)
        if one.rule.kind == "rule":
            value = None if one.value is None else one.value.compute(moment)
            self._condition(one.rule.name, moment.time, one.version, active=memory.active, value=value)
        return memory.active or one.rule.kind == "suppression"

    def _report(self, one: Condition, moment: _Moment) -> None:
        """Report that a condition is unknown, with the parameters that are, or that it is known again."""
        unknown = self._memory(one).unknown
        missing = sorted(name for name in one.reads if moment.values.get(name) is None) if unknown else []
        row = {"kind": one.rule.kind, "name": one.rule.name, "unknown": unknown, "missing": missing, "time": moment.time, "arrived": self.now}
        self.rows.append(("unknown", row))

    def _condition(self, name: str, time: int, version: str, *, active: bool, value: Given = None) -> None:
        row = {"definition": name, "time": time, "arrived": self.now, "active": active, "value": value, "version": version}
        self.rows.append(("", row))

    def _enter(self, name: str | None, time: int) -> None:
        before, self.state.run_state = self.state.run_state, name
        if name != before:
            self.rows.append(("states", {"state": name, "before": before, "time": time, "arrived": self.now}))

    def _suppress(self, by: str, why: str | None, time: int) -> None:
        """Suppress the alarms that an active suppression names, and end the suppression of those that none names any more."""
        active = [one.rule for one in self.rules.conditions if one.rule.kind == "suppression" and self._memory(one).active]
        wanted = {alarm.replace("{equipment}", self.name) for one in active for alarm in one.alarms}
        for command, alarms in (("suppress", wanted - set(self.state.suppressed)), ("unsuppress", set(self.state.suppressed) - wanted)):
            for alarm in sorted(alarms):
                tag, _, definition = alarm.rpartition("/")
                row = {"tag": tag, "definition": definition, "time": time, "command": command, "by": by, "reason": why}
                self.rows.append(("commands", row))
                if command == "suppress":
                    self.state.suppressed[alarm] = True
                else:
                    del self.state.suppressed[alarm]

    # definitions that change

    def _adopt(self) -> None:
        """Adopt definitions that are not those of the last reading: withdrawn ones end, changed ones begin without their durations.

        The next reading computes all conditions.
        """
        state, now = self.state, {one.key: one for one in self.rules.conditions}
        time = state.time if state.reached is None else max(state.time, state.reached)
        gone = [key for key in state.conditions if key not in now]
        for key in gone:
            memory, (kind, _, name) = _decode(state.conditions.pop(key)[1:]), key.partition(":")
            if kind == "rule" and memory.active:
                self._condition(name, time, memory.version, active=False)
            if kind == "state" and state.run_state == name:
                self._enter(None, time)
        for key, one in now.items():
            if key in state.conditions and (memory := _decode(state.conditions[key][1:])).version != one.version:
                self._memories[key] = Memory(one.version, memory.active, memory.unknown)
                self._touched.add(key)
        if gone or self._touched:
            self._suppress("rules", "the definitions of rules have changed", time)

    # what is retained

    def _rests(self, key: str) -> bool:
        """Whether no duration of a condition runs, as far as that is known without reading what is retained."""
        return key not in self._memories and ((text := self._held.get(key)) is None or text[0] == _AT_REST)

    def _memory(self, one: Condition) -> Memory:
        memory = self._memories.get(one.key)
        if memory is None:
            text = self._held.get(one.key)
            memory = self._memories[one.key] = Memory(one.version) if text is None else _decode(text[1:])
        return memory

    def save(self) -> None:
        """Put what is retained back as texts."""
        for key in self._touched:
            memory = self._memories[key]
            running = any(hold.state == _RUNNING for hold in memory.holds.values())
            text = (_BUSY if running else _AT_REST) + _encode(memory).decode()
            if self._held.get(key) != text:
                self.state.conditions[key] = text


class EquipmentRules:
    """The rules of each equipment. Durations run in event time alone."""

    output = {
        "definition": "STRING NOT NULL", "time": "BIGINT NOT NULL", "arrived": "BIGINT NOT NULL", "active": "BOOLEAN NOT NULL", "value": "DOUBLE",
        "version": "STRING NOT NULL",
    }  # fmt: skip
    side_outputs = {
        "states": {"state": "STRING", "before": "STRING", "time": "BIGINT NOT NULL", "arrived": "BIGINT NOT NULL"},
        "commands": {
            "tag": "STRING NOT NULL", "definition": "STRING NOT NULL", "time": "BIGINT NOT NULL", "command": "STRING NOT NULL",
            "by": "STRING NOT NULL", "reason": "STRING",
        },
        "unknown": {
            "kind": "STRING NOT NULL", "name": "STRING NOT NULL", "unknown": "BOOLEAN NOT NULL", "missing": "ARRAY<STRING>",
            "time": "BIGINT NOT NULL", "arrived": "BIGINT NOT NULL",
        },
        "older": {
            "parameter": "STRING NOT NULL", "time": "BIGINT NOT NULL", "last_time": "BIGINT NOT NULL", "arrived": "BIGINT NOT NULL",
            "value": "DOUBLE",
        },
    }  # fmt: skip
    state = {
        "values": Map("DOUBLE"),
        "times": Map("BIGINT"),
        "conditions": Map("STRING"),
        "suppressed": Map("BOOLEAN"),
        "run_state": Value("STRING"),
        "reached": Value("BIGINT"),
        "version": Value("STRING", ""),
    }
    _clock = False

    def on_record(self, row: dict[str, Any], state: Any) -> list[Row]:  # noqa: ANN401
        """Take a reading, and compute the conditions that depend on it."""
        one = self._equipment(state, woken=False)
        value, quality = row["value"], row.get("quality")
        bad = value is None or not isfinite(value) or (quality is not None and is_bad(quality))
        if left_out := row.get("@passed"):
            one.take(left_out)
        one.reading(row["parameter"] or "", None if bad else value)
        return self._save(one, state)

    def on_timer(self, _name: str, state: Any) -> list[Row]:  # noqa: ANN401
        """Do what is due by event time."""
        one = self._equipment(state, woken=False)
        one.pass_time(state.time + 1)
        return self._save(one, state)

    def _needed(self, rows: Any, states: Iterable[Any]) -> Any:  # noqa: ANN401
        """Return which of many readings may change a condition. The embedded engine asks for it."""
        from headrace.alarms.rule_columns import needed  # Polars is not on every worker

        return needed(rows, [self._settled(state) for state in states])

    def _passed(self, rows: Any) -> Any:  # noqa: ANN401
        """Return what readings that are left out have changed. The embedded engine asks for it."""
        from headrace.alarms.rule_columns import passed

        return passed(rows)

    def _settled(self, state: Any) -> Settled | None:  # noqa: ANN401
        rules = rule_set(*self._texts(state.key["equipment"], state))
        return Equipment(rules, state, now=state.now).settled(clock=self._clock) if state.version == rules.version else None

    def _equipment(self, state: Any, *, woken: bool) -> Equipment:  # noqa: ANN401
        return Equipment(rule_set(*self._texts(state.key["equipment"], state)), state, now=state.clock if woken else state.now)

    def _texts(self, equipment: str, state: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:  # noqa: ANN401
        raise NotImplementedError

    def _goes_by_time(self, state: Any) -> bool:  # noqa: ANN401, ARG002
        return True

    def _save(self, one: Equipment, state: Any) -> list[Row]:  # noqa: ANN401
        one.save()
        by_time, by_clock = one.next_due() or (None, None)
        set_due(state, by_time if self._goes_by_time(state) else None, by_clock, clock=self._clock)
        return one.rows


def fixed(rules: Iterable[Rule]) -> Texts:
    """Return definitions by equipment. Raises PlanError if one is there twice, or parameters depend on themselves."""
    found: dict[str, list[str]] = {}
    seen = set[tuple[str, str, str]]()
    for one in rules:
        if (key := (one.kind, one.name, one.equipment)) in seen:
            raise PlanError("is defined twice", where=f"{one.kind} {one.name!r} of {one.equipment}", fix="remove one of them")
        seen.add(key)
        found[one.equipment] = with_rule(found.get(one.equipment, ()), one)
    definitions = Texts(found)
    for equipment in definitions:
        check_cycles(definitions.get(EVERY, ()), () if equipment == EVERY else definitions[equipment])
    return definitions


class FixedRules(EquipmentRules):
    """The same with definitions that the pipeline has."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.definitions = fixed(rules)

    def _texts(self, equipment: str, state: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:  # noqa: ANN401, ARG002
        return self.definitions.get(EVERY, ()), () if equipment == EVERY else self.definitions.get(equipment, ())


class SharedRules(EquipmentRules):
    """The same with definitions that come by a topic, and change while it runs."""

    shared = {"rules": Map("ARRAY<STRING>"), "alarms": Map("STRING")}

    def on_broadcast(self, row: Mapping[str, Any], shared: Any) -> None:  # noqa: ANN401
        """Take a definition, or withdraw one; one that is wrong or contradicts others is kept out, and those stay."""
        if row["kind"] == ALARM:
            self._suppress_alarm(row, shared)
            return
        given = {name: value for name, value in row.items() if name not in {"time", "withdrawn"}}
        equipment = str(given.get("equipment") or EVERY)
        texts = shared.rules.get(equipment, ())
        if row["withdrawn"]:
            shared.rules[equipment] = without_rule(texts, str(given.get("kind")), str(given.get("name")))
        else:
            shared.rules[equipment] = with_rule(texts, rule_of({**given, "equipment": equipment}))
        if given.get("kind") == "parameter":
            every = shared.rules.get(EVERY, ())
            for name in shared.rules if equipment == EVERY else [equipment]:
                check_cycles(every, () if name == EVERY else shared.rules[name])

    @staticmethod
    def _suppress_alarm(row: Mapping[str, Any], shared: Any) -> None:  # noqa: ANN401
        """Take from the definition of an alarm when it is suppressed; the equipment that followed its last definition may be another one."""
        alarm, before = row["name"], shared.alarms.pop(row["name"], None)
        rule = None if row["withdrawn"] or row["when"] is None else alarm_suppression(alarm, row["equipment"], row["when"])
        if before is not None:
            shared.rules[before] = without_rule(shared.rules[before], "suppression", alarm)
        if rule is not None:
            shared.rules[rule.equipment] = with_rule(shared.rules.get(rule.equipment, ()), rule)
            shared.alarms[alarm] = rule.equipment

    def _texts(self, equipment: str, state: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:  # noqa: ANN401
        rules = state.shared.rules
        return tuple(rules.get(EVERY, ())), () if equipment == EVERY else tuple(rules.get(equipment, ()))


class _Clock:
    """Durations go by the wall clock too, in live runs."""

    _clock = True
    state = {**EquipmentRules.state, "live": Value("BOOLEAN", False)}

    def _equipment(self: Any, state: Any, *, woken: bool) -> Equipment:  # noqa: ANN401
        is_live(state, woken=woken)
        found: Equipment = EquipmentRules._equipment(self, state, woken=woken)
        return found

    def _goes_by_time(self, state: Any) -> bool:  # noqa: ANN401
        return not state.live

    def on_clock(self: Any, _name: str, state: Any) -> list[Row]:  # noqa: ANN401
        """Do what is due by the wall clock."""
        one = self._equipment(state, woken=True)
        one.pass_clock(state.clock)
        rows: list[Row] = self._save(one, state)
        return rows


class ClockedFixedRules(_Clock, FixedRules):
    """The rules of each equipment, whose definitions the pipeline has."""


class ClockedSharedRules(_Clock, SharedRules):
    """The rules of each equipment, whose definitions come by a topic."""
