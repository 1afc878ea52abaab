"""Rules over the parameters of equipment: beside an evaluator that looks at the whole history, changed while they run, and as alarms."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from alarms.alarm_plant import RULES, START, happenings
from engines.embedded.test_live import Wall, live_on, written
from engines.embedded.test_processes_live import FAR, add
from headrace.alarms.definition import definition_of
from headrace.alarms.process import FixedAlarms
from headrace.alarms.rule_definition import rule_of
from headrace.alarms.rule_process import FixedRules
from headrace.errors import PlanError
from headrace.topics.sqlite import SqliteLog

HOUR = 3_600_000
BAD = 0x80000000


def defined(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, **more}


def reading(at: int, parameter: str, value: float | None, equipment: str = "K1", **more: Any) -> dict[str, Any]:
    return {"equipment": equipment, "time": at, "parameter": parameter, "value": value, **more}


def driven(definitions: list[dict[str, Any]], rows: list[dict[str, Any]], upto: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    return hr.drive(FixedRules([rule_of(one) for one in definitions]), rows, by="equipment", time="time", upto=upto)


def conditions(found: list[tuple[str, dict[str, Any]]]) -> list[tuple[int, str, bool]]:
    return [(row["time"], row["definition"], row["active"]) for name, row in found if not name]


def side(found: list[tuple[str, dict[str, Any]]], output: str, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for name, row in found if name == output]


def test_a_rule_is_active_while_its_condition_is_and_a_value_is_shown() -> None:
    one = defined("rule", "hot", when="temp > 90 AND flow < 1", value="temp - 90")
    found = driven([one], [reading(1, "flow", 0.5), reading(2, "temp", 95.0), reading(3, "temp", 96.0), reading(4, "flow", 1.0)])
    assert conditions(found) == [(2, "hot", True), (4, "hot", False)]
    assert [row["value"] for name, row in found if not name] == [5.0, 6.0]


def test_a_condition_that_misses_a_parameter_is_unknown_and_says_so_and_changes_nothing() -> None:
    one = defined("rule", "hot", when="temp > 90 AND flow < 1")
    rows = [reading(1, "temp", 95.0), reading(2, "flow", 0.5), reading(3, "temp", None), reading(4, "temp", 99.0, quality=BAD)]
    found = driven([one], [*rows, reading(5, "flow", 2.0), reading(6, "flow", 0.0), reading(7, "temp", 80.0)])
    assert conditions(found) == [(2, "hot", True), (5, "hot", False)]
    assert side(found, "unknown", "time", "unknown", "missing") == [
        (1, True, ["flow"]), (2, False, []), (3, True, ["temp"]), (5, False, []), (6, True, ["temp"]), (7, False, [])
    ]  # fmt: skip


def test_a_reading_that_is_not_finite_is_unknown() -> None:
    rows = [reading(at, "temp", value) for at, value in ((1, 80.0), (2, float("inf")), (3, float("nan")), (4, 95.0), (5, float("-inf")), (6, 80.0))]
    found = driven([defined("rule", "hot", when="temp > 90")], rows)
    assert conditions(found) == [(4, "hot", True), (6, "hot", False)]
    assert side(found, "unknown", "time", "unknown") == [(2, True), (4, False), (5, True), (6, False)]


def test_derived_parameters_are_computed_from_others_and_overridden_for_an_equipment() -> None:
    definitions = [
        defined("parameter", "power", formula="voltage * current"),
        defined("parameter", "share", formula="power / most"),
        defined("parameter", "most", formula="100"),
        defined("parameter", "most", formula="1000", equipment="K2"),
        defined("rule", "overload", when="share > 0.5"),
        defined("rule", "overload", when="FALSE", equipment="K3"),
    ]
    rows = [row for name in ("K1", "K2", "K3") for row in (reading(1, "voltage", 10.0, name), reading(2, "current", 9.0, name))]
    found = driven(definitions, rows)
    assert [(row["equipment"], row["active"]) for name, row in found if not name] == [("K1", True)]


def test_an_equipment_is_shut_down_after_two_hours_and_runs_after_24_and_its_alarms_are_suppressed_between() -> None:
    definitions = [
        defined("state", "SHUTDOWN", when="speed = 0", **{"for": 7_200}),
        defined("state", "RUNNING", when="speed > 0", **{"for": 86_400}),
        defined("suppression", "down", when="run_state = 'SHUTDOWN'", alarms=["{equipment}/cold", "north/TI-1/L"]),
        defined("rule", "cold", when="run_state <> 'SHUTDOWN' AND temp < 10"),
    ]
    rows = [reading(0, "speed", 50.0), reading(1, "temp", 5.0), reading(HOUR, "speed", 0.0), reading(2 * HOUR, "speed", 0.0)]
    rows += [reading(4 * HOUR, "speed", 20.0), reading(40 * HOUR, "speed", 0.0)]
    found = driven(definitions, rows, upto=50 * HOUR)
    assert side(found, "states", "time", "before", "state") == [
        (3 * HOUR, None, "SHUTDOWN"),
        (28 * HOUR, "SHUTDOWN", "RUNNING"),
        (42 * HOUR, "RUNNING", "SHUTDOWN"),
    ]
    assert side(found, "commands", "time", "command", "tag", "definition", "by") == [
        (at, command, tag, definition, "rule down")
        for at, command in [(3 * HOUR, "suppress"), (28 * HOUR, "unsuppress"), (42 * HOUR, "suppress")]
        for tag, definition in [("K1", "cold"), ("north/TI-1", "L")]
    ]
    assert conditions(found) == [(28 * HOUR, "cold", True), (42 * HOUR, "cold", False)]


def test_two_suppressions_of_an_alarm_end_with_the_last() -> None:
    definitions = [defined("suppression", name, when=f"{name} = 1", alarms=["T/H"]) for name in ("a", "b")]
    rows = [reading(at, name, value) for at, name, value in [(1, "a", 1.0), (2, "b", 1.0), (3, "a", 0.0), (4, "b", 0.0)]]
    assert side(driven(definitions, rows), "commands", "time", "command", "by") == [(1, "suppress", "rule a"), (4, "unsuppress", "rule b")]


def test_an_older_reading_is_reported_and_the_clock_of_an_equipment_never_goes_back() -> None:
    process = FixedRules([rule_of(defined("rule", "x", when="a > 1 AND b > 1"))])
    state = hr.fresh_state(process, equipment="K1")
    found: list[tuple[str, dict[str, Any]]] = []
    for at, parameter, value in [(10, "a", 2.0), (9, "a", 0.0), (5, "b", 2.0), (12, "a", 0.0)]:
        state.time = at
        found += process.on_record({"parameter": parameter, "value": value}, state)
    assert conditions(found) == [(10, "x", True), (12, "x", False)]
    assert side(found, "older", "parameter", "time", "last_time") == [("a", 9, 10)]


# beside an evaluator that looks at the whole history, tick by tick

TICK = 100
Tree = tuple[Any, ...]


def text_of(tree: Tree) -> str:
    match tree:
        case ("cmp", name, sign, limit):
            return f"{name} {sign} {limit}"
        case ("is", state):
            return f"run_state = '{state}'"
        case ("not", one):
            return f"NOT ({text_of(one)})"
        case ("held", _, one, seconds):
            return f"HELD({text_of(one)}, {seconds})"
        case (sign, one, other):
            return f"({text_of(one)}) {sign} ({text_of(other)})"
    raise AssertionError(tree)


class History:
    """Evaluates conditions from all that has happened so far."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.run_state: str | None = None
        self.said: dict[Any, list[tuple[int, bool | None]]] = {}

    def held(self, key: Any, now: int, value: bool | None, duration: int) -> bool | None:
        self.said.setdefault(key, []).append((now, value))
        if not value:
            return value
        since = now
        for at, one in reversed(self.said[key]):
            if one is False:
                break
            since = at if one else since
        return now - since >= duration

    def value(self, tree: Tree, now: int, place: Any) -> bool | None:
        match tree:
            case ("cmp", name, sign, limit):
                value = self.values.get({"double": "a"}.get(name, name))
                if value is None:
                    return None
                value = value * 2 if name == "double" else value
                return {">": value > limit, "<": value < limit, "=": value == limit}[sign]
            case ("is", state):
                return None if self.run_state is None else self.run_state == state
            case ("not", one):
                found = self.value(one, now, place)
                return None if found is None else not found
            case ("held", number, one, seconds):
                return self.held((place, number), now, self.value(one, now, place), round(seconds * 1000))
            case (sign, one, other):
                both = [self.value(one, now, place), self.value(other, now, place)]
                decides = sign == "OR"
                return decides if decides in both else None if None in both else not decides
        raise AssertionError(tree)


