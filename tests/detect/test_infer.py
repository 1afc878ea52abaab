"""`hr.infer`: a model of a user's own gives the columns that scikit-learn gives, and what does not fit is refused in one line."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import headrace as hr
from headrace.detect.inference import Inference
from headrace.detect.onnx import Onnx
from headrace.engines import shipped
from headrace.errors import EnvironmentFault, HeadraceError, PlanError, ProcessError

TAGS = ("flow", "level", "speed")
BEGAN = 1_767_225_600_000
COLUMNS = {"flow": "DOUBLE", "level": "STRING", "speed": "BIGINT", "note": "STRING", "on": "BOOLEAN"}
Make = Callable[..., onnx.ModelProto]
FLOAT, INT, TEXT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, np.ndarray] | None = None) -> bytes:
    given = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    made = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info(*one) for one in inputs], [helper.make_tensor_value_info(*one) for one in outputs], given
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


def linear(rows: Any = "rows", width: Any = 3, kind: int = FLOAT) -> bytes:
    """y = x W + 1, of two values."""
    numbers = np.float32 if kind == FLOAT else np.float64
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"]), helper.make_node("Add", ["product", "one"], ["y"])]
    constants = {"w": np.array([[1, 2], [0.5, -1], [0.25, 4]], numbers), "one": np.ones(2, numbers)}
    return graph(nodes, [("x", kind, [rows, width])], [("y", kind, [rows, 2])], constants)


def sums(kind: int = FLOAT, shape: Any = ("rows", "values")) -> bytes:
    return graph(
        [helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=1)], [("x", kind, shape)], [("total", kind, None)], {"axis": np.array([-1])}
    )


def identity(kind: int, shape: Any = ("rows", 1)) -> bytes:
    return graph([helper.make_node("Identity", ["speed"], ["same"])], [("speed", kind, shape)], [("same", kind, shape)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pump.onnx"


def rows_of(columns: dict[str, str] | None = None) -> hr.Stream:
    schema = {"plant": "STRING NOT NULL", "time": "BIGINT NOT NULL", **(columns or COLUMNS)}
    return hr.stream("rows", schema=schema, event_time="TO_TIMESTAMP_LTZ(time, 3)")


def pipeline(path: Path, columns: dict[str, str] | None = None, **options: Any) -> hr.Pipeline:
    @hr.pipeline("inferring", version="1")
    def inferring() -> dict[str, hr.Stream]:
        return {"out": hr.infer(rows_of(columns), path, by=["plant"], **options)}

    return inferring


def out(pipeline: hr.Pipeline, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return pipeline.run({"rows": [{"plant": "w", "time": BEGAN + 1000 * place, **row} for place, row in enumerate(given)]})["out"].rows()


def readings(count: int, seed: int = 0) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    return [
        {
            "plant": dice.choice("ab"),
            "flow": dice.gauss(0, 1),
            "level": f"{dice.gauss(0, 1):.5f}",
            "speed": dice.randrange(-3, 3),
            "note": f"n{place}",
        }
        for place in range(count)
    ]


def fitted(kind: str) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    """Return a model of scikit-learn as ONNX, and what computes its output."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dice = np.random.default_rng(1)
    x = dice.normal(size=(300, 3)).astype(np.float32)
    y = x[:, 0] * 2 + np.abs(x[:, 1])
    models = {
        "forest": RandomForestRegressor(10, random_state=0),
        "network": make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16,), solver="lbfgs", max_iter=20_000, random_state=0)),
        "classifier": LogisticRegression(),
    }
    model = models[kind].fit(x, y > 0.5 if kind == "classifier" else y)
    options = {"zipmap": False} if kind == "classifier" else None
    data = to_onnx(model, x[:1], target_opset={"": 18, "ai.onnx.ml": 3}, options=options).SerializeToString()
    return data, (lambda rows: model.predict_proba(rows)[:, 1]) if kind == "classifier" else model.predict


