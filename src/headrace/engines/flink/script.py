"""A plan as a Flink SQL script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from headrace.engines.flink.expression import Item, json_value, sql
from headrace.engines.flink.places import Files, Places
from headrace.engines.flink.refuse import blaming, check_source
from headrace.engines.flink.views import Views, fresh
from headrace.engines.flink.words import comment, duration, listed, name, text, type_name
from headrace.plan.expression import Call, Cast, Expression, walk
from headrace.plan.functions import AGGREGATES, FUNCTIONS
from headrace.plan.operators import Aggregate, Derive, Regroup, Select, Sink, Source, Where
from headrace.plan.pipeline import Plan
from headrace.plan.schema import BIGINT, STRING, Schema

__all__ = ["flink_script"]

_SETTINGS = {"execution.runtime-mode": "streaming", "table.local-time-zone": "UTC", "table.dml-sync": "true"}
_ISO = {"json.timestamp-format.standard": "ISO-8601"}


def flink_script(plan: Plan, places: Places | None = None) -> str:
    """Return the plan as a script for Flink's SQL client.

    Parameters
    ----------
    plan
        The plan, with its settings' values in it.
    places
        Where the topics are. By default NDJSON files where Flink runs.

    Raises
    ------
    PlanError
        If plain Flink SQL cannot say what the plan means. It names what, and where.
    """
    places = places or Files()
    time = fresh("event_time", {field for operator in plan.operators() for field in operator.schema.names})
    views = Views(plan, time)
    settings = {"pipeline.name": f"{plan.pipeline} {plan.version}", **_SETTINGS, **places.settings}
    sources = [_source(source, places.source(source.topic), time, views.said(source)) for source in plan.sources]
    sinks = [_sink(sink, places.sink(sink.topic), views) for sink in plan.sinks]
    parts = [
        _header(plan, places),
        "\n".join(f"SET {text(key)} = {text(value)};" for key, value in settings.items()),
        *sources,
        *(table for table, _ in sinks),
        *views.statements,
        _together([insert for _, insert in sinks]),
    ]
    return "\n\n".join(parts) + "\n"


# tables


def _table(topic: str, columns: Iterable[str], options: Mapping[str, str]) -> str:
    given = ",\n".join(f"  {text(key)} = {text(value)}" for key, value in options.items())
    inner = ",\n".join(f"  {column}" for column in columns)
    return f"CREATE TEMPORARY TABLE {name(topic)} (\n{inner}\n) WITH (\n{given}\n);"


def _columns(schema: Schema) -> list[str]:
    return [f"{name(field.name)} {type_name(field.type)}" for field in schema.fields]


def _json(schema: Schema) -> dict[str, str]:
    return {"format": "json", **(_ISO if "TIMESTAMP" in str(schema) else {})}


def _source(source: Source, options: Mapping[str, str], time: str, said: str) -> str:
    with blaming(said):
        check_source(source)
        columns = _columns(source.schema)
        if source.event_time is not None:
            row = {column: Item(name(column)) for column in source.schema.names}
            delay = f" - {duration(source.delay_ms)}" if source.delay_ms else ""
            columns += [f"{name(time)} AS {sql(source.event_time, row)}", f"WATERMARK FOR {name(time)} AS {name(time)}{delay}"]
    return f"{comment(said)}{_table(source.topic, columns, {**options, **_json(source.schema)})}"


def _sink(sink: Sink, options: Mapping[str, str], views: Views) -> tuple[str, str]:
    """Return the table of a sink and what is inserted into it: columns, or JSON text where Flink has no type for one."""
    with blaming(views.said(sink)):
        block = views.block(sink.input)
        row = {field: block.row[field] for field in sink.schema.names}
        insert = f"{comment(*block.said, views.said(sink))}INSERT INTO {name(sink.topic)}\n"
        if any(held.held in ("json", "object") for held in row.values()):
            pairs = [f"KEY {text(field)} VALUE {json_value(held)}" for field, held in row.items()]
            columns, form, values = ["`json` STRING"], {"format": "raw"}, [listed(pairs, "JSON_OBJECT({})")]
        else:
            columns, form, values = _columns(sink.schema), _json(sink.schema), [_value(field, held) for field, held in row.items()]
        return _table(sink.topic, columns, {**options, **form}), f"{insert}{block.selecting(values)};"


def _value(field: str, held: Item) -> str:
    value = json_value(held)
    return value if value == name(field) else f"{value} AS {name(field)}"


def _together(inserts: list[str]) -> str:
    if len(inserts) == 1:
        return inserts[0]
    return "\n".join(["EXECUTE STATEMENT SET\nBEGIN", *inserts, "END;"])


# what the script does otherwise than headrace's own engine


def _header(plan: Plan, places: Places) -> str:
    settings = [f"{key} = {value!r}" for key, value in plan.settings.items()]
    hint = [places.hint] if places.hint else []
    title = f"{plan.pipeline}, version {plan.version}, as Flink SQL"
    return comment(title, *settings, *hint, "", "Otherwise than on headrace's own engine:", *_differences(plan)).rstrip()


def _differences(plan: Plan) -> Iterator[str]:
    yield "- Flink's JSON format reads the records: 7.9 AS BIGINT is 7, 2.50 AS STRING is 2.50, what stands behind an object is passed over."
    yield "- A record that it cannot read stops the job. There are no dead letters, and no ledger."
    nodes = [node for expression in _expressions(plan) for node in walk(expression)]
    for source in plan.sources:
        if source.event_time is not None:
            first, last = (datetime.fromtimestamp(ms / 1000, UTC).date() for ms in source.range_ms)
            yield f"- Event times of {source.topic!r} before {first} or from {last} on are believed."
    if any(isinstance(operator, Aggregate) for operator in plan.operators()):
        yield "- What is late is judged by the watermark of all that a task has read: of one partition the same, of several not."
    if any(isinstance(node, Cast) and (node.argument.type, node.type) == (STRING, BIGINT) for node in nodes):
        yield "- A text such as '5e2' is NULL AS BIGINT."
    table = FUNCTIONS | AGGREGATES
    gaps = dict.fromkeys(node.function for node in nodes if isinstance(node, Call) and table[node.function].flink_gaps)
    if gaps:
        yield f"- Overflow and some odd texts are answered otherwise, as the reference of functions says: {', '.join(gaps)}."


def _expressions(plan: Plan) -> Iterator[Expression]:
    for operator in plan.operators():
        match operator:
            case Source(event_time=time) if time is not None:
                yield time
            case Derive(columns=columns) | Select(columns=columns):
                yield from (expression for _, expression in columns)
            case Where(predicate=predicate):
                yield predicate
            case Aggregate(columns=columns, calls=calls) | Regroup(columns=columns, calls=calls):
                yield from (expression for _, expression in (*columns, *calls))
