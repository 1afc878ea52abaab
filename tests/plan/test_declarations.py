"""What a process declares, and the errors of what cannot be, when the pipeline is defined."""

# ruff: noqa: ARG005

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import headrace as hr
from headrace.errors import PlanError
from headrace.plan.operators import Process, Side
from headrace.plan.pipeline import FAILED
from headrace.plan.process import Slot, declaration_of, spoken_name
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, TIMESTAMP, Schema, parse_type

COLUMNS = {"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE", "m": "MAP<STRING, STRING>"}
s = hr.stream("x", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")
rules = hr.stream("rules", schema=COLUMNS, event_time="TO_TIMESTAMP_LTZ(t, 3)")
commands = hr.stream("commands", schema={"tag": "STRING", "t": "BIGINT", "n": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
untimed = hr.stream("y", schema=COLUMNS)
windows = s.window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)")


class ThreeCritical:
    """A process with all that there is."""

    output = {"event": "STRING NOT NULL"}
    side_outputs = {"counts": {"n": "BIGINT"}, "nothing": {}}
    state = {
        "count": hr.Value("BIGINT", 3),
        "mean": hr.Value("DOUBLE", 1, ttl=hr.minutes(5)),
        "on": hr.Value("BOOLEAN", True),
        "name": hr.Value("STRING", "µ"),
        "since": hr.Value("TIMESTAMP_LTZ(3)", 0),
        "last": hr.Value("ROW<x DOUBLE>"),
        "values": hr.List("ARRAY<DOUBLE>", ttl=hr.seconds(1)),
        "totals": hr.Map("MAP<STRING, DOUBLE>"),
    }
    shared = {"low": hr.Value("DOUBLE", 10.0), "limits": hr.Map("DOUBLE"), "names": hr.List("STRING")}
    state_version = 4

    def __init__(self, high: float = 90.0) -> None:
        self.high, self.kept = high, object()

    def on_record(self, row, state): ...
    def on_timer(self, name, state): ...
    def on_clock(self, name, state): ...
    def on_broadcast(self, row, shared): ...
    def migrate(self, version, values): ...


class Least:
    output = {}

    def on_record(self, row, state, *more): ...


def made(base: type = Least, **body: Any) -> Any:
    return type("Made", (base,), body)()


class Commanded(Least):
    def on_command(self, row, state): ...


def process(code: Any = Least, stream: hr.Stream = s, **options: Any) -> hr.ProcessedStream:
    return stream.process(code, **{"by": ["k"], **options})


def test_a_declaration_is_read() -> None:
    declared = declaration_of(ThreeCritical(high=80.0), ("k",), "here")
    assert (declared.name, declared.version, declared.timers, declared.clock_timers) == ("ThreeCritical", 4, True, True)
    assert {name: str(schema) for name, schema in declared.outputs.items()} == {"": "event STRING NOT NULL", "counts": "n BIGINT", "nothing": ""}
    assert declared.slots == (
        Slot("count", "value", BIGINT, 3),
        Slot("mean", "value", DOUBLE, 1.0, 300_000),
        Slot("on", "value", BOOLEAN, default=True),
        Slot("name", "value", STRING, "µ"),
        Slot("since", "value", TIMESTAMP, 0),
        Slot("last", "value", parse_type("ROW<x DOUBLE>")),
        Slot("values", "list", parse_type("ARRAY<DOUBLE>"), None, 1_000),
        Slot("totals", "map", parse_type("MAP<STRING, DOUBLE>")),
    )
    assert type(declared.slots[1].default) is float
    assert declared.shared == (Slot("low", "value", DOUBLE, 10.0), Slot("limits", "map", DOUBLE), Slot("names", "list", STRING))
    assert declared.settings == (("high", "80.0"), ("kept", "<object object>"))


def test_the_least_that_a_process_declares() -> None:
    declared = declaration_of(Least(), ("k",), "here")
    assert (declared.outputs, declared.slots, declared.shared, declared.version) == ({"": Schema(())}, (), (), 1)
    assert (declared.settings, declared.timers, declared.clock_timers) == ((), False, False)


def test_inputs_are_read() -> None:
    told = hr.input(commands, by="tag", late="take", holds=False)
    given = process(Commanded, inputs={"command": told})
    assert str(given.operator) == "process commanded by k, with inputs command (late: take, does not hold)"
    assert str(given.schema) == "k STRING"  # the key may be NULL in the commands
    assert [(node, policy.name) for node, policy in given.node.others] == [(commands.node, "command")]
    assert given.node.traits.topics == {"x", "commands"}
    assert given.node.traits.holding == {"x"}
    assert process(Commanded, inputs={"command": hr.input(rules)}).node.traits.holding == {"x", "rules"}


def test_a_plan_is_another_where_an_input_has_another_policy() -> None:
    def plan(**policy: Any) -> hr.Plan:
        return hr.pipeline("p", version="1")(lambda: {"out": process(Commanded, inputs={"command": hr.input(rules, **policy)})}).plan()

    assert plan() == plan()
    assert len({plan().identity["operators"], plan(late="take").identity["operators"], plan(holds=False).identity["operators"]}) == 3


def test_a_plan_is_another_where_the_process_has_other_settings() -> None:
    one, same, other = (str(repr(process(ThreeCritical(high), broadcast=rules).operator)) for high in (80.0, 80.0, 81.0))
    assert one == same != other


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("states", {"AL": "Alabama"}),
        ("states", {}),
        ("states", ("open", "shut")),
        ("start", {"a": "BIGINT"}),
        ("outputs", {"high": "too hot"}),
        ("outputs", {1: "BIGINT"}),
        ("outputs", 2),
        ("inputs", {"n": "BIGINT"}),
        ("OUTPUT", {"n": "BIGINT"}),
        ("_state", {"a": hr.Value("BIGINT")}),
        ("kept", {"a": hr.Value("BIGINT")}),
        ("version", 2),
        ("state_versions", True),
    ],
)
def test_a_constant_of_the_author_s_is_left_alone(name: str, constant: object) -> None:
    assert declaration_of(made(**{name: constant}), ("k",), "here") == declaration_of(made(), ("k",), "here")


