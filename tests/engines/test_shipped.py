"""A process on its way to a cluster: packed here, and at work in a Python that has the archive and the packages alone."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest

import headrace as hr
from headrace.detect.fitting import fit
from headrace.detect.scorer import State, scorer_of
from headrace.engines.shipped import archive, pack, unpack
from headrace.errors import PlanError, ProcessError
from headrace.plan.operators import Process
from waiting import wait_for

RULE = """
from dataclasses import dataclass

import headrace as hr
from plant_parts.sensors.limits import LIMIT


@dataclass
class Above:
    factor: float = 1.0
    output = {"v": "DOUBLE", "n": "BIGINT"}
    state = {"count": hr.Value("BIGINT", 0)}

    def on_record(self, row, state):
        if row["v"] > LIMIT * self.factor:
            state.count += 1
            yield {"v": row["v"], "n": state.count}
"""

# What a worker does: nothing of this machine's is on its path but the archive and the packages.
WORKER = """
import json, sys
sys.path[:] = [*json.loads(sys.argv[1]), *(one for one in sys.path if "site-packages" not in one and one)]
from headrace.engines.shipped import unpack
from headrace.errors import ProcessError
try:
    operator = unpack(sys.stdin.read())
except ProcessError as error:
    sys.exit(str(error))
from headrace.kernels.keyed.process import Place, ProcessKernel
kernel, given = ProcessKernel(operator), []
state = kernel.keep.fresh({"k": "a"})
for number, v in enumerate([1.0, 30.0, 50.0]):
    kernel.record(state, {"k": "a", "t": number, "v": v}, number, number, Place("x", 0, number), given)
import headrace
print(json.dumps({"given": given, "from": headrace.__file__, "schema": str(operator.schema), "str": str(operator)}))
"""

here = hr.stream("x", schema={"k": "STRING NOT NULL", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")


def processed(code: Any, stream: hr.Stream = here) -> Process:
    operator = stream.process(code, by=["k"]).operator
    assert isinstance(operator, Process)
    return operator


def forget() -> None:
    """Have the author's modules imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in {"plant_rule", "plant_parts"}]:
        del sys.modules[name]


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of an author's, which imports another from a package without __init__.py."""
    home = tmp_path / "plant"
    (home / "plant_parts" / "sensors").mkdir(parents=True)
    (home / "plant_parts" / "sensors" / "limits.py").write_text("LIMIT = 20.0\n")
    (home / "plant_rule.py").write_text(RULE)
    monkeypatch.syspath_prepend(str(home))
    yield importlib.import_module("plant_rule")
    forget()