def random_tree(dice: random.Random, depth: int, number: Iterator[int], *, state: bool) -> Tree:
    if depth == 0 or dice.random() < 0.2:
        if state and dice.random() < 0.3:
            return ("is", dice.choice(["ST0", "ST1"]))
        return ("cmp", dice.choice(["a", "b", "double"]), dice.choice(["<", ">", "="]), dice.choice([0, 1, 2]))
    one = random_tree(dice, depth - 1, number, state=state)
    kind = dice.choice(["AND", "OR", "not", "held", "held"])
    if kind == "not":
        return ("not", one)
    if kind == "held":
        return ("held", next(number), one, dice.choice([0, 0.3, 0.5, 1.2]))
    return (kind, one, random_tree(dice, depth - 1, number, state=state))


def check_against_the_history(seed: int) -> None:
    dice, numbers = random.Random(seed), iter(range(1_000))
    trees: dict[tuple[str, str], tuple[Tree, float]] = {}
    for kind in ("state", "rule", "suppression"):
        for nth in range(2):
            tree = random_tree(dice, dice.randrange(3), numbers, state=kind != "state")
            trees[kind, f"{kind[:2].upper()}{nth}"] = tree, dice.choice([0, 0, 0.4, 1.0])
    ticks = [0]
    for _ in range(25):
        ticks.append(ticks[-1] + dice.choice([1, 1, 2, 5, 15]))
    rows = [reading(tick * TICK, dice.choice("ab"), dice.choice([None, 0.0, 1.0, 1.0, 2.0, 3.0])) for tick in ticks]
    end = ticks[-1] + 30
    definitions = [defined("parameter", "double", formula="a * 2")]
    for (kind, name), (tree, seconds) in trees.items():
        alarms = {"alarms": [f"T/{alarm}" for alarm in ("x", name)]} if kind == "suppression" else {}
        definitions.append(defined(kind, name, when=text_of(tree), **{"for": seconds}, **alarms))
    found = driven(definitions, rows, upto=end * TICK)

    got = [(at, name, on) for at, name, on in conditions(found)]
    got += [(at, "run_state", state) for at, state in side(found, "states", "time", "state")]
    got += [(at, alarm, command) for at, alarm, command in side(found, "commands", "time", "definition", "command")]
    assert sorted(got, key=repr) == sorted(Expected(trees).ticks(rows, end), key=repr), (seed, definitions, rows)


