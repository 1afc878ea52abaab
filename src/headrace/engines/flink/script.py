"""A plan as a Flink SQL script; as a Python file, where it has processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.engines.flink.block import Block, named
from headrace.engines.flink.expression import json_value
from headrace.engines.flink.hosting import is_taken, number_of
from headrace.engines.flink.ledger import Ledger
from headrace.engines.flink.parts import FAILURES, Once, Part
from headrace.engines.flink.places import Files, Places
from headrace.engines.flink.views import Views
from headrace.engines.flink.words import comment, listed, name, text, type_name
from headrace.engines.selects import blaming
from headrace.plan.expression import Call, walk
from headrace.plan.functions import AGGREGATES, FUNCTIONS
from headrace.plan.graph import Node
from headrace.plan.operators import TEXTS, Aggregate, Operator, Process, Side, Sink, Source
from headrace.plan.pipeline import Plan
from headrace.plan.rewrite import read_numbers_at_once
from headrace.plan.schema import Schema

__all__ = ["flink_script", "flink_script_of_many", "is_python"]

_SETTINGS = {"execution.runtime-mode": "streaming", "table.local-time-zone": "UTC", "table.dml-sync": "false"}
_ISO = {"json.timestamp-format.standard": "ISO-8601"}
_FUNCTIONS = (
    "HR_READ",
    "HR_TIME",
    "HR_BEFORE",
    "HR_FIRST",
    "HR_DEAD_LETTER",
    "HR_DOUBLE",
    "HR_BIGINT",
    "HR_TIMESTAMP",
    "HR_PLACES",
    "HR_SPLIT",
    "HR_SPLIT_INDEX",
    "HR_TRUNCATE",
    "HR_UTF8",
    "HR_HEADERS",
    "HR_TIME_AVERAGE",
    "HR_PERCENT_GOOD",
    "HR_DURATION",
    "HR_TRANSITIONS",
)


def flink_script(plan: Plan, places: Places | None = None) -> str:
    """Return the plan as a script for Flink's SQL client, or as a Python file for PyFlink if it has processes.

    Parameters
    ----------
    plan
        The plan, with its settings' values in it.
    places
        Where the topics are. By default NDJSON files where Flink runs.

    Raises
    ------
    PlanError
        If Flink SQL cannot say what the plan means. It names what, and where.
    """
    places = places or Files()
    return _script([_Statements.of(plan, places)], f"{plan.pipeline} {plan.version}", places, _header(plan, places))


def flink_script_of_many(jobs: Sequence[tuple[Plan, Places]], called: str) -> str:
    """Return several plans as one script and one job; the names of each one's tables begin with its number. All are of places of one kind."""
    made = [_Statements.of(plan, places, f"{number}/") for number, (plan, places) in enumerate(jobs)]
    return _script(made, called, jobs[0][1], comment(called).rstrip())


def _script(made: Sequence[_Statements], called: str, places: Places, header: str) -> str:
    settings = {"pipeline.name": called, **_SETTINGS, **places.settings}
    parts: list[Part] = [part for one in made for part in (*one.tables, *one.views)]
    parts.append("\n\n".join(["EXECUTE STATEMENT SET\nBEGIN", *(insert for one in made for insert in one.inserts), "END;"]))
    texts = [part for part in parts if isinstance(part, str)]
    called_for = [function for function in _FUNCTIONS if any(f"{function}(" in one for one in texts)]
    functions = [f"CREATE TEMPORARY FUNCTION {one} AS 'headrace.flink.{one.title().replace('_', '')}';" for one in called_for]
    if len(texts) < len(parts):
        live = {} if places.bounded else {"python.fn-execution.bundle.time": "100"}
        spread = {"parallelism.default": str(places.parallelism)}
        return _python(header, {**settings, **spread, **live}, [*functions, *parts])
    set_ = "\n".join(f"SET {text(key)} = {text(value)};" for key, value in settings.items())
    return "\n\n".join([header, set_, "\n".join(functions), *texts]) + "\n"


# a plan with processes


def is_python(script: str) -> bool:
    """Return whether a script is a Python file: SQL would begin with a comment of its own kind."""
    return script.startswith("#")


