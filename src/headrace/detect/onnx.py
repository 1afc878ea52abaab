"""A model file in the Open Neural Network Exchange format (ONNX) at work: columns of values in, columns of values out.

Theory of operation
-------------------
A row gives the same bytes alone and among others, so that neither the size of a batch nor a restart changes a result. Kernels of ONNX Runtime compute a
single row in another order than several, and the last values of a tensor, which do not fill a register of the processor, by another function than the
others. So rows are always computed by sixteens; what lacks to that is the last row again. Whether rows of a model are independent then is tried once, with
random values: a row's outputs must not depend on which rows, or how many, are beside it. Where they do, rows are always computed one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from headrace.errors import EnvironmentFault, PlanError, shortened
from headrace.plan.schema import BIGINT, BOOLEAN, DOUBLE, STRING, Type, parse_type

__all__ = ["Onnx", "Port"]

_KINDS: dict[str, tuple[str, Type]] = {
    "tensor(float)": ("float32", DOUBLE), "tensor(double)": ("float64", DOUBLE), "tensor(float16)": ("float16", DOUBLE),
    "tensor(int64)": ("int64", BIGINT), "tensor(int32)": ("int32", BIGINT), "tensor(bool)": ("bool", BOOLEAN), "tensor(string)": ("object", STRING),
}  # fmt: skip
_TRIED = 64  # rows
_AT_ONCE = 16  # rows: as many numbers as the widest registers hold
_SILENT = 4  # of ONNX Runtime's log


class Port(NamedTuple):
    """An input or output of a model.

    Attributes
    ----------
    width
        How many values a row has; None if the model takes any number.
    flat
        Whether it has one dimension: a value for each row.
    kind
        The type of its values.
    dtype
        The same for numpy.
    """

    name: str
    width: int | None
    flat: bool
    kind: Type
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype}, {'any number of' if self.width is None else self.width} values)"


class Onnx:
    """A model. It needs onnxruntime.

    Attributes
    ----------
    inputs
        What goes in, by name.
    batches
        Whether several rows may be computed at once.

    Raises
    ------
    PlanError
        If it is not a model, or not one of rows.
    EnvironmentFault
        If onnxruntime is not installed.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._data, self._where, self.digest = data, where, sha256(data).hexdigest()
        self._session = _session(data, where)
        inputs = self._session.get_inputs()
        self.batches = not any(one.shape[:1] == [1] for one in inputs)
        self.inputs = {one.name: _input(one, where) for one in inputs}
        self._outputs = self._session.get_outputs()

    @classmethod
    def load(cls, path: str | Path) -> Onnx:
        """Return the model of a file. Raises EnvironmentFault if the file cannot be read."""
        where = f"model {path}"
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise EnvironmentFault(f"cannot be read: {error.strerror}", where=where) from None
        return cls(data, where)

    def __repr__(self) -> str:
        return f"<ONNX model, sha256 {self.digest}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._data, self._where, self.batches)

    def try_out(self, widths: Mapping[str, int]) -> dict[str, Port]:
        """Return the outputs of rows with so many values for each input, and find out whether several rows may be computed at once.

        Raises
        ------
        PlanError
            If no row can be computed.
        """
        import numpy as np

        dice = np.random.default_rng(0)
        given = {name: _random(dice, port, widths[name]) for name, port in self.inputs.items()}
        try:
            tried = _TRIED if self.batches else 1
            parts = [self._computed({name: rows[at : at + _AT_ONCE] for name, rows in given.items()}) for at in range(0, tried, _AT_ONCE)]
            self.batches = self.batches and self._are_independent(given, parts)
        except Exception as error:  # noqa: BLE001  (the runtime's own, which have no common class)
            raise PlanError(f"cannot be computed: {_told(error)}", where=self._where, fix="try the model with onnxruntime alone") from None
        return {one.name: _output(one, found, self._where) for one, found in zip(self._outputs, parts[0], strict=True)}

    def _are_independent(self, given: Mapping[str, Any], parts: Sequence[Sequence[Any]]) -> bool:
        import numpy as np

        apart = [np.concatenate(ones) if isinstance(ones[0], np.ndarray) else None for ones in zip(*parts, strict=True)]
        moved = self._computed({name: np.roll(rows, 1, axis=0) for name, rows in given.items()})
        back = [np.roll(one, -1, axis=0) if isinstance(one, np.ndarray) else None for one in moved]
        return all(_are_same(one, other) for whole in (self._computed(given), back) for one, other in zip(apart, whole, strict=True))

    def _computed(self, given: Mapping[str, Any], names: Sequence[str] | None = None) -> list[Any]:
        if not self.batches:
            given = {name: rows[:1] for name, rows in given.items()}
        found: list[Any] = self._session.run(names, {name: rows[:, 0] if self.inputs[name].flat else rows for name, rows in given.items()})
        return found

    def run(self, given: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        """Return outputs of rows: an array for each name, from an array of rows and values for each input.

        Raises whatever the runtime raises.
        """
        import numpy as np

        count = len(next(iter(given.values())))
        if not self.batches:
            rows = [self._computed({name: one[at : at + 1] for name, one in given.items()}, names) for at in range(count)]
            return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        lacking = -count % _AT_ONCE
        if lacking:
            given = {name: np.concatenate([rows, np.repeat(rows[-1:], lacking, axis=0)]) for name, rows in given.items()}
        return [one[:count] for one in self._computed(given, names)]


def _unpickled(data: bytes, where: str, batches: bool) -> Onnx:  # noqa: FBT001
    import onnxruntime  # noqa: F401  (a worker without it is told so by its name)

    model = Onnx(data, where)
    model.batches = batches
    return model


def _session(data: bytes, where: str) -> Any:  # noqa: ANN401
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        raise EnvironmentFault("needs the package onnxruntime", where=where, fix="pip install 'headrace[onnx]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # noqa: BLE001  (the runtime's own, which have no common class)
        fix = "export the model to one file, with operators that onnxruntime has"
        raise PlanError(f"is not an ONNX model that can be used: {_told(error)}", where=where, fix=fix) from None


def _told(error: Exception) -> str:
    """Return what the runtime says, in one line."""
    return shortened(" ".join(str(error).split()), 200)


def _input(given: Any, where: str) -> Port:  # noqa: ANN401
    if given.type not in _KINDS:
        raise PlanError(f"its input {given.name!r} is a {given.type}", where=where, fix=f"export it with tensors of {', '.join(_KINDS)}")
    shape = given.shape
    if len(shape) not in {1, 2} or (type(shape[0]) is int and shape[0] != 1):
        fix = "export it with the shape [rows, values], of which the number of rows is free or 1"
        raise PlanError(f"its input {given.name!r} has the shape {shape}", where=where, fix=fix)
    width = 1 if len(shape) == 1 else shape[1] if type(shape[1]) is int else None
    return Port(given.name, width, len(shape) == 1, _KINDS[given.type][1], _KINDS[given.type][0])


def _output(given: Any, found: Any, where: str) -> Port:  # noqa: ANN401
    """Return an output of which an example was found. Its type is checked where it is used."""
    if given.type not in _KINDS:
        return Port(given.name, None, False, parse_type("STRING"), given.type)
    if found.ndim not in {1, 2}:
        raise PlanError(f"its output {given.name!r} has the shape {[*found.shape]}", where=where, fix="export it with the shape [rows, values]")
    dtype, kind = _KINDS[given.type]
    return Port(given.name, 1 if found.ndim == 1 else found.shape[1], found.ndim == 1, kind, dtype)


def _random(dice: Any, port: Port, width: int) -> Any:  # noqa: ANN401
    import numpy as np

    size = (_TRIED, width)
    match port.kind.kind:
        case "DOUBLE":
            return dice.normal(size=size).astype(port.dtype)
        case "STRING":
            return np.full(size, "", dtype=object)
    return dice.integers(0, 2, size=size).astype(port.dtype)


def _are_same(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Whether two arrays have the same bytes; what is no array counts as the same, because it cannot be used."""
    return one is None or (one.tolist() == other.tolist() if one.dtype == object else bool(one.tobytes() == other.tobytes()))