@pytest.mark.parametrize(
    ("name", "spoken"), [("ThreeCritical", "three_critical"), ("Least", "least"), ("HTTPCount", "httpcount"), ("T4Mean", "t4_mean")]
)
def test_a_process_is_called_as_its_class(name: str, spoken: str) -> None:
    assert spoken_name(type(name, (), {})()) == spoken


def test_the_stream_of_a_process_has_the_keys_and_its_columns() -> None:
    given = process(ThreeCritical, by=["k", "t"], broadcast=rules, failed_to="x.failed", name="alarms", limit=hr.seconds(2))
    assert str(given.schema) == "k STRING NOT NULL, t BIGINT, event STRING NOT NULL"
    assert str(given.side("counts").schema) == "k STRING NOT NULL, t BIGINT, n BIGINT"
    assert str(given.side("nothing").schema) == "k STRING NOT NULL, t BIGINT"
    operator = given.operator
    assert isinstance(operator, Process)
    assert (operator.name, operator.limit_ms, operator.arrival, operator.failed_topic) == ("alarms", 2_000, False, "x.failed")
    assert given.node.broadcast is rules.node
    assert (operator.record_schema, operator.broadcast_schema) == (given.node.input.schema, rules.schema)
    assert isinstance(given.side("counts").operator, Side)
    assert str(operator) == "process alarms by k, t, with a broadcast, failures to 'x.failed'"
    assert str(process(by="k", order="arrival").operator) == "process least by k, in order of arrival"


def test_the_topic_of_failures_is_one_of_the_plan_s() -> None:
    @hr.pipeline("p", version="1")
    def pipeline():
        given = process(ThreeCritical, broadcast=rules, failed_to="x.failed")
        return {"events": given, "counts": given.side("counts")}

    plan = pipeline.plan()
    assert plan.topics == ("events", "counts", "x.failed")
    assert plan.schema_of("x.failed") == FAILED
    assert {source.topic for source in plan.sources} == {"x", "rules"}


def method(**methods: Any) -> Callable[[], Any]:
    return lambda: process(made(**methods))


