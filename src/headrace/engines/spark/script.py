"""A plan as one Python file for `spark-submit`, which needs no headrace unless an author's processes are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from headrace.engines.entries import ledger_topic
from headrace.engines.selects import blaming
from headrace.engines.shipped import pack
from headrace.engines.spark.block import Block
from headrace.engines.spark.hidden import RECORD
from headrace.engines.spark.prelude import definitions, java_functions
from headrace.engines.spark.rows import json
from headrace.engines.spark.source import Source as Reading
from headrace.engines.spark.views import Views, hosted, rows_of, rows_of_input, told_to
from headrace.engines.spark.words import name
from headrace.errors import InternalError
from headrace.plan.graph import Node
from headrace.plan.operators import Aggregate, Operator, Process, Sink, Source
from headrace.plan.pipeline import FAILED, Plan
from headrace.plan.rewrite import read_numbers_at_once
from headrace.plan.schema import Schema

__all__ = ["KAFKA", "SPARK", "live_script", "spark_script", "timed_sources"]

SPARK = "4.0.0"
KAFKA = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{SPARK}"
_JOB, _LIVE_JOB = (Path(__file__).with_name(name) for name in ("job.py", "live_job.py"))
_INPUT_ORDER = "_shown_ms | _source | _partition | _offset | _entry"
_WINDOW_ORDER = "_end_ms | _key"
_LIVE_ORDER = "_source | _partition | _offset | _entry"
_LETTER_ORDER = "_partition | _offset"

# A query of a live job, which is that of a view: the views behind it, and by topic what is written of them in which order.
_Query = tuple[dict[str, str], dict[str, tuple[str, str]]]


def spark_script(plan: Plan) -> str:
    """Return the plan as a batch job: files or what Kafka topics hold in, files or Kafka topics out.

    Raises
    ------
    PlanError
        If Spark SQL cannot say what the plan means. It names what, and where.
    """
    plan, _ = read_numbers_at_once(plan)
    views = Views(plan)
    readings = {node.operator.topic: Reading(node.operator, node.id) for node in plan.of(Source)}
    outputs = {sink.operator.topic: _sink(sink, views) for sink in plan.sinks}
    outputs |= {window.operator.late_topic: _late(window) for window in plan.windows if window.operator.late_topic}
    outputs |= {
        one.late_topic: _late_input(process, place, given)
        for process in plan.processes
        for place, (given, one) in enumerate(process.others)
        if one.late_topic is not None
    }
    outputs |= {one.operator.failed_topic: _failed(one, views) for one in plan.processes if one.operator.failed_topic}
    outputs |= {f"{topic}.dead-letter": (reading.dead_letters(plan.pipeline, reading.view), _LETTER_ORDER) for topic, reading in readings.items()}
    ledger = _ledger(plan, views)
    queries = [*views.statements.values(), *(query for query, _ in outputs.values())]
    numbers = {node.operator.topic: node.id for node in plan.of(Source)}
    processes = _hostings(plan)
    constants = [
        f"PIPELINE = {plan.pipeline!r}",
        f"SOURCES = {numbers!r}",
        _table("READERS", {topic: f"({reading.function[0]!r}, {_quoted(reading.function[1])})" for topic, reading in readings.items()}),
        *_headered(plan),
        f"JAVA_FUNCTIONS = {java_functions(queries)!r}",
        "FUNCTIONS = [\n" + "".join(f"    {_quoted(one)},\n" for one in definitions(queries)) + "]",
        _table("VIEWS", {view: _quoted(query) for view, query in views.statements.items()}),
        f"KEPT = {(*(reading.view for reading in readings.values()), *processes)!r}",
        *_processes(processes),
        _table("OUTPUTS", {topic: f"({_quoted(query)}, {order!r})" for topic, (query, order) in outputs.items()}),
        f"LEDGER = {_quoted(ledger)}",
    ]
    return _script(_JOB, _header(plan), constants)


def live_script(plan: Plan) -> str:
    """Return the plan as a job of Structured Streaming, from Kafka's topics to Kafka's topics.

    Raises
    ------
    PlanError
        If Spark's streams cannot do what the plan means. It names what, and where.
    """
    plan, _ = read_numbers_at_once(plan)
    readings = [(node, Reading(node.operator, node.id)) for node in plan.of(Source)]
    streams, queries = _streams(plan)
    for node, reading in readings:
        intake = f"intake_{node.id}"
        streams[intake] = reading.intake
        letters, entries = reading.dead_letters(plan.pipeline, intake), reading.entries(intake)
        queries[intake] = {}, {f"{node.operator.topic}.dead-letter": (letters, _LETTER_ORDER), ledger_topic(plan): (entries, _LETTER_ORDER)}
    written = [*streams.values()]
    written += [one for behind, outputs in queries.values() for one in (*behind.values(), *(made for made, _ in outputs.values()))]
    numbers = {node.operator.topic: node.id for node in plan.of(Source)}
    processes = _hostings(plan)
    timed = timed_sources(plan)
    constants = [
        f"PIPELINE = {plan.pipeline!r}",
        f"SOURCES = {numbers!r}",
        _table("READERS", {node.operator.topic: f"({reading.function[0]!r}, {_quoted(reading.function[1])})" for node, reading in readings}),
        *_headered(plan),
        f"WATERMARKS = { {reading.view: f'{node.operator.delay_ms} milliseconds' for node, reading in readings if node in timed}!r}",
        *_processes(processes, "live_hosting"),
        f"JAVA_FUNCTIONS = {java_functions(written)!r}",
        "FUNCTIONS = [\n" + "".join(f"    {_quoted(one)},\n" for one in definitions(written)) + "]",
        _table("VIEWS", {view: _quoted(query) for view, query in streams.items()}),
        _table("QUERIES", {named: _query(*one) for named, one in queries.items()}),
    ]
    return _script(_LIVE_JOB, _live_header(plan), constants)


def _headered(plan: Plan) -> list[str]:
    """Return the constant of the topics whose headers are read."""
    topics = tuple(source.topic for source in plan.sources if "headers" in dict(source.metadata).values())
    return [f"HEADERED = {topics!r}"]


def timed_sources(plan: Plan) -> frozenset[Node[Operator]]:
    """Return the sources that have a watermark: what is only told to all keys of a process holds none back, nor does an input that is not to."""
    wanted: set[Node[Operator]] = set(plan.sinks)
    for node in reversed(plan.nodes):
        if node in wanted:
            unheld = {given for given, policy in node.others if not policy.holds}
            wanted.update(one.node for one in node.inputs if one.role != "broadcast" and one.node not in unheld)
    return frozenset(node for node in plan.of(Source) if node in wanted and node.operator.event_time is not None)


def _streams(plan: Plan) -> tuple[dict[str, str], dict[str, _Query]]:
    """Return the views that are streams, and the queries: one for each window and process that rows are written of, and for each other output.

    Each query has its streams from the sources on, since what stands behind it in a micro-batch is a stream to another.
    """
    outputs: list[tuple[Node[Operator], str, Callable[[Views], tuple[str, str]]]] = []
    outputs += [(_made_by(sink), sink.operator.topic, partial(_sink, sink, unwindowed=_LIVE_ORDER)) for sink in plan.sinks]
    outputs += [(one, one.operator.failed_topic, partial(_failed, one)) for one in plan.processes if one.operator.failed_topic]
    streams: dict[str, str] = {}
    queries: dict[str, _Query] = {}
    for made in dict.fromkeys(made for made, _, _ in outputs):
        views = Views(plan, live=True)
        written = {topic: output(views) for one, topic, output in outputs if one is made}
        named = f"{made.operator.kind}_{made.id}"
        if isinstance(made.operator, Sink):
            topic = made.operator.topic
            views.statements[named] = written[topic][0]
            written = {topic: (f"SELECT * FROM {named}", _LIVE_ORDER)}
        every = [*views.statements.items()]
        last = [*views.statements].index(named) + 1
        for view, query in every[:last]:
            if streams.setdefault(view, query) != query:
                raise InternalError(f"two queries have another view {view}")
        queries[named] = dict(every[last:]), written
    return streams, queries


def _made_by(sink: Node[Sink]) -> Node[Operator]:
    """Return the window or process by which all rows of an output are made, else the output itself."""
    producers = sink.producers
    return producers[0] if sink.traits.derived and len(producers) == 1 else sink


def _hostings(plan: Plan) -> dict[str, str]:
    """Return by the view of what each process gives how Python makes it."""
    found = {}
    for process in plan.processes:
        before = {one.id: one.operator for one in process.upstream()}
        feeders = {number: (one.topic, one.delay_ms) for number, one in before.items() if isinstance(one, Source)}
        told = told_to(process.id) if process.broadcast is not None else None
        windowed = any(one.node.traits.windowed for one in process.inputs)
        found[hosted(process.id)] = f"Hosting({pack(process.operator)!r}, {feeders!r}, {told!r}, {windowed!r})"
    return found


def _processes(hostings: Mapping[str, str], module: str = "hosting") -> list[str]:
    return [f"from headrace.engines.spark.{module} import Hosting", _table("PROCESSES", hostings)] if hostings else ["PROCESSES = {}"]


def _query(behind: Mapping[str, str], outputs: Mapping[str, tuple[str, str]]) -> str:
    views = "{" + ", ".join(f"{view!r}: {_quoted(one)}" for view, one in behind.items()) + "}"
    made = "{" + ", ".join(f"{topic!r}: ({_quoted(one)}, {order!r})" for topic, (one, order) in outputs.items()) + "}"
    return f"({views}, {made})"


def _script(job: Path, header: str, constants: list[str]) -> str:
    head, _, rest = job.read_text(encoding="utf-8").partition("# plan:")
    _, _, body = rest.partition("# end of plan\n")
    imports = head.partition("from __future__")[2]
    return f"{header}\n\nfrom __future__{imports}{chr(10).join(constants)}\n{body}"


def _quoted(query: str) -> str:
    """Return a SQL text as a Python literal: as it stands, if that can be."""
    if '"""' in query or query.endswith(('"', "\\")):
        return repr(query)
    return f'r"""{query}"""'