def _python(header: str, settings: Mapping[str, str], parts: Iterable[Part]) -> str:
    said = "\n".join(f"#{line.removeprefix('--')}" for line in header.splitlines())
    given = "".join(f"    {key!r}: {value!r},\n" for key, value in settings.items())
    written = "".join(f"    {_quoted(part) if isinstance(part, str) else repr(part)},\n" for part in parts)
    return f"{said}\n{_IMPORTS}\nSETTINGS = {{\n{given}}}\n\nPARTS = [\n{written}]\n{_MAIN}"


_IMPORTS = """#
# With PyFlink 2.3 and headrace installed: python FILE --cluster http://HOST:8081

from headrace.engines.flink.job import main
from headrace.engines.flink.parts import Hosted, Once
"""
_MAIN = """
if __name__ == "__main__":
    main(SETTINGS, PARTS)
"""


def _quoted(statement: str) -> str:
    """Return a statement as a Python literal: as it stands, if that can be."""
    plain = '"""' not in statement and "\\" not in statement and not statement.endswith('"')
    return f'"""{statement}"""' if plain else repr(statement)


@dataclass(frozen=True)
class _Statements:
    """The statements of a plan: its tables, the views between them, and what is inserted."""

    tables: tuple[str, ...]
    views: tuple[Part, ...]
    inserts: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan, places: Places, prefix: str = "") -> _Statements:
        rewritten, _ = read_numbers_at_once(plan)
        # HR_READ keeps undeclared fields as texts.
        plan = rewritten if all(source.rest_type == TEXTS for source in rewritten.sources) else plan
        views = Views(plan, places, prefix)
        written = [_sink(sink, places, views) for sink in plan.sinks]
        written += [_late(window, window.operator.late_topic, places, views) for window in plan.windows if window.operator.late_topic]
        written += [
            _late_input(process, given, one.late_topic, places, views)
            for process in plan.processes
            for given, one in process.others
            if one.late_topic
        ]
        written += [_failed(process, process.operator.failed_topic, places, views) for process in plan.processes if process.operator.failed_topic]
        written += [_dead(source, places, views) for source in plan.sources]
        ledger = Ledger(plan, views, bounded=places.bounded)
        tables = [*(intake.table for intake in views.intakes.values()), *(table for table, _ in written)]
        tables.append(_table(prefix + ledger.topic, ledger.columns, ledger.options(places.sink(ledger.topic))))
        # One sink: of several with the same transactions Flink makes one only where their plans are alike, and fails where it does not.
        entries = "\nUNION ALL\n".join(ledger.entries())
        inserts = [*(insert for _, insert in written), f"INSERT INTO {name(prefix + ledger.topic)}\n{entries};"]
        judging: list[Part] = []
        for intake in views.intakes.values():
            judging += intake.views
            judging += [Once(intake.judged, views.marks.time, views.marks.now)] if plan.processes else []
        return cls(tuple(tables), (*judging, *views.statements), tuple(inserts))


# tables


def _table(called: str, columns: Iterable[str], options: Mapping[str, str]) -> str:
    given = ",\n".join(f"  {text(key)} = {text(value)}" for key, value in options.items())
    inner = ",\n".join(f"  {column}" for column in columns)
    return f"CREATE TEMPORARY TABLE {name(called)} (\n{inner}\n) WITH (\n{given}\n);"


def _columns(schema: Schema) -> list[str]:
    return [f"{name(field.name)} {type_name(field.type)}" for field in schema.fields]


def _json(schema: Schema) -> dict[str, str]:
    return {"format": "json", **(_ISO if "TIMESTAMP" in str(schema) else {})}


def _sink(sink: Node[Sink], places: Places, views: Views) -> tuple[str, str]:
    """Return the table of a sink and what is inserted into it: columns, or JSON text where Flink has no type for one."""
    topic, given = sink.operator.topic, sink.input
    with blaming(views.engine, sink):
        sink.operator.refuse_spread()
        match given.operator:
            case Process() as process:
                return _given(topic, given.process, number_of(process, ""), places, views, comment(str(sink)))
            case Side(name=output):
                return _given(topic, given.process, number_of(given.process.operator, output), places, views, comment(str(given), str(sink)))
        block = views.block(given)
        return _written(topic, sink.schema, block, places, views, comment(*block.said, str(sink)))