def state(given: Any, name: Any = "a") -> Callable[[], Any]:
    return lambda: process(made(state={name: given}))


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    # the object
    "nothing of a process": (lambda: process(object()), "stream('x').process: object has no on_record; write on_record(self, row, state)"),
    "a misspelt method": (method(on_tmier=lambda *_: None), "stream('x').process: Made.on_tmier is never called; did you mean 'on_timer'?"),
    "a method of more than one": (method(on_timers=lambda *_: None), "stream('x').process: Made.on_timers is never called; did you mean 'on_timer'?"),
    "a misspelt state": (method(states={"a": hr.Value("BIGINT")}), "stream('x').process: Made.states is never read; did you mean 'state'?"),
    "a misspelt shared": (method(shard={"a": hr.Map("BIGINT")}), "stream('x').process: Made.shard is never read; did you mean 'shared'?"),
    "a misspelt output": (method(outptu={"n": "BIGINT"}), "stream('x').process: Made.outptu is never read; did you mean 'output'?"),
    "outputs instead of an output": (
        lambda: process(type("Bare", (), {"outputs": {"n": "BIGINT NOT NULL"}, "on_record": Least.on_record})()), "Bare.outputs is never read; did you mean 'output'?",
    ),
    "outputs instead of side outputs": (method(outputs={"late": {"n": "BIGINT"}}), "stream('x').process: Made.outputs is never read; did you mean 'side_outputs'?"),
    "one side output": (method(side_output={"late": {"n": "BIGINT"}}), "stream('x').process: Made.side_output is never read; did you mean 'side_outputs'?"),
    "a misspelt version": (method(state_versions=2), "stream('x').process: Made.state_versions is never read; did you mean 'state_version'?"),
    "a method that is none": (method(on_timer=5), "stream('x').process: on_timer is not a method"),
    "too few parameters": (method(on_record=lambda self, row: None), "stream('x').process: on_record cannot be called with 2 arguments: too many positional"),
    "too many parameters": (method(on_timer=lambda self, name, state, more: None), "on_timer cannot be called with 2 arguments: missing a required argument: 'more'"),
    "a migrate of one parameter": (method(migrate=lambda self, values: None), "migrate cannot be called with 2 arguments"),
    "no output": (lambda: process(type("Bare", (), {"on_record": Least.on_record})()), 'Bare declares no output; write output = {"event": "STRING"}'),
    "an output that is no table": (method(output="STRING"), "stream('x').process output: 'STRING' is not a table of names"),
    "an output of an unknown type": (method(output={"n": "BIGNIT"}), "stream('x').process output: column 'n': unknown type BIGNIT; did you mean 'BIGINT'?"),
    "an output named as a key": (method(output={"k": "STRING"}), "stream('x').process output: 'k' is a key, and stands before the output's columns by itself; leave it out"),
    "side outputs that are no table": (method(side_outputs=["a"]), "stream('x').process side_outputs: ['a'] is not a table of names"),
    "a side output without a name": (method(side_outputs={"": {}}), "stream('x').process side_outputs: column name '' cannot be used"),
    "a side output named as a key": (method(side_outputs={"a": {"k": "STRING"}}), "stream('x').process side output 'a': 'k' is a key"),
    "a version that is none": (method(state_version="2"), "stream('x').process: state_version '2' is not a whole number from 1"),
    "a version of 0": (method(state_version=0), "stream('x').process: state_version 0 is not a whole number from 1"),
    # state
    "a state that is no table": (method(state=hr.Value("BIGINT")), "stream('x').process state: Value(type='BIGINT', default=None, ttl=None) is not a table of names"),
    "a state that is a default": (state(0), "stream('x').process state: 'a' is 0; write hr.Value(\"BIGINT\"), hr.List(\"DOUBLE\") or hr.Map(\"DOUBLE\")"),
    "a state that is a kind": (state(hr.Value), "stream('x').process state: 'a' is <class 'headrace.plan.process.Value'>; write"),
    "a state named as one of its own": (state(hr.Value("BIGINT"), "time"), "stream('x').process state: 'time' cannot be the name of a state; take a Python name"),
    "a state that hides": (state(hr.Value("BIGINT"), "_a"), "'_a' cannot be the name of a state"),
    "a state of no Python name": (state(hr.Value("BIGINT"), "a b"), "'a b' cannot be the name of a state"),
    "a state of a name that is no text": (state(hr.Value("BIGINT"), 5), "5 cannot be the name of a state"),
    "a state of an unknown type": (state(hr.List("INT")), "stream('x').process state 'a': unknown type INT; use BIGINT"),
    "a state of a Python type": (state(hr.Value(int)), "stream('x').process state 'a': type <class 'int'> is not a text; write \"DOUBLE\", say"),
    "a default off its type": (state(hr.Value("BIGINT", 1.0)), "stream('x').process state 'a': default 1.0 is not a BIGINT"),
    "a default of a truth for a number": (state(hr.Value("DOUBLE", True)), "default True is not a DOUBLE"),
    "a default that is too great": (state(hr.Value("BIGINT", 2**63)), "default 9223372036854775808 is not a BIGINT"),
    "a default past the calendar": (state(hr.Value("TIMESTAMP_LTZ(3)", 2**48)), "default 281474976710656 is a moment outside the years 1 to 9999"),
    "a default that is far too great": (state(hr.Value("DOUBLE", 10**400)), "is not a DOUBLE"),
    "a default that is no number": (state(hr.Value("DOUBLE", float("nan"))), "default nan is not a DOUBLE"),
    "a default of a row": (state(hr.Value("ROW<x DOUBLE>", {"x": 1.0})), "default {'x': 1.0} is not a ROW<x DOUBLE>"),
    "a ttl that is a number": (state(hr.Value("BIGINT", ttl=5)), "stream('x').process state 'a': the ttl is 5, not a duration; write hr.seconds(10)"),
    "a ttl of nothing": (state(hr.Map("BIGINT", ttl=hr.seconds(0))), "stream('x').process state 'a': a ttl of 0 keeps nothing; leave it out to keep it for ever"),
    "a negative ttl": (state(hr.List("BIGINT", ttl=hr.seconds(-1))), "which is negative"),
    # broadcast
    "shared without on_broadcast": (method(shared={"a": hr.Value("BIGINT")}), "shared state and on_broadcast come together; declare shared, and write on_broadcast"),
    "on_broadcast without shared": (method(on_broadcast=lambda self, row, shared: None), "shared state and on_broadcast come together"),
    "shared with a ttl": (
        lambda: process(made(ThreeCritical, shared={"a": hr.Value("BIGINT", ttl=hr.seconds(1))}), broadcast=rules), "shared 'a' has a ttl; have on_broadcast take out what no longer holds",
    ),
    "no broadcast for one that wants it": (partial(process, ThreeCritical), "stream('x').process: ThreeCritical has on_broadcast, and there is no broadcast; give broadcast= a stream"),
    "a broadcast for one that wants none": (lambda: process(broadcast=rules), "Least cannot be told of a broadcast; write on_broadcast(self, row, shared), and declare shared"),
    "a broadcast without event time": (lambda: process(ThreeCritical, broadcast=untimed), "stream('y').broadcast: stream 'y' has no event time; give it event_time="),
    "a broadcast that is no stream": (lambda: process(ThreeCritical, broadcast="rules"), "stream('x').process: broadcast 'rules' is not a stream; give it hr.stream("),
    "a broadcast of windows in the order of arrival": (
        lambda: process(ThreeCritical, broadcast=windows, order="arrival"), "rows of windows and processes come in the order of event time; leave order= out",
    ),
    # inputs
    "inputs that are no table": (lambda: process(Commanded, inputs=[commands]), 'is not a table of names; write inputs={"command": hr.input(commands)}'),
    "an input of a stream alone": (lambda: process(Commanded, inputs={"command": commands}), "stream('x').process input 'command': <Stream stream('commands')"),
    "an input that is no stream": (lambda: process(Commanded, inputs={"command": hr.input("commands")}), "input 'command': 'commands' is not a stream; give it hr.input(hr.stream("),
    "an input of no name": (lambda: process(Commanded, inputs={"a b": hr.input(rules)}), "'a b' cannot be the name of an input; take a Python name"),
    "an input of a name that hides": (lambda: process(Commanded, inputs={"_a": hr.input(rules)}), "'_a' cannot be the name of an input"),
    "an input of a name that is no text": (lambda: process(Commanded, inputs={5: hr.input(rules)}), "5 cannot be the name of an input"),
    "an input named as another": (lambda: process(Commanded, inputs={"timer": hr.input(rules)}), "input 'timer': on_timer is called for something else; give the input another name"),
    "an input without its method": (lambda: process(Least, inputs={"command": hr.input(rules)}), "Least has no on_command; write on_command(self, row, state)"),
    "a method without its input": (lambda: process(Commanded), 'Commanded.on_command is never called; give the process inputs={"command": hr.input(…)}'),
    "a method near its input": (
        lambda: process(made(Commanded, on_comand=lambda self, row, state: None), inputs={"command": hr.input(rules)}), "Made.on_comand is never called; did you mean 'on_command'?",
    ),
    "a method of three": (
        lambda: process(made(on_command=lambda self, row, state, now: None), inputs={"command": hr.input(rules)}), "on_command cannot be called with 2 arguments",
    ),
    "an input without the keys": (lambda: process(Commanded, inputs={"command": hr.input(commands)}), "input 'command': unknown column 'k'; name the columns in hr.input(…, by=…)"),
    "an input of an unknown key": (lambda: process(Commanded, inputs={"command": hr.input(commands, by="tagg")}), "input 'command': unknown column 'tagg'; did you mean 'tag'?"),
    "an input of a key of another type": (
        lambda: process(Commanded, inputs={"command": hr.input(commands, by="n")}), "input 'command': key 'n' is a BIGINT, and 'k' of the process is a STRING; cast it with derive()",
    ),
    "an input of more keys": (
        lambda: process(Commanded, inputs={"command": hr.input(commands, by=["tag", "n"])}), "it has 2 keys, and the process has 1; name a column for each of k",
    ),
    "the stream itself": (lambda: process(Commanded, inputs={"command": hr.input(s)}), "input 'command': the input is the stream itself; give it another stream, or split"),
    "the broadcast again": (
        lambda: process(made(ThreeCritical, on_command=Commanded.on_command), broadcast=rules, inputs={"command": hr.input(rules)}), "the input is the broadcast",
    ),
    "one stream for two": (
        lambda: process(made(Commanded, on_b=Commanded.on_command), inputs={"command": hr.input(rules), "b": hr.input(rules)}), "input 'b': the input is input 'command' too",
    ),
    "an input without event time": (lambda: process(Commanded, inputs={"command": hr.input(untimed)}), "stream('y').input: stream 'y' has no event time; give it event_time="),
    "windows as an input that takes late rows": (lambda: process(Commanded, inputs={"command": hr.input(windows, late="take")}), "derived rows are never late, and the topics that they come from hold the watermark back; leave late=, late_to= and holds= out"),
    "windows as an input that does not hold": (lambda: process(Commanded, inputs={"command": hr.input(windows, holds=False)}), "derived rows are never late"),
    "windows as an input in the order of arrival": (lambda: process(Commanded, inputs={"command": hr.input(windows)}, order="arrival"), "rows of windows and processes come in the order of event time; leave order= out"),
    "an unknown policy": (lambda: process(Commanded, inputs={"command": hr.input(rules, late="tak")}), "input 'command': late 'tak' is unknown; did you mean 'take'?"),
    "a policy that is no truth": (lambda: process(Commanded, inputs={"command": hr.input(rules, holds="no")}), "input 'command': holds 'no' is neither True nor False"),
    "a side without a topic": (lambda: process(Commanded, inputs={"command": hr.input(rules, late="side")}), "late='side' and late_to come together; write late='side', late_to="),
    "a topic without a side": (lambda: process(Commanded, inputs={"command": hr.input(rules, late_to="late")}), "late='side' and late_to come together"),
    "a side that is no topic": (lambda: process(Commanded, inputs={"command": hr.input(rules, late="side", late_to=5)}), "input 'command' late_to: 5 is not a topic"),
    "a side in the order of arrival": (
        lambda: process(Commanded, order="arrival", inputs={"command": hr.input(rules, late="side", late_to="late")}), "no record is late in the order of arrival; leave late and late_to out",
    ),
    # the stream
    "no key": (lambda: process(by=[]), "stream('x').process: a process has no key; name the columns in by="),
    "a key named twice": (lambda: process(by=["k", "k"]), "stream('x').process: 'k' is named twice; name each key once"),
    "an unknown key": (lambda: process(by=["kk"]), "stream('x').process: unknown column 'kk'; did you mean 'k'?"),
    "a key that is a number": (lambda: process(by=["v"]), "stream('x').process: 'v' is a DOUBLE; group by text, whole numbers, booleans or timestamps"),
    "no event time": (lambda: process(stream=untimed), "stream('y').process: stream 'y' has no event time; give it event_time="),
    "an unknown order": (lambda: process(order="time"), "stream('x').process: order 'time' is none; it is 'event_time' or 'arrival'"),
    "windows in the order of arrival": (lambda: process(stream=windows, order="arrival"), "rows of windows and processes come in the order of event time; leave order= out"),
    "windows of a process in the order of arrival": (
        lambda: process(made(output={"n": "BIGINT"}), order="arrival").window(hr.tumbling(hr.minutes(1))), "the rows of made come in no order of time; let made take its records in the order of event time",
    ),
    "a topic that is none": (lambda: process(failed_to=5), "stream('x').process failed_to: 5 is not a topic; name a topic"),
    "a topic without a name": (lambda: process(failed_to=""), "stream('x').process failed_to: '' is not a topic"),
    "a name that is none": (lambda: process(name=""), "stream('x').process name: column name '' cannot be used"),
    "a limit that is a number": (lambda: process(limit=5), "stream('x').process: the limit is 5, not a duration"),
    "an unknown side output": (lambda: process(ThreeCritical, broadcast=rules).side("count"), "stream('x').process(three_critical): no side output 'count'; did you mean 'counts'?"),
    "a side output where there is none": (lambda: process().side("counts"), "stream('x').process(least): no side output 'counts'; there is none"),
}  # fmt: skip


@pytest.mark.parametrize(("mistake", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_an_error_when_the_pipeline_is_defined(mistake: Callable[[], Any], text: str) -> None:
    with pytest.raises(PlanError, match=re.escape(text)) as caught:
        mistake()
    assert "\n" not in str(caught.value)