def worker(text: str, *path: Path | str, first: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", first + WORKER, json.dumps([*map(str, path), sysconfig.get_paths()["purelib"]])]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=180, check=False)


def test_a_process_works_where_there_is_the_archive_and_the_packages_alone(rule: Any, tmp_path: Path) -> None:
    shipped = archive(tmp_path / "shipped.zip")
    operator = processed(rule.Above(factor=2.0), here.derive(w="v").where("w > 0"))
    done = worker(pack(operator), shipped)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["from"].startswith(str(shipped))
    assert told["given"] == [["", 2, ["a"], [50.0, 1]]]
    assert (told["schema"], told["str"]) == (str(operator.schema), str(operator))


def test_two_threads_that_unpack_at_once_have_each_its_process_or_why_there_is_none(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One imports the author's module, and fails, while the other waits for it: that one imports it again."""
    text, told = pack(processed(rule.Above())), dict[str, object]()
    forget()
    begun = Event()

    def fail_once() -> None:
        if not begun.is_set():
            begun.set()
            wait_for(second_waits, "the second thread waits", seconds=180)
            raise ImportError("a package is lacking")

    def second_waits() -> bool:
        frame = sys._current_frames().get(second.ident or 0)
        return frame is not None and frame.f_code.co_name in ("unpack", "acquire")  # ours, or importlib's wait for a module

    def do(name: str) -> None:
        try:
            told[name] = unpack(text)
        except ProcessError as error:
            told[name] = error

    monkeypatch.setitem(sys.modules, "plant_gate", SimpleNamespace(fail_once=fail_once))
    limits = Path(rule.__file__).with_name("plant_parts") / "sensors" / "limits.py"
    limits.write_text("import plant_gate\nplant_gate.fail_once()\nLIMIT = 20.0\n")
    importlib.invalidate_caches()
    first, second = (Thread(target=do, args=(name,)) for name in ("first", "second"))
    first.start()
    assert begun.wait(180)
    second.start()
    for thread in (first, second):
        thread.join(360)
    assert "a package is lacking" in str(told["first"])
    assert isinstance(told["second"], Process)


@pytest.mark.parametrize("frame", [{"rows": 2}, {"time": hr.seconds(5)}, {}])
def test_running_aggregates_work_where_there_is_no_polars_and_no_sql_parser(frame: Any, tmp_path: Path) -> None:
    operator = here.over(by=["k"], **frame, y="SUM(v) + LAG(v)").node.input.operator
    assert isinstance(operator, Process)
    lacking = "import sys\nsys.modules['polars'] = sys.modules['sqlglot'] = None\n"
    done = worker(pack(operator), archive(tmp_path / "shipped.zip"), first=lacking)
    assert done.returncode == 0, done.stderr
    last = 80.0 if "rows" in frame else 81.0
    assert json.loads(done.stdout)["given"] == [
        ["", n, ["a"], [n, v, *calls]] for n, v, *calls in ((0, 1.0, 1.0, None), (1, 30.0, 31.0, 1.0), (2, 50.0, last, 30.0))
    ]


def test_a_detector_works_where_there_is_no_numpy_no_polars_and_no_sql_parser(tmp_path: Path) -> None:
    model = fit("ewma", [[float(place % 7)] for place in range(100)], ["v"])
    operator = hr.detect(here, model, by=["k"]).scores.operator
    lacking = "import sys\nfor name in ('numpy', 'polars', 'sklearn', 'sqlglot'):\n    sys.modules[name] = None\n"
    done = worker(pack(operator), archive(tmp_path / "shipped.zip"), first=lacking)
    assert done.returncode == 0, done.stderr
    scorer, state = scorer_of(model), State()
    expected = [scorer.score([v], number, state).score for number, v in enumerate([1.0, 30.0, 50.0])]
    assert [values[1] for name, _, _, values in json.loads(done.stdout)["given"] if not name] == expected


def test_a_module_that_is_missing_there_is_named(rule: Any, tmp_path: Path) -> None:
    shipped, lacking = archive(tmp_path / "shipped.zip"), tmp_path / "lacking.zip"
    with zipfile.ZipFile(shipped) as full, zipfile.ZipFile(lacking, "w") as written:
        for name in full.namelist():
            if not name.startswith("plant_rule"):
                written.writestr(name, full.read(name))
    done = worker(pack(processed(rule.Above())), lacking)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.strip() == "a process: needs module 'plant_rule', which the cluster lacks; install 'plant_rule' with the Python of every worker"
    )


def test_a_class_that_is_missing_there_is_told(rule: Any) -> None:
    text = pack(processed(rule.Above()))
    del rule.Above
    with pytest.raises(ProcessError, match=r"^a process: cannot be loaded on the cluster: .*'Above'.*; install the same versions there as here$"):
        unpack(text)


def test_what_is_unpacked_is_the_process_less_what_it_stands_on(rule: Any) -> None:
    operator = processed(rule.Above(factor=3.0), here.where("v > 0"))
    back = unpack(pack(operator))
    assert (back.code, back.name, back.keys, back.declared) == (operator.code, "above", ("k",), operator.declared)
    assert (back.record_schema, str(back)) == (operator.record_schema, str(operator))
    assert len(pack(operator)) == len(pack(processed(rule.Above(factor=3.0), here.where("v > 0 AND v < 1e9"))))


def test_a_class_inside_a_function_cannot_be_packed() -> None:
    class Inner:
        output = {}

        def on_record(self, row, state): ...

    with pytest.raises(PlanError, match=r"^process inner: cannot be sent to a cluster: .*; define its class at the top of a module, and give it"):
        pack(processed(Inner()))


def test_an_attribute_that_cannot_be_pickled_is_told(rule: Any) -> None:
    with pytest.raises(
        PlanError, match=r"^process above: cannot be sent to a cluster: .*lambda.*; define its class at the top of a module, and give it"
    ):
        pack(processed(rule.Above(factor=lambda: 1.0)))


def test_a_class_of_the_script_that_runs_cannot_be_packed(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule.Above, "__module__", "__main__")
    with pytest.raises(PlanError, match="its class is in the script that runs; define it in a module of its own, and import that"):
        pack(processed(rule.Above()))


def test_the_archive_has_the_author_s_modules_and_headrace_and_nothing_that_is_installed(rule: Any, tmp_path: Path) -> None:
    assert rule
    with zipfile.ZipFile(archive(tmp_path / "shipped.zip")) as shipped:
        names = [name for name in shipped.namelist() if not name.endswith("/")]
        assert shipped.read("plant_parts/sensors/limits.py") == b"LIMIT = 20.0\n"
        assert sum(one.compress_size for one in shipped.infolist()) < sum(one.file_size for one in shipped.infolist()) / 2
    assert {"plant_rule.py", "headrace/__init__.py", "headrace/kernels/keyed/process.py"} <= {*names}
    assert not [name for name in names if name.startswith(("msgspec", "polars", "json", "pytest", "_pytest", "__main__"))]


def test_the_archive_is_the_same_bytes_for_the_same_modules(rule: Any, tmp_path: Path) -> None:
    first = archive(tmp_path / "first.zip").read_bytes()
    assert archive(tmp_path / "second.zip").read_bytes() == first
    Path(rule.__file__).write_text(RULE + "\n# changed\n")
    assert archive(tmp_path / "third.zip").read_bytes() != first
