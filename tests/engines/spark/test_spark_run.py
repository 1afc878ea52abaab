"""Plans run by a real Spark give what the embedded engine gives: records, dead letters and ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import headrace
import headrace as hr
from engines.embedded.pipelines import PIPELINES, STATISTICS, write_inputs
from headrace.apps.fingerprint import fingerprint
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.folder_jobs import FolderJob
from headrace.engines.spark.environment import python_of, spark_home
from headrace.engines.spark.run import SparkError, _Script, _submit, run_files, run_many
from headrace.engines.working import working_folder
from headrace.errors import EnvironmentFault, PlanError
from keeper import once
from spark import FOLDER, HOME, lines, missing, plain, same

ODD = [
    b'\xef\xbb\xbf{"t": 1704067200000, "k": "a", "x": 1}', b'{"t": 1704067201000, "k": "b", "x": "1e3"}\r', b"", b"  \t", b"\r", b"{", b"[1]", b"7",
    b"null", b'{"k": "a"}', b'{"t": null}', b'{"t": "soon"}', b'{"t": 1704067200}', b'{"t": 4102444800000, "k": "a"}', b'{"t": -1}',
    b'{"t": 1704067200000.5}', b'{"t": 1704067202000, "x": "high"}', b'{"t": 1704067202000, "x": NaN}', b'{"t": 1704067202000}{"t": 1}',
    b'{"t": 1704067202000, "k": "\xff"}', b'{"t": 1704067202000, "k": "a\tb"}', b'{"t": 01}', '{"t": 1704067203000, "k": "é\u2028😀\\"\\\\"}'.encode(),
    b'{"t": 1704067205000, "k": "2024-01-01T00:00:05+01:00", "y": [1, {"a": 2.50}], "z": null}', b'{"k": "it\'s", "t": 1704067206000}',
    b'{"t": 1704067290000, "k": "late makes", "x": -0.0}', b'{"t": 1704067204000, "k": "a", "x": 2}', b'{"t": 1704067291000, "k": null, "x": 1e-9}',
]  # fmt: skip


@hr.pipeline("odd", version="1")
def odd() -> dict[str, hr.Stream]:
    """What is late beside what is not, and rows as they come."""
    rows = hr.stream("odd", schema={"t": "BIGINT", "k": "STRING", "x": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(5))
    windows = (
        rows.where("k <> 'b' OR k IS NULL")
        .window(hr.tumbling(hr.minutes(1)), by=["k"])
        .late_to("too-late")
        .aggregate(**STATISTICS | {"kinds": "COUNT(DISTINCT x)"})
    )
    return {"windows": windows.derive(at="window_end"), "as-they-come": rows.select("k", at="TO_TIMESTAMP_LTZ(t, 3)", x="x * 1e300 * 1e300")}


@hr.pipeline("named", version="1")
def named() -> dict[str, hr.Stream]:
    """The event time of a text, fields that are not declared, and nested values with times in them."""
    rows = hr.stream("odd", schema={"k": "STRING NOT NULL"}, rest="others", event_time="TO_TIMESTAMP_LTZ(k)")
    made = rows.derive(t="TRY_CAST(others['t'] AS BIGINT)", all="STRUCT(TO_TIMESTAMP_LTZ(k) AS t, 'a' AS b)")
    return {"named": made, "each": made.unnest("others", key="name", value="text")}


def steps(kind: str) -> hr.Pipeline:
    @hr.pipeline(kind, version="1")
    def made() -> dict[str, hr.Stream]:
        rows = hr.stream("plant", schema={"k": "STRING", "t": "BIGINT", "x": "DOUBLE", "n": "BIGINT"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
        window = hr.sliding(hr.minutes(3), hr.seconds(30)) if kind == "sliding" else hr.cumulating(hr.minutes(5), hr.minutes(1))
        groups = rows.window(window, by=["k", "n"]).late_to("too-late").aggregate(**STATISTICS, named="MAP_AGG(k, x)", most="MAX(x) - MIN(x)")
        gathered = groups.where("rows > 1").aggregate(
            by=["k"], totals="ARRAY_AGG(total)", first="FIRST_VALUE(n)", of="MAP_AGG(k, STRUCT(n, window_end AS e))"
        )
        return {"groups": groups, "gathered": gathered.aggregate(by=[], keys="COUNT(*)", end="MAX(window_end)")}

    return made


def check_same(got: Path, expected: Path) -> None:
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in got.iterdir()) == names
    for name in names:
        if name == "ledger.json":
            assert (got / name).read_text() == (expected / name).read_text()
            continue
        mine, theirs = lines(got / name), lines(expected / name)
        if name.endswith(".dead-letter.ndjson"):
            mine, theirs = list(map(plain, mine)), list(map(plain, theirs))
        assert len(mine) == len(theirs), name
        for one, other in zip(mine, theirs, strict=True):
            assert same(one, other), (name, one, other)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path, Any]]:
    """Return by name where Spark put its outputs, where the embedded engine did, and what Spark's run gave."""
    if (why := missing()) is not None:
        pytest.skip(why)
    return once("spark-runs", tmp_path_factory, _runs)


