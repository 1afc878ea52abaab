"""The process that hosts a model of a user's own on every engine: a record comes in, and leaves with the outputs of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from headrace.detect.onnx import Onnx, Port
from headrace.kernels.reading.rules import bigint_of, double_of
from headrace.plan.schema import Schema

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Inference"]

Row = Mapping[str, Any]
_LARGEST = {"float16": 65504.0, "float32": 3.4028234663852886e38, "int32": 2**31 - 1}


class Inference:
    """Emits each record with outputs of a model.

    Parameters
    ----------
    model
        The model.
    inputs
        The columns of each input, in the order of its values.
    outputs
        The names of columns, each with the output that it has.
    columns
        The other columns that are emitted, without the keys.
    values
        The column with the values by name, in place of columns.
    missing_as_nan
        Whether a missing value is NaN for inputs that are floating-point numbers. A record with another missing value has no outputs.
    """

    def __init__(
        self,
        model: Onnx,
        inputs: Mapping[str, Sequence[str]],
        outputs: Mapping[str, Port],
        columns: Schema,
        values: str | None,
        missing_as_nan: bool,  # noqa: FBT001
    ) -> None:
        self.model, self.inputs, self.outputs, self.values, self.missing_as_nan = model, dict(inputs), dict(outputs), values, missing_as_nan
        self.output = {field.name: f"{field.type}{'' if field.nullable else ' NOT NULL'}" for field in columns.fields}
        self._passed = tuple(self.output)
        self.output |= {name: type_of(port) for name, port in self.outputs.items()}

    def on_record(self, row: Row, state: Any) -> Row:  # noqa: ANN401, ARG002
        """Emit the record with the outputs; they are NULL if a value is missing."""
        import numpy as np

        passed, given = {name: row[name] for name in self._passed}, row if self.values is None else row[self.values] or {}
        arrays = {}
        for name, tags in self.inputs.items():
            port = self.model.inputs[name]
            values = [_value_of(given.get(tag), port) for tag in tags]
            if None in values and not self._takes_missing(port):
                return passed | dict.fromkeys(self.outputs)
            arrays[name] = np.array([[np.nan if one is None else one for one in values]], dtype=port.dtype)
        found = self.model.run(arrays, [port.name for port in self.outputs.values()])
        return passed | {name: _values(one, port)[0] for one, (name, port) in zip(found, self.outputs.items(), strict=True)}

    def _takes_missing(self, port: Port) -> bool:
        return self.missing_as_nan and port.kind.kind == "DOUBLE"

    # many rows at once

    def _in_batches(self, rows: int, keys: int) -> bool:  # noqa: ARG002
        """Whether so many rows are computed at once, whatever their keys."""
        return self.model.batches

    def _on_rows(self, rows: pl.DataFrame, groups: Iterable[Any]) -> dict[str, tuple[Sequence[int], dict[str, Any]]] | None:  # noqa: ARG002
        """Return the outputs of many rows, which are the same as of each by itself; None if the model fails, so that the row is found."""
        import numpy as np

        from headrace.detect.columns import series_of

        arrays, whole = {}, np.full(len(rows), fill_value=True)
        for name, tags in self.inputs.items():
            port = self.model.inputs[name]
            given = [_array_of(series_of(rows, tag, self.values), port) for tag in tags]
            arrays[name] = np.column_stack([values for values, _ in given])
            if not self._takes_missing(port):
                for _, there in given:
                    whole &= there
        places = np.flatnonzero(whole)
        columns: dict[str, Any] = {name: [None] * len(rows) for name in self.outputs}
        if len(places):
            try:
                found = self.model.run({name: one[places] for name, one in arrays.items()}, [port.name for port in self.outputs.values()])
            except Exception:  # noqa: BLE001  (the runtime's own, which have no common class)
                return None
            for one, (name, port) in zip(found, self.outputs.items(), strict=True):
                for place, value in zip(places.tolist(), _values(one, port), strict=True):
                    columns[name][place] = value
        return {"": (range(len(rows)), columns)}


def type_of(port: Port) -> str:
    """Return the type of the column that an output becomes."""
    return str(port.kind) if port.width == 1 else f"ARRAY<{port.kind}>"


def _value_of(given: object, port: Port) -> Any:  # noqa: ANN401
    """Return a value as an input takes it; None if it is missing: NULL, no number, not finite, or too large."""
    match port.kind.kind:
        case "STRING":
            return given if isinstance(given, str) else None
        case "BOOLEAN":
            return given if isinstance(given, bool) else None
        case "BIGINT":
            number: int | float | None = bigint_of(given) if isinstance(given, str) else _whole(given)
        case _:
            number = double_of(given) if isinstance(given, str) else float(given) if isinstance(given, int | float) and isfinite(given) else None
    return number if number is not None and abs(number) <= _LARGEST.get(port.dtype, abs(number)) else None


def _whole(given: object) -> int | None:
    if isinstance(given, float):
        return int(given) if given.is_integer() and -(2.0**63) <= given < 2.0**63 else None
    return int(given) if isinstance(given, int) else None


def _array_of(given: pl.Series, port: Port) -> tuple[Any, Any]:
    """Return a column of values as an input takes it, and which of them are there."""
    import numpy as np

    from headrace.detect.columns import numbers_of

    if port.kind.kind == "DOUBLE":
        numbers = numbers_of(given).to_numpy()
        there = np.abs(numbers) <= _LARGEST.get(port.dtype, np.finfo(np.float64).max)
        return np.where(there, numbers, np.nan).astype(port.dtype), there
    values = [_value_of(one, port) for one in given.to_list()]
    there = np.array([one is not None for one in values], dtype=bool)
    none = "" if port.kind.kind == "STRING" else 0
    return np.array([none if one is None else one for one in values], dtype=port.dtype), there


def _values(found: Any, port: Port) -> list[Any]:  # noqa: ANN401
    """Return an output as the values of a column: what is not finite is NULL."""
    scalar = port.width == 1
    values = (found.reshape(len(found)) if scalar else found).tolist()
    if port.kind.kind != "DOUBLE":
        return values  # type: ignore[no-any-return]
    if scalar:
        return [one if isfinite(one) else None for one in values]
    return [[one if isfinite(one) else None for one in row] for row in values]
