"""Runs a plan with processes on a Flink cluster: SQL to the processes, SQL behind them, one job. It wants PyFlink's Python.

`python FILE --cluster URL [--archive ZIP] [--python PATH] [--savepoint PATH] [--jar JAR]…` prints the id of the job, for which
it does not wait.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyflink.common import Configuration, Types
from pyflink.datastream import DataStream, KeyedStream, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import Schema, StreamTableEnvironment

from headrace.engines.flink.host import Host, Teller, told_state
from headrace.engines.flink.parts import Hosted, Once, Part
from headrace.engines.shipped import archive, unpack

__all__ = ["main"]

# What Python and the task manager tell each other they tell in bundles: these are for jobs that do not say otherwise.
_BUNDLES = {"python.fn-execution.bundle.size": "20000", "python.fn-execution.bundle.time": "2000", "python.state.cache-size": "20000"}


def main(settings: Mapping[str, str], parts: Sequence[Part], arguments: Sequence[str] | None = None) -> None:
    """Submit the job."""
    parser = argparse.ArgumentParser(description="Submit this job to a Flink cluster.")
    parser.add_argument("--cluster", required=True, help="its REST interface, http://HOST:8081")
    parser.add_argument("--archive", help="headrace's modules and the author's, for the workers; made if it is not given")
    parser.add_argument("--python", help="the Python of the workers; by default what the cluster's `python` is")
    parser.add_argument("--savepoint", help="the state to start with")
    parser.add_argument("--jar", action="append", default=[], help="to be sent along")
    given = parser.parse_args(arguments)
    where = urlsplit(given.cluster)
    configuration = Configuration()
    options = {
        **_BUNDLES,
        **settings,
        "execution.target": "remote",
        "execution.attached": "false",
        "rest.address": where.hostname,
        "rest.port": str(where.port or 8081),
        "python.client.executable": sys.executable,
        **({"python.executable": given.python} if given.python else {}),
        **({"execution.state-recovery.path": given.savepoint} if given.savepoint else {}),
    }
    for key, value in options.items():
        configuration.set_string(key, value)
    # The one that PyFlink would give runs the job within this process.
    java = get_gateway().jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    environment = StreamExecutionEnvironment(java(configuration._j_configuration))
    environment.add_jars(*(Path(one).absolute().as_uri() for one in given.jar))
    environment.add_python_file(given.archive or _archive(parts))
    tables = StreamTableEnvironment.create(environment)
    get_gateway().jvm.headrace.flink.Named.install(tables._j_tenv)
    result = None
    for part in parts:
        match part:
            case Once():
                _share(tables, part)
            case Hosted():
                _host(tables, part)
            case _:
                result = tables.execute_sql(part.strip().removesuffix(";"))
    assert result is not None
    print(json.dumps({"job": str(result.get_job_client().get_job_id())}), flush=True)


def _archive(parts: Sequence[Part]) -> str:
    for part in parts:
        if isinstance(part, Hosted):
            unpack(part.code)  # what it needs is loaded then, and packed
    return str(archive(Path(tempfile.mkdtemp()) / "headrace.zip"))


def _share(tables: Any, part: Once) -> None:  # noqa: ANN401
    """Put in place of a view the stream of its rows, as Flink holds them, so that no one computes it again."""
    jvm = get_gateway().jvm
    java, view = tables._j_tenv, _name(part.view)
    is_time = jvm.org.apache.flink.table.types.logical.utils.LogicalTypeChecks.isTimeAttribute
    columns = []
    for column in tables.from_path(view)._j_table.getResolvedSchema().getColumns():
        name = _name(column.getName())
        if column.getName() == part.time or not is_time(column.getDataType().getLogicalType()):
            columns.append(name)
        elif column.getName() != part.now:
            columns.append(f"CAST({name} AS TIMESTAMP_LTZ(3)) AS {name}")
    table = java.sqlQuery(f"SELECT {', '.join(columns)} FROM {view}")  # noqa: S608
    schema = table.getResolvedSchema()
    internal = jvm.org.apache.flink.table.types.utils.DataTypeUtils.toInternalDataType(schema.toPhysicalRowDataType())
    stream = java.toDataStream(table, internal)
    _keep_order(stream.getTransformation())
    built = jvm.org.apache.flink.table.api.Schema.newBuilder()
    for column in schema.getColumns():
        kind = "TIMESTAMP_LTZ(3)" if column.getName() == part.time else column.getDataType()
        built.column(column.getName(), kind)
    built.columnByExpression(part.now, "PROCTIME()")
    built.watermark(part.time, "SOURCE_WATERMARK()")
    java.dropTemporaryView(view)
    java.createTemporaryView(view, stream, built.build())


def _keep_order(transformation: Any) -> None:  # noqa: ANN401
    """Have what stands between a source and its parting by keys done by as many tasks as the source: to more, Flink would deal the records out."""
    for parted in filter(_is_parting, transformation.getTransitivePredecessors()):
        between, one = [], parted.getInputs()[0]
        while one.getInputs() and not _is_parting(one):
            between.append(one)
            one = one.getInputs()[0]
        for each in between if not _is_parting(one) and one.getParallelism() > 0 else ():
            each.setParallelism(one.getParallelism())


def _is_parting(transformation: Any) -> bool:  # noqa: ANN401
    return str(transformation.getClass().getSimpleName()) == "PartitionTransformation"


def _name(identifier: str) -> str:
    return "`" + identifier.replace("`", "``") + "`"


_RECORD = Types.ROW_NAMED(
    ["time", "source", "partition", "offset", "arrived", "row", "order"],
    [Types.LONG(), Types.INT(), Types.INT(), Types.LONG(), Types.LONG(), Types.STRING(), Types.STRING()],
)
_KEYED = Types.ROW_NAMED(["key", "record"], [Types.STRING(), _RECORD])
_NUMBERED = Types.ROW_NAMED(
    ["key", "record"], [Types.STRING(), Types.ROW_NAMED([*_RECORD.get_field_names(), "input"], [*_RECORD.get_field_types(), Types.INT()])]
)
_TOLD = Types.ROW_NAMED(["kind", "time", "text"], [Types.STRING(), Types.LONG(), Types.STRING()])
_GIVEN = Types.ROW_NAMED(["output", "key", "json"], [Types.INT(), Types.STRING(), Types.STRING()])
_TIMED = Types.ROW_NAMED(["output", "key", "json", "time", "order"], [Types.INT(), Types.STRING(), Types.STRING(), Types.LONG(), Types.STRING()])
_TIMED_KINDS = ["INT", "STRING", "STRING", "BIGINT", "STRING"]


def _host(tables: Any, part: Hosted) -> None:  # noqa: ANN401
    """Make the view of what a process gives."""
    topics = list(part.topics)
    if part.broadcast:
        told = _keyed(_stream(tables, part.told, _KEYED)).process(Teller(part.code, topics), _TOLD)
        told.set_parallelism(1).set_max_parallelism(1).name(f"{part.view} told").uid(f"{part.view} told")
        told = _awake(told, f"{part.view} awake")
    else:
        told = _stream(tables, part.told, _TOLD)
    kind = _NUMBERED if part.numbered else _KEYED
    taken = _stream(tables, part.rows, kind)
    if part.aside:
        taken = taken.union(_apart(_stream(tables, part.aside, kind), kind, f"{part.view} aside"))
    rows = _keyed(taken)
    host = Host(part.code, topics, live=part.live, timed=bool(part.time))
    given = rows.connect(told.broadcast(told_state())).process(host, _TIMED if part.time else _GIVEN)
    given.name(part.view).uid(part.view)
    if not part.time:
        tables.create_temporary_view(_name(part.view), given)
        return
    built = Schema.new_builder()
    for column, kind in zip(_TIMED.get_field_names(), _TIMED_KINDS, strict=True):
        built.column(column, kind)
    # Flink hands watermarks on to a table only if it is told so.
    timed = built.column_by_expression(part.time, "TO_TIMESTAMP_LTZ(`time`, 3)").watermark(part.time, "SOURCE_WATERMARK()").build()
    tables.create_temporary_view(_name(part.view), given, timed)


def _stream(tables: Any, view: str, kind: Any) -> Any:  # noqa: ANN401
    """Return the rows of a view, of a type that PyFlink's operators take."""
    stream = tables.to_data_stream(tables.from_path(_name(view)))
    stream._j_data_stream.getTransformation().setOutputType(kind.get_java_type_info())
    return stream


def _awake(stream: Any, named: str) -> Any:  # noqa: ANN401
    """Return a stream that is never idle: what joins it waits for its watermark, also when all inputs have been silent."""
    awake = get_gateway().jvm.headrace.flink.Awake()
    return DataStream(stream._j_data_stream.transform(named, _TOLD.get_java_type_info(), awake).setParallelism(1).uid(named))


def _apart(stream: Any, kind: Any, named: str) -> Any:  # noqa: ANN401
    """Return a stream that is always idle: what joins it does not wait for its watermark."""
    apart = get_gateway().jvm.headrace.flink.Apart()
    return DataStream(stream._j_data_stream.transform(named, kind.get_java_type_info(), apart).uid(named))


def _keyed(stream: Any) -> Any:  # noqa: ANN401
    """Return a stream of keys and records by its keys, as PyFlink's `key_by`, which would have Python find the keys."""
    keyed = stream._j_data_stream.keyBy(get_gateway().jvm.KeyByKeySelector(), Types.ROW([Types.STRING()]).get_java_type_info())
    return KeyedStream(keyed, None, stream)