def _runs(folder: Path) -> dict[str, tuple[Path, Path, Any]]:
    kiln = []
    for seed in range(3):
        kiln.append(folder / f"kiln{seed}.ndjson")
        said = ["--records", "2000", "--disorder", "20s", "--bad", "0.01", "--numbers", "0.3", "--start", "2024-01-24T19:10:00"]
        command = [sys.executable, "-m", "headrace", "simulate", "kiln", "--to", str(kiln[-1]), "--seed", str(seed), *said]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=180)
    strange = folder / "odd one [1]{é}.ndjson"
    strange.write_bytes(b"\n".join(ODD))
    shown = folder / "shown.ndjson"
    shown.write_bytes(b"\n".join(line for line in ODD if "\u2028".encode() not in line))
    empty = folder / "empty.ndjson"
    empty.touch()
    jobs = {
        "fingerprint of one": (fingerprint.plan(), {"sensor-data": kiln[:1]}),
        "fingerprint of three": (fingerprint.plan(window_size_minutes=2), {"sensor-data": kiln}),
        "odd": (odd.plan(), {"odd": [strange, empty]}),
        "named": (named.plan(), {"odd": [shown]}),
        "nothing": (odd.plan(), {"odd": [empty]}),
    }
    for name in ("merging", "revising"):
        inputs = write_inputs(folder / name, name, 3000, seed=1)
        jobs[name] = PIPELINES[name].plan(), inputs
    for kind in ("sliding", "cumulating"):
        jobs[kind] = steps(kind).plan(), {"plant": jobs["merging"][1]["plant"]}
    jobs["no file"] = odd.plan(), {"odd": [folder / "absent.ndjson"]}
    told = run_many([FolderJob(plan, inputs, folder / "spark" / name) for name, (plan, inputs) in jobs.items()], home=HOME)
    found = {}
    for (name, (plan, inputs)), one in zip(jobs.items(), told, strict=True):
        if not isinstance(one, Exception):
            run_embedded(plan, inputs, folder / "embedded" / name)
        found[name] = folder / "spark" / name, folder / "embedded" / name, one
    return found


@pytest.mark.parametrize("name", ["fingerprint of one", "fingerprint of three", "odd", "named", "nothing", "merging", "sliding", "cumulating"])
def test_spark_gives_what_the_embedded_engine_gives(runs: Mapping[str, tuple[Path, Path, Any]], name: str) -> None:
    got, expected, told = runs[name]
    assert not isinstance(told, Exception), told
    check_same(got, expected)
    assert told == json.loads((got / "ledger.json").read_text())["sources"]


def test_the_runs_try_late_malformed_and_filtered_records(runs: Mapping[str, tuple[Path, Path, Any]]) -> None:
    ledger = runs["fingerprint of three"][2]["sensor-data"]
    assert min(ledger[fate] for fate in ("accepted", "malformed", "late")) > 0
    assert any("raw_base64" in letter for letter in lines(runs["odd"][0] / "odd.dead-letter.ndjson"))


def test_what_spark_cannot_do_is_refused_and_the_others_run(runs: Mapping[str, tuple[Path, Path, Any]]) -> None:
    told = runs["revising"][2]
    assert isinstance(told, PlanError)
    assert "allowed lateness of 8000 ms: Spark gives a window once" in str(told)
    assert isinstance(runs["no file"][2], EnvironmentFault)


FAILING = {
    "requireNonNull(None)": "NullPointerException at java.base/java.util.Objects.requireNonNull(Objects.java:",
    "requireNonNull(None, 'no pump')": "NullPointerException: no pump",
}


def test_a_job_that_fails_says_why_in_one_line() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    text = "from pyspark.sql import SparkSession\ndef main(_): SparkSession.builder.getOrCreate()._jvm.java.util.Objects."
    told = _submit([_Script(text + call, [], processes=False) for call in FAILING], "local[1]", HOME, [])
    for one, expected in zip(told, FAILING.values(), strict=True):
        assert isinstance(one, SparkError)
        assert str(one).startswith(f"Spark: {expected}")
        assert "\n" not in str(one)