def _table(named: str, entries: Mapping[str, str]) -> str:
    return f"{named} = {{\n" + "".join(f"    {key!r}: {value},\n" for key, value in entries.items()) + "}"


def _header(plan: Plan) -> str:
    inputs = " ".join(f"--input {source.topic}={source.topic}.ndjson" for source in plan.sources)
    return _doc(
        plan,
        f"as a Spark {SPARK} batch job",
        "On files, and on what Kafka topics hold:",
        f"    spark-submit --jars headrace-engines.jar {plan.pipeline}.py {inputs} --output out",
        f"    spark-submit --packages {KAFKA} --jars headrace-engines.jar {plan.pipeline}.py --kafka-servers HOST:PORT",
    )


def _live_header(plan: Plan) -> str:
    command = f"spark-submit --packages {KAFKA} --jars headrace-engines.jar {plan.pipeline}.py --kafka-servers HOST:PORT --checkpoint FOLDER"
    return _doc(
        plan,
        f"live on Spark {SPARK}",
        "Structured Streaming from Kafka's topics to Kafka's topics:",
        f"    {command}",
        "",
        "Otherwise than on headrace's own engine: the watermark moves with each micro-batch and is one for all partitions, a window closes 1 ms later,",
        "late rows are dropped uncounted, and after a failure the records of a micro-batch may be written twice, with the same content. Of the ledger there are",
        "received, malformed and future.",
    )


