"""`hr.infer`: the outputs of a model of a user's own for the records of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from headrace.detect.inference import Inference
from headrace.detect.onnx import Onnx, Port
from headrace.errors import Mistakes, PlanError, first_of, near
from headrace.plan.schema import Type, check_name
from headrace.plan.stream import ProcessedStream, Stream

__all__ = ["infer"]

_READ = {"DOUBLE": ("DOUBLE", "BIGINT", "STRING", "BOOLEAN"), "BIGINT": ("BIGINT", "DOUBLE", "STRING", "BOOLEAN"),
         "BOOLEAN": ("BOOLEAN",), "STRING": ("STRING",)}  # fmt: skip


def infer(  # noqa: PLR0913
    rows: Stream,
    model: str | Path,
    *,
    by: str | Sequence[str],
    inputs: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    outputs: Mapping[str, str] | None = None,
    values: str | None = None,
    missing: Literal["null", "nan"] = "null",
    order: Literal["arrival", "event_time"] | None = None,
    failed_to: str | None = None,
    name: str | None = None,
) -> ProcessedStream:
    """Return the records of a stream with the outputs of an ONNX model as further columns.

    Parameters
    ----------
    rows
        A stream with an event time.
    model
        The file of a model in the Open Neural Network Exchange format. Its inputs and outputs have the shape [rows, values] or [rows].
    by
        The column or columns by which records are distributed over the workers of a cluster. The model has no state.
    inputs
        The columns of the values of the model's only input, in their order; or those of each input by its name. By default each input is the column
        of its name. A column is read as the input's type; a text is read as a number.
    outputs
        The names of new columns, each with the output that it has. By default all outputs by their own names. An output of several values is an
        ARRAY, of which `ELEMENT(probabilities, 2)` is the second one.
    values
        A column `MAP<STRING, …>` that has the values by name, in place of columns.
    missing
        What becomes of a record of which a value is missing: NULL, a text that is no number, or what is not finite or too large for the input. `null`:
        its outputs are NULL. `nan`: the value is NaN, for a model that knows what that means.
    order
        `arrival`: a record is emitted when it arrives. `event_time`: a watermark later. By default `arrival`; rows of windows and processes come in the
        order of event time.
    failed_to
        A topic for the records at which the model fails. By default the run stops there.
    name
        The name in errors and metrics; by default the file's.

    Raises
    ------
    PlanError
        If the file is no model, or its inputs and outputs do not fit the columns.
    EnvironmentFault
        If the file cannot be read, or onnxruntime is not installed.

    Examples
    --------
    >>> scored = hr.infer(rows, "pump.onnx", by=["pump"], inputs=["flow", "pressure"], outputs={"wear": "variable"})
    """
    if not isinstance(model, str | Path):
        raise PlanError(f"{model!r} is not a file", where="hr.infer", fix="give the path of an ONNX file")
    called = Path(model).stem if name is None else name
    where = f"inference {called}"
    if not isinstance(rows, Stream):
        raise PlanError(f"{rows!r} is not a stream", where=where, fix="write hr.stream(topic, schema=…, event_time=…)")
    if missing not in {"null", "nan"}:
        raise PlanError(f"missing is {missing!r}", where=where, fix="give null or nan")
    keys = [by] if isinstance(by, str) else [*by]
    loaded = Onnx.load(model)
    taken = _inputs(loaded, inputs, where)
    Mistakes.report([*_width_mistakes(loaded, taken, where), *_column_mistakes(rows, loaded, taken, values, where)])
    made = _outputs(loaded.try_out({one: len(columns) for one, columns in taken.items()}), outputs, rows, where)
    code = Inference(loaded, taken, made, rows.schema.without(*(key for key in keys if key in rows.schema)), values, missing == "nan")
    ordered = order or ("event_time" if rows.node.traits.derived else "arrival")
    return rows.process(code, by=keys, order=ordered, failed_to=failed_to, name=called)


def _inputs(model: Onnx, given: Any, where: str) -> dict[str, tuple[str, ...]]:  # noqa: ANN401
    """Return the columns of each input."""
    names = list(model.inputs)
    if given is None:
        return {one: (one,) for one in names}
    if isinstance(given, Mapping):
        for one in given:
            if one not in model.inputs:
                raise PlanError(f"the model has no input {one!r}", where=where, fix=near(str(one), names))
        for one in names:
            if one not in given:
                raise PlanError(f"the model's input {one!r} has no columns", where=where, fix=f'add {{"{one}": ["…"]}} to inputs=')
        return {one: _columns(given[one], where) for one in names}
    if len(names) != 1:
        raise PlanError(f"the model has {len(names)} inputs", where=where, fix=f'give inputs={{"{names[0]}": ["…"], …}}; they are {first_of(names)}')
    return {names[0]: _columns(given, where)}


def _columns(given: object, where: str) -> tuple[str, ...]:
    columns = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not columns or not all(isinstance(one, str) for one in columns):
        raise PlanError(f"inputs {given!r} are not names of columns", where=where, fix='write inputs=["flow", "pressure"]')
    return columns


def _width_mistakes(model: Onnx, taken: Mapping[str, Sequence[str]], where: str) -> list[PlanError]:
    ports = ((port, len(taken[name])) for name, port in model.inputs.items())
    fix = "name a column for each value, in their order: inputs="
    return [
        PlanError(f"the model's input {port.name!r} takes {port.width} values, and is given {count}", where=where, fix=fix)
        for port, count in ports
        if port.width not in {None, count}
    ]


def _column_mistakes(rows: Stream, model: Onnx, taken: Mapping[str, Sequence[str]], values: str | None, where: str) -> list[PlanError]:
    """Return which columns are not there, or are of a type that an input cannot take."""
    names, found = rows.schema.names, []
    if values is not None and (values not in names or rows.schema[values].type.kind != "MAP"):
        what = f"there is no column {values!r}" if values not in names else f"column {values!r} is a {rows.schema[values].type}, and must be a MAP"
        return [PlanError(what, where=where, fix=near(values, names))]
    for port, column in ((model.inputs[name], column) for name, columns in taken.items() for column in columns):
        if values is None and column not in names:
            found.append(PlanError(f"there is no column {column!r} for the model's input {port.name!r}", where=where, fix=near(column, names)))
            continue
        kind: Type = rows.schema[column].type if values is None else rows.schema[values].type.element
        if str(kind) not in _READ[port.kind.kind]:
            place = f"column {column!r}" if values is None else f"the entries of {values!r}"
            found.append(PlanError(f"{place}: a {kind} cannot be read as the model's input {port}", where=where))
            if values is not None:
                return found
    return found


def _outputs(ports: Mapping[str, Port], wanted: Mapping[str, str] | None, rows: Stream, where: str) -> dict[str, Port]:
    """Return the new columns, each with its output."""
    found = {}
    for column, output in (dict.fromkeys(ports) if wanted is None else dict(wanted)).items():
        source = column if output is None else output
        if source not in ports:
            raise PlanError(f"the model has no output {source!r}", where=where, fix=near(str(source), ports))
        port = ports[source]
        if not port.dtype.isidentifier():  # such as a sequence of maps
            fix = "export it as a tensor (skl2onnx: options={'zipmap': False}), or leave it out: outputs="
            raise PlanError(f"the model's output {source!r} is a {port.dtype}", where=where, fix=fix)
        if column in rows.schema:
            raise PlanError(f"there is a column {column!r} already", where=where, fix=f'name it otherwise: outputs={{"{column}_out": "{source}"}}')
        found[check_name(column, where)] = port
    if not found:
        raise PlanError("there are no outputs", where=where, fix=f"name one: outputs=; the model has {first_of(list(ports))}")
    return found