ENDING = """
import runpy, sys
from types import SimpleNamespace as Query
end = runpy.run_path(sys.argv[1])["end"]
failed = Query(isActive=False, exception=lambda: RuntimeError("no memory"), stop=lambda: None)
ended = []
goes_on = Query(isActive=True, status={"isTriggerActive": False}, exception=lambda: RuntimeError("it was stopped"), stop=lambda: ended.append(1))
try:
    end([failed, goes_on])
except RuntimeError as error:
    print(error, len(ended))
end([goes_on])
"""


def test_a_live_query_that_fails_while_others_are_stopped_is_told_when_all_have_ended() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    script = Path(headrace.__file__).parent / "engines" / "spark" / "live_job.py"
    command = [str(python_of(spark_home(HOME))), "-c", ENDING, str(script)]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=180).stdout == "no memory 1\n"


CAUSES = """
import json, runpy, sys
from pyspark.errors import PySparkException
told = runpy.run_path(sys.argv[1])["told"]
for cause in sys.argv[2:]:
    error = PySparkException("driver worker exited unexpectedly (crashed)")
    error._cause = PySparkException("an initialization failed")
    error._cause._cause = PySparkException("Traceback (most recent call last):\\n" + cause)
    print(json.dumps(told(error)))
"""


def test_a_query_that_fails_is_told_by_its_innermost_cause() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    driver = Path(headrace.__file__).parent / "engines" / "spark" / "driver.py"
    causes = ["TimeoutError: [Errno 110] Connection timed out", "headrace.errors.ProcessError: process p raised"]
    done = subprocess.run(
        [str(python_of(spark_home(HOME))), "-c", CAUSES, str(driver), *causes], check=True, capture_output=True, text=True, timeout=180
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"error": causes[0]}, {"process": "process p raised"}]


def test_what_is_no_master_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"--cluster: 'nowhere' is no master of Spark; write spark://HOST:7077"):
        run_files(odd.plan(), written(tmp_path), tmp_path / "out", master="nowhere", home=HOME)
    with pytest.raises(EnvironmentFault, match=r"spark://127.0.0.1:9,127.0.0.1:11: no master of Spark answers there: .*SPARK_MASTER"):
        run_files(odd.plan(), written(tmp_path), tmp_path / "out", master="spark://127.0.0.1:9,127.0.0.1:11", home=HOME)
    assert not (tmp_path / "out" / ".spark").exists()


def test_without_java_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match="Spark needs Java"):
        run_files(odd.plan(), written(tmp_path), tmp_path / "out", home=tmp_path)


def written(folder: Path) -> dict[str, Sequence[Path]]:
    (folder / "one.ndjson").write_text("{}\n")
    return {"odd": [folder / "one.ndjson"]}


RUN = """
import sys
from pathlib import Path
from headrace.apps.fingerprint import fingerprint
from headrace.engines.spark.run import run_files
run_files(fingerprint.plan(), {"sensor-data": [Path(sys.argv[1])]}, Path(sys.argv[2]), home=Path(sys.argv[3]))
"""


def processes(marked: str) -> set[str]:
    """Return the numbers of the programs that have a text in their command line."""
    found = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and marked.encode() in (folder / "cmdline").read_bytes():
                found.add(folder.name)
    return found


def wait_until(true: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + 180
    while not true():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.1)


def test_spark_ends_with_the_run_however_that_ends_and_the_next_removes_what_it_left(tmp_path: Path) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    (tmp_path / "one.ndjson").write_text("{}\n")
    home, out = tmp_path / "home", tmp_path / "out"
    marked = str(home / "working" / "spark-")
    command = [sys.executable, "-c", RUN, str(tmp_path / "one.ndjson"), str(out), str(home)]
    with subprocess.Popen(command, env={**os.environ, "HEADRACE_ENGINES": str(FOLDER)}) as run:
        wait_until(lambda: len(processes(marked)) >= 2, "Spark and its Python do not start")
        run.kill()
    wait_until(lambda: not processes(marked), "Spark goes on without the run")
    assert (out / ".spark").exists()
    assert len(list((home / "working").glob("spark-*"))) == 1
    with working_folder(home, "spark") as folder:
        assert list((home / "working").glob("spark-*")) == [folder]
    with pytest.raises(EnvironmentFault, match="needs Java"), pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAVA_HOME", raising=False)
        patch.setenv("PATH", str(tmp_path))
        run_files(odd.plan(), written(tmp_path), out, home=home)
    assert not (out / ".spark").exists()