_PROCESSES = (
    "",
    "Its processes are an author's Python: --py-files and PYTHONPATH name an archive of headrace's modules and the author's (docs/spark.md), and the Python of",
    "the driver and of all workers needs msgspec, pandas, pyarrow and protobuf.",
)


def _doc(plan: Plan, how: str, lead: str, *lines: str) -> str:
    processes = _PROCESSES if plan.processes else ()
    text = "\n".join(
        [f"{plan.pipeline}, version {plan.version}, {how}.", "", lead, "", *lines, *processes, ""]
        + ["headrace-engines.jar reads the records by headrace's rule; it comes with headrace. The plan:", ""]
        + [f"    {line}" for line in str(plan).splitlines()]
    )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"') if "\\" in text or '"""' in text else text
    return f'"""{escaped}\n"""'


# outputs


def _output(block: Block, schema: Schema, order: str, said: str) -> tuple[str, str]:
    wanted = order.split(" | ")
    hidden = [held if held == name(column) else f"{held} AS {name(column)}" for column, held in block.hidden.items() if column in wanted]
    columns = [*hidden, f"{json(block.items, schema)} AS json"]
    return f"-- {said}\n{block.selecting(columns)}", order


def _sink(sink: Node[Sink], views: Views, unwindowed: str = _INPUT_ORDER) -> tuple[str, str]:
    with blaming(views.engine, sink):
        sink.operator.refuse_spread()
        block = views.block(sink.input)
        said = "\n-- ".join(" ".join(one.split()) for one in (*block.said, str(sink)))
        return _output(block, sink.schema, _WINDOW_ORDER if sink.traits.time == "window" else unwindowed, said)