class Expected:
    """What random rules are expected to give, tick by tick."""

    def __init__(self, trees: dict[tuple[str, str], tuple[Tree, float]]) -> None:
        self.trees, self.history, self.suppressed = trees, History(), set[str]()
        self.active, self.found = dict[tuple[str, str], bool](), list[tuple[int, str, Any]]()

    def ticks(self, rows: list[dict[str, Any]], end: int) -> list[tuple[int, str, Any]]:
        for now in range(0, end * TICK, TICK):
            for row in (row for row in rows if row["time"] == now):
                self.history.values.pop(row["parameter"], None)
                if row["value"] is not None:
                    self.history.values[row["parameter"]] = row["value"]
            self.states(now)
            self.found += [(now, name, self.active["rule", name]) for name in self.turned("rule", now)]
            self.turned("suppression", now)
            self.suppressions(now)
        return self.found

    def turned(self, kind: str, now: int) -> list[str]:
        """Return the names whose conditions have become active or inactive."""
        names = []
        for key, (tree, seconds) in self.trees.items():
            if key[0] == kind:
                value = self.history.value(tree, now, key)
                value = self.history.held((key, "for"), now, value, round(seconds * 1000)) if seconds else value
                if value is not None and value != self.active.get(key, False):
                    self.active[key] = value
                    names.append(key[1])
        return names

    def states(self, now: int) -> None:
        entered = [name for name in self.turned("state", now) if self.active["state", name]]
        longest = {name: max([seconds, *(one[3] for one in helds(tree))]) for (_, name), (tree, seconds) in self.trees.items()}
        if entered and (name := max(entered, key=lambda one: (longest[one], one))) != self.history.run_state:
            self.history.run_state = name
            self.found.append((now, "run_state", name))

    def suppressions(self, now: int) -> None:
        active = [name for (kind, name), on in self.active.items() if kind == "suppression" and on]
        wanted = {alarm for name in active for alarm in ("x", name)}
        self.found += [(now, alarm, "suppress") for alarm in wanted - self.suppressed]
        self.found += [(now, alarm, "unsuppress") for alarm in self.suppressed - wanted]
        self.suppressed = wanted