@pytest.mark.parametrize("kind", ["forest", "network", "classifier"])
def test_the_outputs_are_those_of_scikit_learn_whatever_the_batches(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, predict = fitted(kind)
    path.write_bytes(data)
    outputs = {"wear": "probabilities"} if kind == "classifier" else {"wear": "variable"}
    inferring, given = pipeline(path, inputs=TAGS, outputs=outputs), readings(200)
    batches: list[int] = []
    monkeypatch.setattr(
        Onnx, "run", lambda self, arrays, names, run=Onnx.run: batches.append(len(next(iter(arrays.values())))) or run(self, arrays, names)
    )
    found = out(inferring, given)
    assert sum(batches) == 200
    assert max(batches) > 50
    expected = predict(np.array([[float(row[tag]) for tag in TAGS] for row in given], np.float32))
    scores = [row["wear"][1] if kind == "classifier" else row["wear"] for row in found]
    assert scores == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
    assert [{name: row[name] for name in given[0]} for row in found] == given
    monkeypatch.setattr(Inference, "_in_batches", lambda *_: False)
    assert repr(out(inferring, given)) == repr(found)
    assert batches[-200:] == [1] * 200


def test_a_row_gives_the_same_bytes_in_batches_of_any_size_and_after_restarts(path: Path) -> None:
    path.write_bytes(fitted("network")[0])
    inferring, given = pipeline(path, inputs=TAGS), [{"time": BEGAN + 1000 * place, **row} for place, row in enumerate(readings(120))]
    expected = inferring.run({"rows": given})["out"].rows()
    dice, place = random.Random(2), 0
    with hr.test(inferring) as live:
        while place < len(given):
            size = dice.choice([1, 1, 2, 3, 7, 40])
            live.feed("rows", given[place : place + size])
            place += size
            if dice.random() < 0.3:
                live.restart()
        assert repr(live.rows("out")) == repr(expected)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(("kind", "name"), [(TensorProto.DOUBLE, "Tanh"), (TensorProto.DOUBLE, "Exp"), (FLOAT, "Softplus")])
def test_the_last_rows_of_a_batch_are_computed_as_the_others_are(kind: int, name: str, width: int) -> None:
    """Values that do not fill a register of the processor are computed by another function of ONNX Runtime."""
    model = Onnx(graph([helper.make_node(name, ["x"], ["y"])], [("x", kind, ["rows", width])], [("y", kind, ["rows", width])]), "model")
    model.try_out({"x": width})
    assert model.batches
    x = np.random.default_rng(5).normal(size=(401, width)).astype(model.inputs["x"].dtype)
    [whole] = model.run({"x": x}, ["y"])
    for size in (1, 2, 3, 5, 17, 100):
        parts = [model.run({"x": x[at : at + size]}, ["y"])[0] for at in range(0, len(x), size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_a_model_whose_rows_depend_on_each_other_gets_each_row_by_itself(path: Path) -> None:
    """The mean over all rows of a batch: of one row it is the row itself."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["zero"]),
        helper.make_node("Add", ["zero", "x"], ["y"]),
    ]
    path.write_bytes(graph(nodes, [("x", FLOAT, ["rows", 1])], [("y", FLOAT, ["rows", 1])], {"axis": np.array([0])}))
    found = out(pipeline(path, inputs=["speed"], outputs={"same": "y"}), readings(40))
    assert [row["same"] for row in found] == [float(row["speed"]) for row in readings(40)]


def test_a_model_of_one_row_is_called_with_one_row(path: Path) -> None:
    path.write_bytes(linear(rows=1))
    found = out(pipeline(path, inputs=TAGS), [{"flow": 1.0, "level": "2", "speed": 4}] * 20)
    assert [row["y"] for row in found] == [[4.0, 17.0]] * 20


@pytest.mark.parametrize("batches", [True, False])
def test_missing_values_have_no_outputs_and_leave_their_neighbours_alone(path: Path, batches: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(linear())
    if not batches:
        monkeypatch.setattr(Inference, "_in_batches", lambda *_: False)
    whole = {"flow": 1.0, "level": "2", "speed": 4}
    bad = [{"flow": None}, {"level": "Bad Input"}, {"level": "1e39"}, {"level": None, "speed": None}, {"level": ""}]
    given = [whole, *(whole | one for one in bad), whole, whole | {"level": " +2.0 "}]
    found = [row["y"] for row in out(pipeline(path, inputs=TAGS), given)]
    assert found == [[4.0, 17.0], *[None] * len(bad), [4.0, 17.0], [4.0, 17.0]]
    found = [row["y"] for row in out(pipeline(path, inputs=TAGS, missing="nan"), given)]
    assert found == [[4.0, 17.0], *[[None, None]] * len(bad), [4.0, 17.0], [4.0, 17.0]]


def test_values_that_come_in_a_map_and_outputs_that_are_not_finite(path: Path) -> None:
    path.write_bytes(graph([helper.make_node("Log", ["x"], ["y"])], [("x", TensorProto.DOUBLE, ["rows"])], [("y", TensorProto.DOUBLE, ["rows"])]))
    inferring = pipeline(path, {"fields": "MAP<STRING, STRING>"}, values="fields", inputs=["level"], outputs={"log": "y"})
    texts: list[Any] = [{"level": "1", "other": "x"}, {"level": "0"}, {"level": "-1"}, {}, None, {"level": None}, {"level": "2.718281828459045"}]
    found = out(inferring, [{"fields": one} for one in texts])
    assert [row["log"] for row in found] == [0.0, None, None, None, None, None, 1.0]
    assert [row["fields"] for row in found] == texts


@pytest.mark.parametrize(
    ("kind", "column", "given", "expected"),
    [
        (INT, "DOUBLE", [3.0, 3.5, -1.0, 1e300, None], [3, None, -1, None, None]),
        (INT, "STRING", ["9007199254740993", "1.5", "x", "1e2", "-0"], [9007199254740993, None, None, 100, 0]),
        (INT, "BIGINT", [2**62 + 1, None, -(2**63)], [2**62 + 1, None, -(2**63)]),
        (TensorProto.INT32, "BIGINT", [2**31 - 1, 2**31, -7], [2**31 - 1, None, -7]),
        (TEXT, "STRING", ["Öl", "", None, "x"], ["Öl", "", None, "x"]),
        (BOOL, "BOOLEAN", [True, None, False], [True, None, False]),
        (FLOAT, "BOOLEAN", [True, None, False], [1.0, None, 0.0]),
    ],
)
def test_each_type_goes_in_and_comes_out(
    path: Path, kind: int, column: str, given: list[Any], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(identity(kind))
    inferring = pipeline(path, {"speed": column})
    rows = [{"speed": one} for one in given]
    assert [row["same"] for row in out(inferring, rows)] == expected
    monkeypatch.setattr(Inference, "_in_batches", lambda *_: False)
    assert [row["same"] for row in out(inferring, rows)] == expected


def test_a_record_at_which_the_model_fails_is_named_and_its_neighbours_are_kept(path: Path) -> None:
    """The model looks its value up in a list of three."""
    node = helper.make_node("Gather", ["list", "x"], ["y"])
    path.write_bytes(graph([node], [("x", INT, ["rows", 1])], [("y", FLOAT, ["rows", 1])], {"list": np.array([5, 6, 7], np.float32)}))
    given = [{"speed": one} for one in [0, 2, 9, 1]]
    with pytest.raises(ProcessError) as caught:
        out(pipeline(path, {"speed": "BIGINT"}, inputs=["speed"], outputs={"found": "y"}), given)
    assert "rows" in str(caught.value)
    assert "speed" in str(caught.value) or "indices" in str(caught.value)
    found = pipeline(path, {"speed": "BIGINT"}, inputs=["speed"], outputs={"found": "y"}, failed_to="failed").run(
        {"rows": [{"plant": "w", "time": BEGAN + place, **row} for place, row in enumerate(given)]}
    )
    assert [row["found"] for row in found["out"].rows()] == [5.0, 7.0, 6.0]
    assert len(found["failed"].rows()) == 1


def test_another_model_is_another_plan_and_the_same_bytes_are_the_same(path: Path) -> None:
    path.write_bytes(sums())
    first, again = pipeline(path, inputs=["flow"]).plan(), pipeline(path, inputs=["flow"]).plan()
    path.write_bytes(sums(shape=("n", "values")))
    assert first == again
    assert pipeline(path, inputs=["flow"]).plan() != first
    assert first.processes[0].operator.declared.outputs[""].names == ("time", *COLUMNS, "total")


def test_the_process_is_sent_to_workers_and_tells_them_which_package_they_lack(path: Path, tmp_path: Path) -> None:
    path.write_bytes(linear())
    operator = pipeline(path, inputs=TAGS).plan().processes[0].operator
    text = shipped.pack(operator)
    code: Any = shipped.unpack(text).code
    assert code.on_record({"flow": 1.0, "level": "2", "speed": 4, "time": 1, "note": None, "on": None}, None)["y"] == [4.0, 17.0]
    assert pickle.loads(pickle.dumps(code)).model.batches
    program = "import sys; sys.modules['onnxruntime'] = None\nfrom headrace.engines.shipped import unpack\nunpack(open(sys.argv[1]).read())"
    (tmp_path / "packed").write_text(text)
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "packed"], capture_output=True, text=True, check=False)
    assert "needs module 'onnxruntime', which the cluster lacks; install 'onnxruntime' with the Python of every worker" in done.stderr


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (linear, {"inputs": ["flow", "level"]}, "inference pump: the model's input 'x' takes 3 values, and is given 2; name a column for each value"),
        (linear, {"inputs": ["flow", "levels", "speed"]}, "there is no column 'levels' for the model's input 'x'; did you mean 'level'"),
        (linear, {"inputs": {"y": ["flow"]}}, "the model has no input 'y'"),
        (linear, {"inputs": {}}, "the model's input 'x' has no columns"),
        (linear, {"inputs": 3}, "inputs 3 are not names of columns"),
        (linear, {"columns": {"x": "DOUBLE"}}, "the model's input 'x' takes 3 values, and is given 1"),
        (linear, {"inputs": TAGS, "outputs": {"score": "z"}}, "the model has no output 'z'"),
        (linear, {"inputs": TAGS, "outputs": {"flow": "y"}}, "there is a column 'flow' already"),
        (linear, {"inputs": TAGS, "outputs": {}}, "there are no outputs; name one"),
        (linear, {"inputs": TAGS, "missing": "zero"}, "missing is 'zero'; give null or nan"),
        (linear, {"inputs": TAGS, "values": "fields"}, "there is no column 'fields'"),
        (linear, {"inputs": TAGS, "values": "level"}, "column 'level' is a STRING, and must be a MAP"),
        (lambda: identity(BOOL), {"inputs": ["speed"]}, "column 'speed': a BIGINT cannot be read as the model's input speed (bool, 1 values)"),
        (lambda: linear(rows=8), {"inputs": TAGS}, "its input 'x' has the shape [8, 3]; export it with the shape [rows, values]"),
        (lambda: identity(FLOAT, ["rows", 1, 1]), {}, "its input 'speed' has the shape ['rows', 1, 1]"),
        (lambda: identity(TensorProto.UINT8), {}, "its input 'speed' is a tensor(uint8)"),
        (lambda: b"no model", {}, "is not an ONNX model that can be used: "),
        (lambda: b"", {}, "is not an ONNX model that can be used: "),
        (lambda: linear()[:-40], {}, "is not an ONNX model that can be used: "),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(path: Path, make: Callable[[], bytes], options: dict[str, Any], message: str) -> None:
    path.write_bytes(make())
    with pytest.raises(PlanError) as caught:
        pipeline(path, **options).plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_missing_extra_are_the_environments_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFault, match=r"pump.onnx: cannot be read: No such file or directory"):
        pipeline(path).plan()
    path.write_bytes(linear())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentFault, match=r"needs the package onnxruntime; pip install 'headrace\[onnx\]'"):
        pipeline(path, inputs=TAGS).plan()
    with pytest.raises(HeadraceError, match="is not a file"):
        pipeline(7).plan()  # type: ignore[arg-type]


def test_a_model_file_of_which_bytes_were_changed_is_refused_or_runs(path: Path) -> None:
    dice, whole, ran = random.Random(4), linear(), 0
    for _ in range(25):
        changed = bytearray(whole)
        changed[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        try:
            out(pipeline(path, inputs=TAGS), [{"flow": 1.0, "level": "2", "speed": 4}] * 3)
            ran += 1
        except HeadraceError:
            continue
    assert ran