def _failed(process: Node[Process], views: Views) -> tuple[str, str]:
    return _output(views.given(process, None), FAILED, _INPUT_ORDER, f"what #{process.id} raised at")


def _late(window: Node[Aggregate]) -> tuple[str, str]:
    return _not_taken(rows_of(window.id), window.input.schema, f"what no window of #{window.id} takes")


def _late_input(process: Node[Process], place: int, given: Node[Operator]) -> tuple[str, str]:
    return _not_taken(rows_of_input(process.id, place), given.schema, f"what is late for #{process.id}")


def _not_taken(view: str, schema: Schema, said: str) -> tuple[str, str]:
    hidden = {column: name(column) for column in _INPUT_ORDER.split(" | ")}
    rows = Block(view, {column: name(column) for column in schema.names}, hidden, where=("NOT `_taken`",))
    return _output(rows, schema, _INPUT_ORDER, said)


# the ledger


def _ledger(plan: Plan, views: Views) -> str:
    """Return what became of the records of each source: what reached a window, a process or an output, and what was taken there."""
    record = ", ".join(map(name, RECORD))
    reached, dropped = [], []
    for stage in plan.stages:
        if not stage.input.traits.derived:
            reached.append(f"SELECT {record}, `_taken` FROM {rows_of(stage.id)}")
        reached += [
            f"SELECT {record}, `_taken` FROM {rows_of_input(stage.id, place)}"
            for place, (given, _) in enumerate(stage.others)
            if not given.traits.derived
        ]
        if stage.broadcast is not None and not stage.broadcast.traits.derived:
            reached.append(f"SELECT {record}, TRUE AS `_taken` FROM {told_to(stage.id)}")
        if isinstance(stage.operator, Process) and stage.operator.drops_duplicates:
            dropped.append(_dropped(stage.id))
    for sink in (one for one in plan.sinks if not one.traits.derived):
        block = views.block(sink.input)
        columns = [held if held == name(one) else f"{held} AS {name(one)}" for one, held in block.hidden.items() if one in RECORD]
        reached.append(block.selecting([*columns, "TRUE AS `_taken`"]))
    received = "\n  UNION ALL ".join(
        f"SELECT {number} AS source, COUNT(*) AS received, COUNT(malformed) AS malformed, COUNT(future) AS future FROM source_{number}"
        for number in (node.id for node in plan.of(Source))
    )
    every = "\n  UNION ALL\n".join(reached)
    accepted = "COALESCE(taken, 0L)"
    found, joined, duplicate = "", "", ""
    if dropped:
        found = f", dropped AS (\n{f'{chr(10)}  UNION ALL{chr(10)}'.join(dropped)}\n)"
        joined, duplicate = " LEFT JOIN dropped USING (source)", " COALESCE(duplicates, 0L) AS duplicate,"
        accepted += " - COALESCE(duplicates, 0L)"
    return f"""WITH reached AS (
{every}
), fates AS (
  SELECT {record}, BOOL_OR(`_taken`) AS taken FROM reached GROUP BY {record}
), counted AS (
  SELECT `_source` AS source, COUNT(*) AS reached, COUNT_IF(taken) AS taken FROM fates GROUP BY `_source`
), received AS (
  {received}
){found}
SELECT source, received, {accepted} AS accepted, malformed, future,{duplicate} COALESCE(reached - taken, 0L) AS late,
  received - malformed - future - COALESCE(reached, 0L) AS filtered
FROM received LEFT JOIN counted USING (source){joined}"""


def _dropped(number: int) -> str:
    """Return how many records of each source came to a process for which it gave nothing."""
    return f"""SELECT `_source` AS source, COUNT(*) AS duplicates FROM (SELECT DISTINCT {", ".join(map(name, RECORD))} FROM {rows_of(number)} WHERE `_taken`)
    LEFT ANTI JOIN (SELECT `_entry`[1] AS `_source`, `_entry`[2] AS `_partition`, `_entry`[3] * {2**31}L + `_entry`[4] AS `_offset`
      FROM {hosted(number)} WHERE `_entry`[0] = 0) USING ({", ".join(map(name, RECORD))})
    GROUP BY `_source`"""