def helds(tree: Tree) -> Iterator[Tree]:
    if tree[0] == "held":
        yield tree
    for one in tree:
        if isinstance(one, tuple):
            yield from helds(one)


def test_random_rules_are_those_of_the_whole_history() -> None:
    for seed in range(40):
        check_against_the_history(seed)


@pytest.mark.long
def test_many_random_rules_are_those_of_the_whole_history() -> None:
    for seed in range(100, 3_000):
        check_against_the_history(seed)


# definitions

MISTAKES: list[tuple[dict[str, Any], str]] = [
    (defined("rul", "x", when="a > 1"), "unknown kind 'rul'; did you mean 'rule'"),
    (defined("rule", "x"), "kind rule needs when"),
    (defined("rule", "x", when="a"), "'a' is a number, and must be a truth"),
    (defined("rule", "x", when="a >"), "formula 'a >': a value is missing"),
    (defined("rule", "x", when="a > 1", alarms=["T/H"]), "kind rule has no alarms"),
    (defined("rule", "x/y", when="a > 1"), "a definition has a name without a slash"),
    (defined("rule", "x", when="a > 1", **{"for": -1}), "for -1 is negative or longer than a year"),
    (defined("rule", "x", when="a > 1", value="HELD(a > 1, 3)"), "is a truth, and must be a number"),
    (defined("parameter", "x", formula="IF(HELD(a > 1, 3), 1, 0)"), "has a HELD, which stands in conditions alone"),
    (defined("state", "x", when="run_state = 'y'"), "reads the run state; rules and suppressions read it"),
    (defined("parameter", "run_state", formula="1"), "run_state is the run state"),
    (defined("suppression", "x", when="a > 1", alarms=["H"]), "alarm 'H' is not written as tag/definition"),
    (defined("rule", "x", when="a > 1", unless="b"), "unknown setting 'unless'"),
]


@pytest.mark.parametrize(("given", "what"), MISTAKES, ids=[what for _, what in MISTAKES])
def test_a_definition_that_is_wrong_is_refused(given: dict[str, Any], what: str) -> None:
    with pytest.raises(PlanError) as error:
        rule_of(given)
    assert what in str(error.value)


@pytest.mark.parametrize("given", ["rules", {"kind": "rule"}, [None], [["rule"]]])
def test_definitions_that_are_no_list_of_tables_are_refused(given: Any) -> None:
    readings = hr.stream("readings", schema={"equipment": "STRING", "parameter": "STRING", "value": "DOUBLE"})
    with pytest.raises(PlanError, match=r"rules definitions: a definition is a table, not .*; give a list of tables"):
        hr.rules(readings, given)
    alarms = hr.stream("readings", schema={"tag": "STRING", "value": "DOUBLE"})
    with pytest.raises(PlanError, match=r"alarm definitions: a definition is a table, not .*; give a list of tables"):
        hr.alarm(alarms, given, hr.alarm_commands())


def test_a_list_that_has_a_definition_twice_is_refused() -> None:
    twice = [rule_of(defined("rule", "hot", when=when)) for when in ("temp > 1", "temp > 2")]
    with pytest.raises(PlanError, match=r"rule 'hot' of \*: is defined twice; remove one of them"):
        FixedRules(twice)
    with pytest.raises(PlanError, match="alarm T/H: is defined twice; remove one of them"):
        FixedAlarms([definition_of({"tag": "T", "definition": "H", "kind": "H", "limit": limit}) for limit in (1.0, 2.0)])
    FixedRules([twice[0], rule_of(defined("rule", "hot", when="temp > 2", equipment="K1"))])