def _late(window: Node[Aggregate], topic: str, places: Places, views: Views) -> tuple[str, str]:
    with blaming(views.engine, window):
        block = views.block(window.input)
        late = replace(block, where=(*block.where, f"NOT ({views.is_taken(window.operator, window.input.traits)})"))
        return _written(topic, window.input.schema, late, places, views, comment(f"what no window of {window} takes"))


def _late_input(process: Node[Process], given: Node[Operator], topic: str, places: Places, views: Views) -> tuple[str, str]:
    with blaming(views.engine, process):
        block = views.block(given)
        late = replace(block, where=(*block.where, f"NOT ({is_taken(views.marks)})"))
        return _written(topic, given.schema, late, places, views, comment(f"what is late for {process}"))


def _failed(process: Node[Process], topic: str, places: Places, views: Views) -> tuple[str, str]:
    return _given(topic, process, FAILURES, places, views, comment(f"records at which {process} failed"))


def _given(topic: str, process: Node[Process], output: int, places: Places, views: Views, said: str) -> tuple[str, str]:
    """Return the table of a topic to which goes what a process gives, and what is inserted: the JSON as it came."""
    columns, form = ["`json` STRING"], {"format": "raw"}
    keyed = places.keyed and output != FAILURES
    if keyed:
        columns = [f"{name(views.key)} STRING", *columns]
        form = {"value.format": "raw", "key.format": "raw", "key.fields": views.key, "value.fields-include": "EXCEPT_KEY"}
    table = _table(views.prefix + topic, columns, {**places.sink(topic), **form})
    values = f"SELECT {'`key`, ' if keyed else ''}`json`\nFROM {name(views.hosted(process))}\nWHERE `output` = {output}"
    return table, f"{said}INSERT INTO {name(views.prefix + topic)}\n{values};"


def _written(topic: str, schema: Schema, block: Block, places: Places, views: Views, said: str) -> tuple[str, str]:
    row = {field: block.row[field] for field in schema.names}
    insert = f"{said}INSERT INTO {name(views.prefix + topic)}\n"
    if any(held.held in ("json", "object") for held in row.values()):
        pairs = [f"KEY {text(field)} VALUE {json_value(held)}" for field, held in row.items()]
        columns, form, values = ["`json` STRING"], {"format": "raw"}, [listed(pairs, "JSON_OBJECT({})")]
    else:
        columns, form, values = _columns(schema), _json(schema), [named(json_value(held), field) for field, held in row.items()]
    if places.keyed and views.key in block.hidden:
        columns, values = [f"{name(views.key)} STRING", *columns], [named(block.hidden[views.key], views.key), *values]
        form = {f"value.{option}": value for option, value in form.items()}
        form |= {"key.format": "raw", "key.fields": views.key, "value.fields-include": "EXCEPT_KEY"}
    return _table(views.prefix + topic, columns, {**places.sink(topic), **form}), f"{insert}{block.selecting(values)};"


def _dead(source: Source, places: Places, views: Views) -> tuple[str, str]:
    topic = f"{source.topic}.dead-letter"
    table = _table(views.prefix + topic, ["`json` STRING"], {**places.sink(topic), "format": "raw"})
    return table, f"INSERT INTO {name(views.prefix + topic)}\n{views.intakes[source.topic].dead};"


# what the script does otherwise than headrace's own engine


def _header(plan: Plan, places: Places) -> str:
    settings = [f"{key} = {value!r}" for key, value in plan.settings.items()]
    hint = [places.hint] if places.hint else []
    kind = "a job of PyFlink" if plan.processes else "Flink SQL"
    title = f"{plan.pipeline}, version {plan.version}, as {kind}"
    return comment(title, *settings, *hint, "", "Otherwise than on headrace's own engine:", *_differences(plan)).rstrip()


def _differences(plan: Plan) -> Iterator[str]:
    yield "- Columns that are NULL, numbers and times may be written otherwise: 1.0E7 for 10000000.0, 10:31:57.92Z for 10:31:57.920Z."
    nodes = [one for node in plan.nodes for expression in node.operator.expressions for one in walk(expression)]
    table = FUNCTIONS | AGGREGATES
    gaps = dict.fromkeys(node.function for node in nodes if isinstance(node, Call) and table[node.function].flink_gaps)
    if gaps:
        yield f"- Overflow and some odd texts are answered otherwise, as the reference of functions says: {', '.join(gaps)}."