def test_a_message_of_a_definition_is_short() -> None:
    with pytest.raises(PlanError) as error:
        rule_of(defined("rule", "x" * 1_000_000, when="a"))
    assert len(str(error.value)) < 200


def test_parameters_that_depend_on_themselves_are_refused() -> None:
    with pytest.raises(PlanError, match="parameters depend on themselves: a, b"):
        FixedRules([rule_of(defined("parameter", "a", formula="b")), rule_of(defined("parameter", "b", formula="a + 1"))])


def changed(*definitions: tuple[int, dict[str, Any]], rows: list[dict[str, Any]]) -> tuple[list[tuple[int, str, bool]], list[str]]:
    """Return the conditions of rules that change, and why definitions were refused; times are seconds."""
    told = [{"time": START + at * 1_000, **one} for at, one in definitions]
    readings = [{"tag": f"{row['equipment']}/{row['parameter']}", "time": START + row["time"] * 1_000, "value": row["value"]} for row in rows]
    found = plan_of(order="event_time").run({"readings": readings, "rule-definitions": told})
    changes = [((row["time"] - START) // 1_000, row["definition"], row["active"]) for row in found["alarm-conditions"].rows()]
    return changes, [row["detail"] for row in found["rule-definitions.refused"].rows()]


def test_rules_change_while_they_run_and_broken_ones_are_kept_out() -> None:
    found, refused = changed(
        (0, defined("rule", "hot", when="temp > limit")),
        (0, defined("parameter", "limit", formula="90")),
        (15, defined("parameter", "limit", formula="80 + 0 * LEAST(temp, 1)")),
        (16, defined("parameter", "temp", formula="limit + 1")),
        (17, defined("rule", "hot", when="temp >")),
        (35, defined("parameter", "limit", formula="99", equipment="K1")),
        (45, defined("parameter", "limit", equipment="K1", withdrawn=True)),
        (46, defined("parameter", "limit", equipment="K1", withdrawn=True)),
        rows=[reading(at, "temp", 85.0) for at in (10, 15, 30, 40, 50, 60)],
    )
    assert "parameters depend on themselves: limit, temp; the definitions stay as they were" in refused[0]
    assert "formula 'temp >': a value is missing before 'the end'" in refused[1]
    assert "there is no parameter 'limit' that could be withdrawn" in refused[2]
    assert found == [(15, "hot", True), (40, "hot", False), (50, "hot", True)]


def test_a_rule_that_is_withdrawn_or_replaced_ends_or_begins_without_its_duration() -> None:
    rule = defined("rule", "hot", when="temp > 90", **{"for": 20})
    found, _ = changed(
        (0, rule),
        (15, {**rule, "when": "temp > 80"}),
        (65, {**rule, "withdrawn": True}),
        rows=[reading(at, "temp", 95.0) for at in (1, 11, 21, 31, 41, 70)],
    )
    assert found == [(41, "hot", True), (70, "hot", False)]


def test_a_rule_that_is_added_before_a_duration_ends_is_computed_at_the_next_reading_of_any_parameter() -> None:
    found, _ = changed(
        (0, defined("rule", "long", when="HELD(a > 1, 10)")),
        (5, defined("rule", "new", when="a > 1")),
        rows=[reading(1, "a", 2.0), reading(15, "b", 0.0)],
    )
    assert found == [(11, "long", True), (15, "new", True)]


# on topics


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    made = SqliteLog(tmp_path / "home" / "log.db", clock=Wall(START))
    yield made
    made.close()


def plan_of(*, order: Any = "arrival", tables: list[dict[str, Any]] | None = None) -> Any:
    def build() -> dict[str, hr.Stream]:
        readings = hr.stream(
            "readings",
            schema={"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE"},
            event_time="TO_TIMESTAMP_LTZ(time, 3)",
        ).derive(equipment="REGEXP_EXTRACT(tag, '^(.*)/', 1)", parameter="REGEXP_EXTRACT(tag, '([^/]*)$', 1)")
        return hr.rules(readings, hr.rule_definitions() if tables is None else tables, order=order).topics()

    return hr.pipeline("ruled", version="1")(build)


def test_rules_of_a_toml_file_belong_to_the_pipeline() -> None:
    text = """
        [[rules]]
        kind = "rule"
        name = "hot"
        when = "temp > 90"

        [[rules]]
        kind = "rule"
        name = "hot"
        when = "temp > 99"
        equipment = "K2"
    """
    readings = [{"tag": f"K{nth}/temp", "time": START + nth, "value": 95.0} for nth in (1, 2)]
    found = plan_of(tables=tomllib.loads(text)["rules"]).run({"readings": readings})["alarm-conditions"].rows()
    assert [(row["tag"], row["definition"], row["active"], row["time"]) for row in found] == [("K1", "hot", True, START + 1)]
    with pytest.raises(PlanError, match="kind rule needs when"):
        plan_of(tables=[{"kind": "rule", "name": "hot"}]).plan()


def test_a_run_that_is_restarted_gives_the_same_rows(tmp_path: Path) -> None:
    readings = happenings(7, 90)["readings"]

    def rows(name: str, every: int) -> dict[str, list[Any]]:
        wall = Wall(START)
        log = SqliteLog(tmp_path / name / "log.db", clock=wall)
        for topic in ("readings", "rule-definitions"):
            log.create(topic)
        for first in range(0, len(readings), every):
            if not first:
                add(log, "rule-definitions", [*RULES])
            add(log, "readings", readings[first : first + every])
            live = live_on(log, wall, plan_of().plan(), FAR)
            live.work()
            live.commit()
            live.close()
        found = {topic: written(log, topic) for topic in ("alarm-conditions", "alarm-commands", "rules.states", "rules.unknown", "rules.older")}
        log.close()
        return found

    whole = rows("whole", len(readings))
    assert all(whole.values())
    assert rows("restarted", 13) == whole


def line(second: float, **row: Any) -> bytes:
    return json.dumps({"time": START + round(second * 1000), **row}).encode()


def test_durations_go_on_by_the_wall_clock_over_a_restart_and_the_conditions_raise_alarms(log: SqliteLog) -> None:
    wall = Wall(START)
    for topic in ("readings", "rule-definitions", "alarm-definitions", "alarm-commands", "alarm-conditions"):
        log.create(topic)
    add(log, "alarm-definitions", [line(0, tag="K1", definition="hot", kind="custom")])
    add(log, "rule-definitions", [line(0, kind="rule", name="hot", when="temp > 90", **{"for": 300})])
    add(log, "rule-definitions", [line(0, kind="rule", name="bad", when="temp >")])
    add(log, "readings", [line(-500, tag="K1/temp", value=95.0)])  # the clock of the source is behind
    live = live_on(log, wall, plan_of().plan(), FAR)
    live.work()
    live.commit()
    live.close()
    assert not written(log, "alarm-conditions")
    wall.now = START + 299_000
    live = live_on(log, wall, plan_of().plan(), FAR)
    live.work()
    live.commit()
    assert not written(log, "alarm-conditions")
    wall.now = START + 301_000
    live.work()
    live.commit()
    live.close()
    (row,) = written(log, "alarm-conditions")
    assert (row["tag"], row["definition"], row["active"], row["time"], row["arrived"]) == ("K1", "hot", True, START - 200_000, START + 301_000)
    (refused,) = written(log, "rule-definitions.refused")
    assert "formula 'temp >': a value is missing before 'the end'" in refused["detail"]

    def alarms() -> dict[str, hr.Stream]:
        tags = hr.stream(
            "readings", schema={"tag": "STRING NOT NULL", "time": "BIGINT NOT NULL", "value": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(time, 3)"
        )
        return hr.alarm(tags, hr.alarm_definitions(), hr.alarm_commands(), hr.alarm_conditions()).topics()

    live = live_on(log, wall, hr.pipeline("alarmed", version="1")(alarms).plan(), FAR)
    for _ in range(2):
        live.work()
        live.commit()
    live.close()
    assert [(one["alarm_id"], one["to"]) for one in written(log, "alarms")] == [("K1/hot", "unacknowledged")]
