"""The command line: what each command does, how it ends, and what it says when it is used wrongly."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

import waiting
from headrace import __version__
from headrace.cli import app
from headrace.cli.tables import print_table
from headrace.simulate import Kiln

HEADRACE = str(Path(sys.executable).with_name("headrace"))
START = 1_705_314_600_000  # 2024-01-15 10:30:00 UTC
NOBODY = 65_534

PIPELINES = """
import headrace as hr

def source(topic):
    return hr.stream(topic, schema={"k": "STRING", "t": "BIGINT", "v": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")

@hr.pipeline("big", version="1")
def big(limit: float = 1.0):
    return {"big": source("readings").where("v > :limit").select("k", "v")}

@hr.pipeline("both", version="7")
def both():
    return {"joined": source("left").union(source("right")).select("k", "v")}
"""
READINGS = [{"k": "a", "t": START, "v": 1}, {"k": "b", "t": START + 1, "v": 2.5}, {"k": "c", "t": START + 2, "v": 3}]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of two pipelines and one of readings."""
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "WINDOW_SIZE_MINUTES", "WATERMARK_SECONDS", "LIMIT", "EQUIPMENT_IDS", "SENSOR_IDS"):
        monkeypatch.delenv(name, raising=False)
    Path("two.py").write_text(PIPELINES)
    Path("readings.ndjson").write_text("".join(json.dumps(one) + "\n" for one in READINGS))
    return tmp_path


def kiln(path: str = "kiln.ndjson", records: int = 1000, **options: Any) -> str:
    """Write a simulated kiln's messages, five a second."""
    lines = Kiln(seed=1, **options).lines(START)
    Path(path).write_bytes(b"".join(next(lines) + b"\n" for _ in range(records)))
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command line as a process of its own, with pipes; what still runs in the end is ended."""
    with ExitStack() as stack:

        def call(*arguments: str, program: Sequence[str] = (HEADRACE,), **options: Any) -> subprocess.Popen[bytes]:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = stack.enter_context(subprocess.Popen([*program, *arguments], **pipes | options))
            stack.callback(process.kill)
            return process

        yield call


wait_for = partial(waiting.wait_for, seconds=400, every=0.01)


# help, versions, and what is imported


def test_help_lists_the_commands_and_no_more(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("--help")
    listed = [line.split()[1] for line in out.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert listed == [
        "alarms",
        "backtest",
        "backup",
        "bridge",
        "browse",
        "check",
        "demo",
        "doctor",
        "explain",
        "fit",
        "import",
        "init",
        "jobs",
        "ledger",
        "plan",
        "prove",
        "reload",
        "replay",
        "restore",
        "run",
        "savepoint",
        "serve",
        "service",
        "simulate",
        "topics",
        "up",
        "what-if",
        "--help",
        "--version",
    ]
    assert (status, err) == (0, "")


def test_without_a_command_the_help_is_shown(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run() == run("--help")


def test_the_version_is_the_packages(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("--version") == (0, f"headrace {__version__}\n", "")


@pytest.mark.parametrize("command", ["bridge", "check", "ledger", "plan", "run", "serve", "simulate"])
def test_each_command_explains_its_parameters(run: Callable[..., tuple[int, str, str]], command: str) -> None:
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: headrace {command}")


HEAVY = ("polars.dataframe", "pyarrow", "arro3.core", "arro3.io", "sqlglot", "rich.progress")


@pytest.mark.parametrize(
    ("arguments", "used"),
    [
        (["--help"], set()),
        (["nonsense"], set()),
        (["run", "--help"], set()),
        (["run", "nonsense"], set()),
        (["ledger", "fingerprint"], set()),
        (["simulate", "kiln", "--records", "1", "--start", "2024-01-15T10:30:00Z"], set()),
        (["simulate", "generators", "--records", "1", "--start", "2024-01-15T10:30:00Z"], set()),
        (["serve", "nonsense"], set()),
        (["check", "two.py"], {"sqlglot"}),
        (["plan", "fingerprint"], {"sqlglot"}),
        (["plan", "fingerprint", "--engine", "flink"], {"sqlglot"}),
        (["run", "fingerprint", "--input", "nowhere=x"], {"sqlglot", "polars.dataframe", "arro3.core", "arro3.io"}),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_no_command_imports_what_it_does_not_use(arguments: list[str], used: set[str]) -> None:
    script = f"import sys; from headrace.cli import main; main({arguments!r}); print(*(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(HEAVY) & set(done.stderr.splitlines()[-1].split()) <= used


@pytest.mark.parametrize(
    ("arguments", "engines"),
    [
        (["--help"], set()),
        (["topics", "list"], set()),
        (["run", "two.py:big", "--input", "readings.ndjson"], {"embedded"}),
        (["run", "two.py:big", "--input", "readings.ndjson", "--engine", "flink", "--records", "5"], {"flink"}),
        (["run", "two.py:big", "--engine", "spark"], {"spark"}),
        (["plan", "two.py:big", "--engine", "flink"], {"flink"}),
        (["plan", "two.py:big", "--engine", "spark"], {"spark"}),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_no_engine_is_imported_unless_it_is_used(arguments: list[str], engines: set[str]) -> None:
    script = f"import sys; from headrace.cli import main; main({arguments!r}); print('imported', *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = done.stderr.splitlines()[-1].split()
    assert {name.split(".")[2] for name in modules if name.startswith("headrace.engines.") and name.endswith(".engine")} == engines
    others = {"embedded", "flink", "spark"} - engines - {"embedded"}  # of the embedded one, `import headrace` has what a pipeline's author uses
    assert not [name for name in modules if name.startswith(tuple(f"headrace.engines.{other}." for other in others))]


def test_a_run_whose_expressions_are_known_does_not_import_the_parser() -> None:
    arguments = ["run", "two.py:big", "--input", "readings.ndjson"]
    script = f"import sys; from headrace.cli import main; main({arguments!r}); print('sqlglot' in sys.modules, file=sys.stderr)"
    Path(".headrace").mkdir()
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in range(2)]
    assert [one.stderr.splitlines()[-1] for one in runs] == ["True", "False"]
    assert runs[0].stdout == runs[1].stdout != ""


def test_files_are_run_where_python_has_no_modules_of_posix() -> None:
    script = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name in {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuses())
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules.pop(name, None)
import headrace
import headrace.cli.doctor, headrace.cli.jobs, headrace.cli.topics, headrace.cli.demo
import headrace.engines.embedded.run, headrace.engines.embedded.observed, headrace.topics.sqlite
sys.exit(headrace.cli.main(["run", "two.py:big", "--input", "readings.ndjson"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "readings: 3 received = 2 accepted + 1 filtered\n")
    assert done.stdout == '{"k":"b","v":2.5}\n{"k":"c","v":3.0}\n'


# wrong use


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], 'Unknown command "nope". Available commands: demo, run, init, up, reload, service'),
        (["rnu"], 'Unknown command "rnu". Did you mean "run"?'),
        (["run"], "APP requires an argument"),
        (["check"], "headrace.toml: cannot be read: No such file or directory"),
        (["check", "two.py", "three.py"], "unexpected argument 'three.py'; see headrace check --help"),
        (["run", "--input", "readings.ndjson", "fingerprint"], "APP requires an argument. Write APP before --input."),
        (["run", "fingerprint", "readings.ndjson"], "unexpected argument 'readings.ndjson'; see headrace run --help"),
        (["plan", "fingerprint", "--egine", "flink"], "Unknown option: --egine. Did you mean --engine?"),
        (["run", "fingerprint", "--input"], "--input requires an argument"),
        (["run", "fingerprint", "--output-format", "xml"], 'Invalid value "xml" for --output-format. Choose from: "ndjson", "parquet".'),
        (["simulate", "kiln", "--records", "few"], '"few"'),
        (["run", "fingerprnt"], "no app 'fingerprnt'; did you mean 'fingerprint'?; or name a file.py[:name] or module:name"),
        (["run", ":x"], "no app ':x'; there is: factory, fingerprint, generators, rules, water; or name a file.py[:name] or module:name"),
        (["plan", "fingerprint:fingerprnt"], "fingerprint: defines no pipeline 'fingerprnt'; did you mean 'fingerprint'?"),
        (["plan", "nowhere.py"], "nowhere.py: there is no such file; name a Python file that defines a pipeline"),
        (["plan", "two.py"], "two.py: defines several pipelines; add :name, one of big, both"),
        (["plan", "two.py:bigg"], "two.py: defines no pipeline 'bigg'; did you mean 'big'?"),
        (["plan", "nosuch.module:big"], "module 'nosuch.module': no module 'nosuch'; is its folder on PYTHONPATH?"),
        (["plan", "json:big"], "json: defines no pipeline; decorate a function with @hr.pipeline(name, version=…)"),
        (["plan", "fingerprint", "--engine", "sprak"], "--engine: unknown engine 'sprak'; did you mean 'spark'?"),
        (["plan", "fingerprint", "--changes", "--engine", "spark"], "--changes: Spark's checkpoints do not name the pipeline that left them; leave out --engine, or name flink"),
        (["plan", "fingerprint", "--changes", "--engine", "flink", "--kafka-servers", "127.0.0.1:9"], "--kafka-servers: the state on Flink is compared without looking at topics; leave it out"),
        (["plan", "fingerprint", "--kafka-servers", "127.0.0.1:9"], "--kafka-servers: a plan is shown without looking at topics; leave it out, or add --changes"),
        (["plan", "fingerprint", "--set", "minutes"], "--set: 'minutes' is not KEY=VALUE; write --set limit=90"),
        (["plan", "fingerprint", "--set", "=5"], "--set: '=5' is not KEY=VALUE"),
        (["plan", "fingerprint", "--set", "window_size_minuts=5"], "--set: unknown setting 'window_size_minuts'; did you mean 'window_size_minutes'?"),
        (["plan", "fingerprint", "--set", "window_size_minutes=two"], "--set: setting window_size_minutes = 'two' is no int"),
        (["plan", "fingerprint", "--set", "window_size_minutes=0"], "the window's size is zero; a window has a length"),
        (["plan", "fingerprint", "--set", "watermark_seconds=-1"], "stream('sensor-data'): the watermark's delay is -1 day, 23:59:59, which is negative"),
        (["run", "fingerprint"], ".headrace/log.db: no topic 'sensor-data'; make it: headrace topics create"),
        (["run", "fingerprint", "--output", "out"], "--input: no input; name a file: --input FILE; a live run writes to topics"),
        (["run", "fingerprint", "--input", "readings.ndjson", "--until", "latest"], "--until: a run over files ends where the files end; leave it out"),
        (["run", "fingerprint", "--input", "readings.ndjson", "--engine", "flink", "--records", "5"], "--records: Flink runs over files to their end; leave it out, or run on the embedded engine"),
        (["run", "fingerprint", "--records", "0"], "--records: is 0; give 1 or more"),
        (["run", "fingerprint", "--idle-after", "soon"], "--idle-after: 'soon' is not a duration"),
        (["demo", "--port", "70000"], "--port: is 70000; give 1 to 65535"),
        (["demo", "--for", "long"], "--for: 'long' is not a duration"),
        (["prove", "two.py:big", "--kills", "1"], "pipeline big: there is nothing to run it on; name a file: --input FILE"),
        (["run", "fingerprint", "--input", "x.ndjson", "--engine", "beam"], "--engine: unknown engine 'beam'; there is: embedded, flink, spark"),
        (["run", "fingerprint", "--input", "x.ndjson", "--cluster", "http://c"], "--cluster: the embedded engine has no cluster; add --engine flink"),
        (["run", "fingerprint", "--input", "x.csv", "--engine", "flink"], "--input x.csv: Flink reads NDJSON files, not 'x.csv'"),
        (["run", "fingerprint", "--input", "f", "--from-savepoint", "s"], "--from-savepoint: a run over files starts from the first records"),
        (["run", "fingerprint", "--engine", "spark"], "--kafka-servers: Spark reads topics of Kafka, and none is named"),
        (["run", "fingerprint", "--engine", "flink"], "--kafka-servers: Flink reads topics of Kafka, and none is named"),
        (["run", "fingerprint", "--input", "readings.txt"], "readings.txt: the format of 'readings.txt' is not known; name it .ndjson, .csv or .parquet"),
        (["run", "fingerprint", "--input", "."], "--input .: is a folder; name its files: --input FOLDER/*.csv"),
        (["run", "fingerprint", "--input", "-", "--input", "-"], "--input: standard input is named twice; it can be read once"),
        (["run", "fingerprint", "--input", "sensr-data=readings.ndjson"], "--input: pipeline fingerprint reads no topic 'sensr-data'; did you mean 'sensor-data'?"),
        (["run", "two.py:both", "--input", "readings.ndjson"], "--input: 'readings.ndjson' names no topic; write TOPIC=readings.ndjson, TOPIC being one of left, right"),
        (["run", "two.py:both", "--input", "left=readings.ndjson"], "--input: topic 'right' has no file; add --input right=FILE"),
        (["ledger", "fingerprint"], ".headrace: pipeline 'fingerprint' has not been run here; run it first: headrace run fingerprint --input FILE"),
        (["run", "two.py:both", "--input", "readings.ndjson", "readings.ndjson"], "--input: 'readings.ndjson' names no topic"),
        (["run", "two.py:both", "--input", "left=readings.ndjson", "--input", "readings.ndjson"], "--input: 'readings.ndjson' names no topic"),
        (["run", "fingerprint", "--input", "-", "-"], "--input: standard input is named twice; it can be read once"),
        (["simulate", "kilm"], "unknown plant 'kilm'; did you mean 'kiln'?"),
        (["simulate", "kiln", "--units"], "simulate kiln: options of generators are given; leave them out"),
        (["simulate", "generators", "--bad", "0.1"], "simulate generators: options of kiln are given; leave them out"),
        (["simulate", "generators", "--power", "high"], "--power: 'high' is no range; write 80-120, two decimals at most"),
        (["simulate", "kiln", "--duration", "soon"], "--duration: 'soon' is not a duration; write 30s, 5m, 2h, or bare seconds"),
        (["simulate", "kiln", "--duration=-5s"], "--duration: '-5s' is not a duration"),
        (["simulate", "kiln", "--history", "10 years"], "--history: '10 years' is not a duration"),
        (["simulate", "kiln", "--start", "noon"], "--start: 'noon' is not a time; write 2024-01-15T10:30:00Z"),
        (["simulate", "kiln", "--records", "0"], "the records is 0; give 1 or more"),
        (["simulate", "kiln", "--bad", "2", "--records", "1"], "bad_share is 2.0; a share lies between 0 and 1"),
        (["simulate", "kiln", "--equipment-ids", "5-1", "--records", "1"], "'5-1' is no range of ids"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)  # fmt: skip
def test_wrong_use_is_one_line_and_exit_status_2(refused: Callable[..., str], arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


def test_debug_adds_the_traceback_before_the_line(run: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = run("--debug", "run", "nope")
    assert status == 2
    assert err.startswith("Traceback (most recent call last):")
    assert (
        err.splitlines()[-1]
        == "headrace: no app 'nope'; there is: factory, fingerprint, generators, rules, water; or name a file.py[:name] or module:name"
    )


def test_the_installed_command_ends_with_the_same_status_and_line() -> None:
    done = subprocess.run([HEADRACE, "run", "nope"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "headrace: no app 'nope'; there is: factory, fingerprint, generators, rules, water; or name a file.py[:name] or module:name\n"
    )


# APP: a shipped name, a file, a module


def test_a_pipeline_is_found_in_a_file_by_name_or_alone_and_in_a_module(
    run: Callable[..., tuple[int, str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder)
    Path("alone.py").write_text(PIPELINES.split('@hr.pipeline("both"', maxsplit=1)[0])
    shown = [run("plan", app) for app in ("alone.py", "alone.py:big", "two.py:big", "two:big", str(folder / "two.py:big"))]
    assert {status for status, _, _ in shown} == {0}
    assert {out.splitlines()[0] for _, out, _ in shown} == {"pipeline big version 1"}


def test_a_file_may_have_any_name_and_does_not_get_in_the_way_of_a_module_of_that_name(run: Callable[..., tuple[int, str, str]]) -> None:
    for name in ("statistics.py", "polars.py", "my file.v2.py", "json.py"):
        Path(name).write_text(PIPELINES)
        assert run("check", name)[0] == 0
    assert run("run", "polars.py:big", "--input", "readings.ndjson")[1] == '{"k":"b","v":2.5}\n{"k":"c","v":3.0}\n'


def test_two_pipelines_of_one_name_in_a_file_are_refused_and_one_under_two_names_is_not(
    refused: Callable[..., str], run: Callable[..., tuple[int, str, str]]
) -> None:
    Path("alias.py").write_text(PIPELINES + "\nagain = big\n")
    assert run("check", "alias.py")[0] == 0
    Path("clash.py").write_text(PIPELINES.replace('"both"', '"big"'))
    assert refused("check", "clash.py") == "clash.py: defines two pipelines 'big'; give each a name of its own"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import headrace as hr\n\ndef f(:\n", "broken.py line 3: SyntaxError: invalid syntax; fix the file"),
        ("x = 1\nx / 0\n", "broken.py line 2: ZeroDivisionError: division by zero; fix the file"),
        ("import json\n\njson.loads('[')\n", "broken.py line 3: JSONDecodeError: Expecting value: line 1 column 2 (char 1); fix the file"),
        ("import nosuchthing\n", "broken.py line 1: ModuleNotFoundError: No module named 'nosuchthing'; fix the file"),
        ("import sys\nsys.exit(0)\n", "broken.py line 2: SystemExit: 0; fix the file"),
        ("x = 5\n", "broken.py: defines no pipeline; decorate a function with @hr.pipeline(name, version=…)"),
        ("", "broken.py: defines no pipeline; decorate a function with @hr.pipeline(name, version=…)"),
        ("x = 'a\nb'\n", "broken.py line 1: SyntaxError: unterminated string literal (detected at line 1); fix the file"),
    ],
)
def test_a_file_that_cannot_be_run_is_named_with_the_line(refused: Callable[..., str], text: str, says: str) -> None:
    Path("broken.py").write_text(text)
    assert refused("check", "broken.py") == says
    assert refused("run", "broken.py", "--input", "readings.ndjson") == says


def test_a_file_is_read_as_it_is_however_soon_it_was_changed(run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for version in "12":
        Path("own.py").write_text(PIPELINES.replace('"1"', f'"{version}"'))
        os.utime("own.py", (0, 0))
        assert f"version {version}" in run("check", "own.py")[1]
    assert not Path("__pycache__").exists()


def test_an_exception_inside_of_a_pipeline_names_the_file_and_the_line(refused: Callable[..., str], folder: Path) -> None:
    Path("inside.py").write_text(
        "import headrace as hr\n\ndef pick(n):\n    return [][n]\n\n@hr.pipeline('p', version='1')\ndef p(n: int = 1):\n    return pick(n)\n"
    )
    says = f"{folder}/inside.py line 4: IndexError: list index out of range; fix the file"
    assert refused("check", "inside.py") == f"pipeline p, {says}"
    for arguments in (["plan", "inside.py", "--set", "n=2"], ["run", "inside.py", "--input", "readings.ndjson"]):
        assert refused(*arguments) == says


def test_an_exception_in_a_module_names_the_file_and_the_line(refused: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    Path("raising_module.py").write_text("x = 1\nx / 0\n")
    assert (
        refused("plan", "raising_module:p") == f"raising_module: {folder}/raising_module.py line 2: ZeroDivisionError: division by zero; fix the file"
    )


# check and plan


def test_check_says_of_each_pipeline_what_it_reads_and_writes(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("check", "two.py") == (
        0, "two.py: pipeline big version 1 is sound: readings → big\ntwo.py: pipeline both version 7 is sound: left, right → joined\n", "",
    )  # fmt: skip


def test_check_names_what_is_wrong_and_ends_with_2(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("wrong.py").write_text(PIPELINES.replace('union(source("right"))', 'where("vv > 1")'))
    status, out, err = run("check", "wrong.py")
    assert (status, out) == (2, "wrong.py: pipeline big version 1 is sound: readings → big\n")
    assert err == "headrace: pipeline both, stream('left').where: 'vv > 1': unknown column 'vv'; did you mean 'v'?\n"


def test_check_names_what_is_wrong_with_each_pipeline_of_a_file(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("wrong.py").write_text(
        PIPELINES.replace('union(source("right"))', 'where("vv > 1")').replace('source("readings")', 'source("readings").where("w")')
    )
    status, out, err = run("check", "wrong.py")
    assert (status, out) == (2, "")
    assert [line.partition("'")[0] for line in err.splitlines()] == ["headrace: pipeline big, stream(", "headrace: pipeline both, stream("]


def test_a_file_may_import_a_module_beside_it_from_wherever_it_is_run(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("plant").mkdir()
    Path("plant/beside_it.py").write_text("DELAY = 5\n")
    Path("plant/statistics.py").write_text("1 / 0\n")  # never taken for Python's own
    Path("plant/two.py").write_text(f"import statistics\nfrom beside_it import DELAY\n{PIPELINES}")
    assert run("run", "plant/two.py:big", "--input", "readings.ndjson")[0] == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.py", "there is no such file"),
        ("./nowhere", "there is no such file"),
        (".", "no app '.'"),
        ("readings.ndjson", "readings.ndjson: is no Python file; name one that ends in .py"),
    ],
)
def test_check_wants_a_python_file(refused: Callable[..., str], name: str, says: str) -> None:
    assert says in refused("check", name)


def test_plan_shows_the_operators_and_the_settings(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("plan", "fingerprint", "--set", "window_size_minutes=5")
    assert (status, err) == (0, "")
    assert out.splitlines()[:3] == ["pipeline fingerprint version 1", "  setting window_size_minutes = 5", "  setting watermark_seconds = 10"]
    assert "window tumbling 0:05:00 by equip_id, sensor: min, max, median, mean, std_dev" in out


def test_plan_prints_the_script_that_flink_would_run(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("plan", "fingerprint", "--engine", "flink", "--set", "window_size_minutes=5")
    assert (status, err) == (0, "")
    assert out.startswith("-- fingerprint, version 1, as Flink SQL\n-- window_size_minutes = 5\n")
    assert "INTERVAL '5' MINUTE" in out


# settings


def test_a_setting_comes_from_the_command_line_the_environment_the_file_or_the_default(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(*arguments: str) -> str:
        return run("plan", "two.py:big", *arguments)[1].splitlines()[1]

    assert limit() == "  setting limit = 1.0"
    Path("headrace.toml").write_text("[other]\nx = 1\n[big]\nlimit = 2\n")
    assert limit() == "  setting limit = 2.0"
    monkeypatch.setenv("HEADRACE_SET_LIMIT", "3")
    assert limit() == "  setting limit = 3.0"
    assert limit("--set", "limit=4") == "  setting limit = 4.0"
    assert limit("--set", "limit=4", "--set", "limit=5") == "  setting limit = 5.0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[big]\nlimits = 2\n", "headrace.toml: unknown setting 'limits'; did you mean 'limit'?"),
        (b"[big]\nlimit = 'high'\n", "headrace.toml: setting limit = 'high' is no float"),
        (b"big = 5\n", "headrace.toml: 'big' is not a table; write [big] above its settings"),
        (b"[big\n", "headrace.toml: cannot be read: "),
        (b"\xff", "headrace.toml: cannot be read: "),
    ],
)
def test_a_settings_file_that_is_wrong_is_refused(refused: Callable[..., str], text: bytes, says: str) -> None:
    Path("headrace.toml").write_bytes(text)
    assert says in refused("plan", "two.py:big")


def test_a_pipeline_that_is_called_as_a_table_of_a_plant_file_does_not_take_it_for_its_settings(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("two.py").write_text(PIPELINES.replace('"big", v', '"plant", v'))
    Path("headrace.toml").write_text('[plant]\nname = "Works"\n')
    status, printed, _ = run("plan", "two.py:plant")
    assert (status, "limit = 1.0" in printed) == (0, True), printed


def test_a_bad_value_in_the_environment_is_refused(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SET_LIMIT", "high")
    assert refused("plan", "two.py:big").startswith("environment HEADRACE_SET_LIMIT: setting limit = 'high' is no float")


# run


def test_rows_are_printed_and_the_ledger_stands_on_standard_error(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("run", "two.py:big", "--input", "readings.ndjson") == (
        0, '{"k":"b","v":2.5}\n{"k":"c","v":3.0}\n', "readings: 3 received = 2 accepted + 1 filtered\n",
    )  # fmt: skip


def test_output_is_a_folder_of_rows_dead_letters_and_the_ledger(run: Callable[..., tuple[int, str, str]]) -> None:
    with Path("readings.ndjson").open("a") as file:
        file.write("oops\n")
    status, out, err = run("run", "two.py:big", "--input", "readings.ndjson", "--output", "deep/er/out")
    assert (status, out, err.splitlines()[0]) == (0, "", "readings: 4 received = 2 accepted + 1 malformed + 1 filtered")
    made = Path("deep/er/out")
    assert sorted(path.name for path in made.iterdir()) == ["big.ndjson", "ledger.json", "readings.dead-letter.ndjson"]
    assert (made / "big.ndjson").read_text() == '{"k":"b","v":2.5}\n{"k":"c","v":3.0}\n'
    letter = json.loads((made / "readings.dead-letter.ndjson").read_text())
    assert (letter["offset"], letter["raw"]) == (3, "oops")
    assert json.loads((made / "ledger.json").read_text()) == {
        "pipeline": "big",
        "sources": {"readings": {"received": 4, "accepted": 2, "malformed": 1, "future": 0, "duplicate": 0, "late": 0, "filtered": 1, "shed": 0}},
    }


def test_every_output_file_is_there_even_if_it_is_empty(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("none.ndjson").touch()
    assert run("run", "two.py:big", "--input", "none.ndjson", "--output", "out") == (0, "", "readings: 0 received = 0 accepted\n")
    assert {path.name: path.read_text() for path in Path("out").glob("*.ndjson")} == {"big.ndjson": "", "readings.dead-letter.ndjson": ""}


def test_a_finished_run_is_done_again_from_the_start(run: Callable[..., tuple[int, str, str]]) -> None:
    first = run("run", "two.py:big", "--input", "readings.ndjson", "--output", "out")
    before = Path("out/big.ndjson").read_bytes()
    assert run("run", "two.py:big", "--input", "readings.ndjson", "--output", "out") == first
    assert Path("out/big.ndjson").read_bytes() == before


def test_inputs_may_name_their_topics_and_several_of_one_are_its_partitions(run: Callable[..., tuple[int, str, str]]) -> None:
    shutil.copy("readings.ndjson", "a=b.ndjson")
    status, out, err = run("run", "two.py:both", "--input", "left=readings.ndjson", "--input", "right=a=b.ndjson", "--input", "left=readings.ndjson")
    assert status == 0
    assert out == "".join(f'{{"k":"{one["k"]}","v":{one["v"]:.1f}}}\n' * 3 for one in READINGS)
    assert err == "left: 6 received = 6 accepted\nright: 3 received = 3 accepted\n"
    assert run("run", "two.py:big", "--input", "a=b.ndjson")[0] == 0, "a file that exists is a file, whatever is in its name"


def test_several_files_may_follow_one_input(run: Callable[..., tuple[int, str, str]]) -> None:
    for name in ("a.ndjson", "b.ndjson", "c=d.ndjson"):
        Path(name).write_bytes(Path("readings.ndjson").read_bytes())
    one = run("run", "two.py:big", *(f"--input={name}" for name in ("a.ndjson", "b.ndjson", "c=d.ndjson")))
    assert one[0] == 0
    assert "9 received" in one[2]
    assert run("run", "two.py:big", "--input", "a.ndjson", "b.ndjson", "c=d.ndjson") == one
    assert run("run", "two.py:big", "--input=readings=a.ndjson", "b.ndjson", "c=d.ndjson", "--set", "limit=1.0") == one
    assert run("run", "two.py:big", "--input", "readings=", "a.ndjson", "--input", "b.ndjson", "c=d.ndjson") == one
    both = run("run", "two.py:both", "--input", "left=a.ndjson", "b.ndjson", "right=c=d.ndjson", "a.ndjson")
    assert both[2] == "left: 6 received = 6 accepted\nright: 6 received = 6 accepted\n"


def test_a_run_over_files_stops_after_so_many_records_and_resumes(run: Callable[..., tuple[int, str, str]]) -> None:
    arguments = ("run", "two.py:big", "--input", "readings.ndjson")
    assert run(*arguments, "--records", "2")[:2] == (0, '{"k":"b","v":2.5}\n')
    status, _, err = run(*arguments, "--output", "out", "--records", "2")
    assert status == 0
    assert err.splitlines() == [
        "readings: 2 received = 1 accepted + 1 filtered",
        "headrace: stopped before the end of the input, windows left open; the same command resumes there, from out/.run",
    ]
    assert Path("out/big.ndjson").read_text() == '{"k":"b","v":2.5}\n'
    assert run(*arguments, "--output", "out")[2] == "readings: 3 received = 2 accepted + 1 filtered\n"
    assert Path("out/big.ndjson").read_text() == '{"k":"b","v":2.5}\n{"k":"c","v":3.0}\n'
    assert run(*arguments, "--output", "out", "--records", "2", "--drain")[2] == "readings: 2 received = 1 accepted + 1 filtered\n"
    assert run(*arguments, "--duration", "1h")[2] == "readings: 3 received = 2 accepted + 1 filtered\n"


def timed(*times: int | str) -> None:
    Path("timed.ndjson").write_text("".join(json.dumps({"k": "a", "t": time, "v": 2}) + "\n" for time in times))


def test_a_run_that_could_use_no_record_has_failed_and_says_why(run: Callable[..., tuple[int, str, str]]) -> None:
    timed(START // 1000, START // 1000 + 1, "soon")
    arguments = ("run", "two.py:big", "--input", "timed.ndjson", "--output", "out")
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    first, outside, field, last = err.splitlines()
    assert first == "readings: 3 received = 0 accepted + 3 malformed"
    assert outside.startswith(
        "readings: 2 set aside: event time is outside 2000-01-01T00:00:00Z to 2100-01-01T00:00:00Z; the first is partition 0 offset 0: "
    )
    assert outside.endswith(": 1705314600 looks like seconds: write TO_TIMESTAMP_LTZ(t, 0)")
    assert field == "readings: 1 set aside: field 't' is not a BIGINT; the first is partition 0 offset 2: field 't' is not a BIGINT: 'soon'"
    assert last.startswith("headrace: pipeline big: no record could be used of 3 received; do the stream's schema and event_time fit the input?")
    assert json.loads(Path("out/ledger.json").read_bytes())["sources"]["readings"]["malformed"] == 3
    status, _, allowed = run(*arguments, "--allow-nothing-accepted")
    assert (status, allowed.splitlines()) == (0, [first, outside, field])


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (START * 1000, f"{START * 1000} looks like microseconds: write TO_TIMESTAMP_LTZ(t / 1000, 3)"),
        (START * 1000_000, f"{START * 1000_000} looks like nanoseconds: write TO_TIMESTAMP_LTZ(t / 1000000, 3)"),
        (5, "event time 1970-01-01T00:00:00Z is outside 2000-01-01T00:00:00Z to 2100-01-01T00:00:00Z"),
    ],
)
def test_a_time_in_another_unit_is_recognised(run: Callable[..., tuple[int, str, str]], times: int, says: str) -> None:
    timed(times, START)
    status, _, err = run("run", "two.py:big", "--input", "timed.ndjson")
    assert status == 0
    assert err.splitlines()[1].endswith(says)


def test_ms_taken_for_seconds_are_recognised(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("two.py").write_text(PIPELINES.replace("(t, 3)", "(t, 0)"))
    timed(START)
    assert f"{START} looks like milliseconds: write TO_TIMESTAMP_LTZ(t, 3)" in run("run", "two.py:big", "--input", "timed.ndjson")[2]


def test_a_run_without_records_or_of_filtered_ones_alone_is_done(run: Callable[..., tuple[int, str, str]]) -> None:
    timed()
    assert run("run", "two.py:big", "--input", "timed.ndjson")[0] == 0
    assert run("run", "two.py:big", "--input", "readings.ndjson", "--set", "limit=99")[::2] == (0, "readings: 3 received = 0 accepted + 3 filtered\n")


def test_only_the_commonest_reasons_are_printed(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("bad.ndjson").write_text('{"t":1}\n[]\n5\n{"k":\n{"v":"x"}\n{"t":"x"}\n{"t":"y"}\n' + json.dumps({"t": "z" * 5000}) + "\n")
    lines = run("run", "two.py:big", "--input", "bad.ndjson")[2].splitlines()
    assert lines[1].startswith("readings: 3 set aside: field 't' is not a BIGINT; the first is partition 0 offset 5: ")
    assert lines[4].startswith("readings: ")
    assert lines[4].endswith(" other reasons")
    assert max(map(len, lines)) < 800


ADDRESSES = [
    ("postgresql://me:secret@db/plant", "postgresql", "name a path of this machine and load its files from there"),
    ("influxdb://db:8086", "influxdb", "name a path of this machine and load its files from there"),
    ("file:///tmp/out", "file", "write the path alone, without file://"),
    ("kafka://broker:9092/t", "kafka", "leave this out, and name the servers: --kafka-servers HOST:PORT"),
]


@pytest.mark.parametrize(("address", "scheme", "says"), ADDRESSES)
@pytest.mark.parametrize(
    "arguments",
    [["run", "two.py:big", "--input", "readings.ndjson", "--output"], ["run", "fingerprint:saver", "--output"], ["simulate", "kiln", "--to"]],
    ids=" ".join,
)
def test_an_address_is_no_place_for_output(
    refused: Callable[..., str], folder: Path, arguments: list[str], address: str, scheme: str, says: str
) -> None:
    before = sorted(folder.iterdir())
    said = refused(*arguments, address)
    assert said.startswith(f"{arguments[-1]}: '{scheme}://…' is the address of a server, not a path; {says}")
    assert "secret" not in said
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "two.py:big", "--input", "readings.ndjson", "https://plant/b.csv"],
        ["run", "two.py:big", "--input", "readings=https://plant/b.csv"],
        ["run", "two.py:big", "--input", "https://plant/b.csv", "--engine", "flink"],
        ["run", "https://plant/two.py"],
        ["plan", "https://plant/two.py:big"],
        ["check", "https://plant/two.py"],
        ["prove", "two.py:big", "--input", "https://plant/b.csv"],
        ["topics", "append", "readings", "https://plant/b.csv"],
        ["jobs", "submit", "two.py:big", "--input", "readings.ndjson", "--output", "https://plant/b.csv"],
    ],
    ids=" ".join,
)
def test_an_address_is_no_file_to_read(refused: Callable[..., str], folder: Path, arguments: list[str]) -> None:
    before = sorted(folder.iterdir())
    assert "'https://…' is the address of a server, not a path; " in refused(*arguments)
    assert sorted(folder.iterdir()) == before


def test_every_option_that_takes_a_path_refuses_addresses() -> None:
    def plain(command: App, name: str) -> Iterator[str]:
        for one in command:
            if not one.startswith("-"):
                yield from plain(command[one], f"{name} {one}")
        for argument in command.assemble_argument_collection() if command.default_command else ():
            if argument.hint is Path and argument.parameter.converter is None:
                yield f"{name} {argument.name}"

    assert list(plain(app, "headrace")) == []


def test_check_takes_what_run_takes(run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert run("check", "two.py:both") == (0, "two.py:both: pipeline both version 7 is sound: left, right → joined\n", "")
    monkeypatch.syspath_prepend(folder)
    assert run("check", "two:big")[:2] == (0, "two:big: pipeline big version 1 is sound: readings → big\n")
    assert run("check", "fingerprint")[:2] == (0, "fingerprint: pipeline fingerprint version 1 is sound: sensor-data → fingerprint-output\n")


def test_a_setting_changes_what_is_computed(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("run", "two.py:big", "--input", "readings.ndjson", "--set", "limit=2.9")[1] == '{"k":"c","v":3.0}\n'


def test_csv_and_parquet_are_read_by_their_endings_and_parquet_may_be_written(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("readings.csv").write_text("k,t,v\n" + "".join(f"{one['k']},{one['t']},{one['v']}\n" for one in READINGS))
    want = run("run", "two.py:big", "--input", "readings.ndjson")
    assert run("run", "two.py:big", "--input", "readings.csv") == want
    assert run("run", "two.py:big", "--input", "readings.csv", "--output", "out", "--output-format", "parquet")[0] == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["big.parquet", "ledger.json", "readings.dead-letter.ndjson"]
    import polars as pl

    assert pl.read_parquet("out/big.parquet").rows() == [("b", 2.5), ("c", 3.0)]


def test_no_progress_is_shown_where_nobody_looks_on_and_it_is_on_a_terminal(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    kiln(records=2000)
    done = subprocess.run([HEADRACE, "run", "fingerprint", "--input", "kiln.ndjson"], capture_output=True, text=True, check=True)
    assert done.stderr == "sensor-data: 2,000 received = 2,000 accepted\n"
    ours, theirs = pty.openpty()
    process = start("run", "fingerprint", "--input", "kiln.ndjson", stderr=theirs, stdout=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 20)[0]:
        try:
            shown += os.read(ours, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
    os.close(ours)
    assert process.wait(180) == 0
    assert b"2,000 records" in shown
    assert b"sensor-data: 2,000 received" in shown


def test_fingerprints_come_through_a_pipe_before_the_input_ends(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    lines = Path(kiln(records=5 * 75)).read_bytes().splitlines(keepends=True)
    process = start("run", "fingerprint", "--input", "-")
    process.stdin.write(b"".join(lines[:-5]))
    process.stdin.flush()
    process.stdin.write(b"".join(lines[-5:]))
    process.stdin.flush()
    assert select.select([process.stdout], [], [], 20)[0], "the first minute is over by more than the watermark's delay"
    first = [json.loads(process.stdout.readline())["fingerprint"] for _ in range(5)]
    assert [(one["equip_id"], one["start_ms"]) for one in first] == [(str(equipment), START) for equipment in range(110, 115)]
    assert process.poll() is None, "the input has not ended"
    out, err = process.communicate(timeout=180)
    assert (process.returncode, len(out.splitlines())) == (0, 5)
    assert err == b"sensor-data: 375 received = 375 accepted\n"


def test_a_reader_that_leaves_ends_the_run_quietly(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    lines = Path(kiln(records=5 * 200)).read_bytes().splitlines(keepends=True)
    process = start("run", "fingerprint", "--input", "-")
    process.stdin.write(b"".join(lines[:500]))
    process.stdin.flush()
    assert json.loads(process.stdout.readline())
    process.stdout.close()
    process.stdin.write(b"".join(lines[500:]))
    process.stdin.close()
    assert process.wait(180) == 0
    assert not process.stderr.read()


@pytest.mark.parametrize("arguments", [["plan", "fingerprint"], ["check", "two.py"], ["--help"], ["simulate", "kiln", "--records", "5000"]])
def test_a_reader_that_has_left_already_ends_any_command_quietly(start: Callable[..., subprocess.Popen[bytes]], arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = start(*arguments, stdout=theirs)
    os.close(theirs)
    _, err = done.communicate(timeout=180)
    assert done.returncode == 0
    assert b"headrace: " not in err
    assert b"Exception" not in err


@pytest.mark.parametrize("arguments", [["run", "two.py:big", "--input", "readings.ndjson"], ["plan", "fingerprint"], ["--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_a_clear_error(
    start: Callable[..., subprocess.Popen[bytes]], arguments: list[str], unbuffered: str
) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(*arguments, stdout=full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
        _, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (1, b"headrace: standard output: cannot be written: No space left on device; send it where there is room\n")


def test_a_full_disk_behind_a_simulation_is_a_clear_error(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start("simulate", "kiln", "--records", "5", stdout=full)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(b"headrace: standard output: cannot write simulated data: No space left on device")


# run: files and folders that are not as they must be


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--input", "missing.ndjson"], "missing.ndjson: cannot be read: No such file or directory; name a file that exists"),
        (["--input", "missing.csv", "--output", "out"], "missing.csv: cannot be read: No such file or directory; name a file that exists"),
        (["--input", "missing.parquet"], "missing.parquet: cannot be read: No such file or directory; name a file that exists"),
        (["--input", "two.parquet"], "two.parquet: is no Parquet file"),
        (["--input", "readings.ndjson", "--output", "two.py"], "two.py"),
        (["--input", "readings.ndjson", "--output", "two.py/out"], "two.py/out"),
    ],
)
def test_what_cannot_be_read_or_written_is_named_and_the_job_has_failed(refused: Callable[..., str], given: list[str], says: str) -> None:
    Path("two.parquet").write_text("PAR1 or not")
    assert says in refused("run", "two.py:big", *given, status=1)


def test_an_output_folder_in_use_is_refused_and_its_user_named(start: Callable[..., subprocess.Popen[bytes]], refused: Callable[..., str]) -> None:
    first = start("run", "two.py:big", "--input", "-", "--output", "out")
    lock = Path("out/.run/lock")
    wait_for(lambda: lock.exists() and lock.read_text())
    said = refused("run", "two.py:big", "--input", "readings.ndjson", "--output", "out", status=1)
    assert said == f"out: is in use by process {first.pid}; wait for it, or name another --output"
    first.communicate(timeout=180)
    assert first.returncode == 0


def test_a_lock_that_a_dead_process_left_is_no_hindrance(run: Callable[..., tuple[int, str, str]]) -> None:
    Path("out/.run").mkdir(parents=True)
    Path("out/.run/lock").write_text("4711")
    assert run("run", "two.py:big", "--input", "readings.ndjson", "--output", "out")[0] == 0


def test_a_lock_is_held_against_the_same_process_too(refused: Callable[..., str]) -> None:
    Path("out/.run").mkdir(parents=True)
    with Path("out/.run/lock").open("a+") as held:
        held.write("4711")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "is in use by process 4711" in refused("run", "two.py:big", "--input", "readings.ndjson", "--output", "out", status=1)


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Call the command line as a user without rights, in a folder that it may read; give the exit status and standard error."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    for name in ("two.py", "readings.ndjson"):
        shutil.copy(tmp_path / name, place)
    drop = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})" if os.getuid() == 0 else ""
    script = f"import os, sys, headrace.cli.run, headrace.cli.simulate, headrace.engines.embedded.run, headrace.simulate; from headrace.cli import main; {drop}; sys.exit(main(sys.argv[1:]))"

    def call(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=place, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    for path in [place, *place.iterdir()]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield call
    shutil.rmtree(place)


def test_without_write_permission_the_folder_is_named(unprivileged: Callable[..., tuple[int, str]]) -> None:
    status, err = unprivileged("run", "two.py:big", "--input", "readings.ndjson", "--output", "out")
    assert status == 1
    assert err == "headrace: out/.run: cannot be written: Permission denied; let this user write there\n"


def test_where_the_ledger_cannot_be_kept_the_run_is_done_all_the_same(unprivileged: Callable[..., tuple[int, str]]) -> None:
    status, err = unprivileged("run", "two.py:big", "--input", "readings.ndjson")
    assert status == 0
    assert err.splitlines()[0] == "headrace: .headrace/ledgers: the ledger cannot be kept for `headrace ledger`: Permission denied"


def test_without_read_permission_the_file_is_named(unprivileged: Callable[..., tuple[int, str]]) -> None:
    secret = Path(tempfile.mkdtemp()) / "secret.ndjson"
    secret.parent.chmod(0o755)
    secret.write_text("{}")
    secret.chmod(0o000)
    assert unprivileged("run", "two.py:big", "--input", str(secret)) == (
        1, f"headrace: {secret}: cannot be read: Permission denied; name a file that this user may read\n",
    )  # fmt: skip
    shutil.rmtree(secret.parent)


def test_a_simulation_that_may_not_be_written_names_the_file(unprivileged: Callable[..., tuple[int, str]]) -> None:
    status, err = unprivileged("simulate", "kiln", "--records", "5", "--to", "sim/kiln.ndjson")
    assert (status, err) == (1, "headrace: sim/kiln.ndjson: cannot be written: Permission denied; name a file that this user may write\n")


# Ctrl-C


def interruptible(first: str = "") -> list[str]:
    """The command line with SIGINT switched on, which it is not where the tests run in the background of a shell."""
    script = f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); {first}\nfrom headrace.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", script]


def waits_for_input(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has read all that was written to it and reads on: the number and the file of its system call."""
    assert process.stdin is not None
    unread = int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, b"    "), sys.byteorder)
    return not unread and Path(f"/proc/{process.pid}/syscall").read_text().startswith(("0 0x0 ", "63 0x0 "))


def test_an_interrupted_run_ends_with_130_and_goes_on_to_the_same_bytes(
    start: Callable[..., subprocess.Popen[bytes]], run: Callable[..., tuple[int, str, str]]
) -> None:
    kiln(records=60_000, disorder_ms=5000, bad_share=0.01)
    assert run("run", "fingerprint", "--input", "kiln.ndjson", "--output", "whole")[0] == 0
    often = "from headrace.engines.embedded.run import run_files; run_files.__kwdefaults__.update(commit_seconds=0, chunk=1 << 14)"
    arguments = ["run", "fingerprint", "--input", "kiln.ndjson", "--output", "out"]
    process = start(*arguments, program=interruptible(often))
    written = Path("out/.run/fingerprint-output.ndjson")
    wait_for(lambda: written.exists() and written.stat().st_size)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert [path.name for path in Path("out").iterdir()] == [".run"], "nothing is put in place before its time"
    assert run(*arguments)[0] == 0
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == {path.name: path.read_bytes() for path in Path("whole").iterdir()}


def test_an_interrupt_ends_a_run_that_waits_for_its_input(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("run", "fingerprint", "--input", "-", program=interruptible())
    process.stdin.write(Path(kiln(records=500)).read_bytes())
    process.stdin.flush()
    process.stdout.readline()
    wait_for(lambda: waits_for_input(process))
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 130
    assert not process.stderr.read()


def test_a_run_of_a_pipe_cannot_go_on_and_says_so(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    lines = Path(kiln(records=500)).read_bytes()
    often = "from headrace.engines.embedded.run import run_files; run_files.__kwdefaults__.update(commit_seconds=0)"
    arguments = ["run", "fingerprint", "--input", "-", "--output", "out"]
    first = start(*arguments, program=interruptible(often))
    first.stdin.write(lines)
    first.stdin.flush()
    wait_for(lambda: (written := Path("out/.run/fingerprint-output.ndjson")).exists() and written.stat().st_size)
    wait_for(lambda: waits_for_input(first))
    first.send_signal(signal.SIGINT)
    assert first.wait(180) == 130
    second = start(*arguments)
    second.stdin.close()
    assert second.wait(180) == 1
    assert second.stderr.read() == (
        b"headrace: standard input: cannot be read again from where a run stopped; read a file, or remove the .run of the output to start anew\n"
    )
    shutil.rmtree("out/.run")
    third = start(*arguments)
    third.communicate(lines, timeout=180)
    assert third.returncode == 0


# ledger


def test_the_ledger_of_the_last_run_is_shown(run: Callable[..., tuple[int, str, str]]) -> None:
    run("run", "two.py:big", "--input", "readings.ndjson")
    status, out, err = run("ledger", "two.py:big")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["readings"], ["received", "3"], ["accepted", "2"], ["malformed", "0"], ["future", "0"], ["duplicate", "0"], ["late", "0"], ["filtered", "1"], ["shed", "0"],
    ]  # fmt: skip
    run("run", "two.py:big", "--input", "readings.ndjson", "--input", "readings.ndjson", "--output", "out")
    assert ["received", "6"] in [line.split() for line in run("ledger", "two.py:big")[1].splitlines()]


def test_what_a_cluster_could_not_count_is_shown_as_unknown(run: Callable[..., tuple[int, str, str]]) -> None:
    Path(".headrace/ledgers").mkdir(parents=True)
    Path(".headrace/ledgers/big.json").write_text('{"pipeline": "big", "sources": {"readings": {"received": 1500, "accepted": null}}}')
    assert run("ledger", "two.py:big")[:2] == (0, "readings\n  received            1,500\n  accepted                ?\n")


def test_ledgers_lie_under_headrace_home(run: Callable[..., tuple[int, str, str]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(folder / "home"))
    run("run", "two.py:big", "--input", "readings.ndjson")
    assert (folder / "home/ledgers/big.json").exists()
    assert not Path(".headrace").exists()
    assert run("ledger", "two.py:big")[0] == 0


def test_a_damaged_ledger_is_a_clear_error(refused: Callable[..., str]) -> None:
    Path(".headrace/ledgers").mkdir(parents=True)
    Path(".headrace/ledgers/big.json").write_text("{")
    said = refused("ledger", "two.py:big", status=1)
    assert said.startswith(".headrace/ledgers/big.json: cannot be read: ")
    assert said.endswith("; remove it, or run the pipeline again")


# simulate


def test_a_simulation_prints_messages_and_reports_on_standard_error(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run("simulate", "kiln", "--records", "7", "--seed", "1", "--start", "2024-01-15T10:30:00Z", "--rate", "1000000")
    messages = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [message["equip_id"] for message in messages] == [110, 111, 112, 113, 114, 110, 111]
    assert messages[0]["timestamp"] == START
    assert set(messages[0]["data"]) == {"0001", "0002", "0003", "0004", "0005"}
    assert "Sensor Data Generator" in err
    assert "[2024-01-15 10:30:00] Batch #1: Sent 5 messages (equip_ids: 110-114)" in err


def test_a_quiet_simulation_prints_no_report(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("simulate", "water", "--records", "3", "--quiet", "--to", "rows.ndjson") == (0, "", "")
    assert len(Path("rows.ndjson").read_bytes().splitlines()) == 3


def test_a_simulation_into_a_file_is_the_same_for_the_same_seed(run: Callable[..., tuple[int, str, str]]) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert run("simulate", "kiln", "--records", "50", "--seed", seed, "--start", "2024-01-15T10:30:00Z", "--to", f"sim/{name}.ndjson")[0] == 0
    a, b, c = (Path(f"sim/{name}.ndjson").read_bytes() for name in "abc")
    assert a == b != c
    assert a.count(b"\n") == 50
    assert a == Path(kiln(records=50)).read_bytes()


def test_a_simulation_takes_its_ids_from_options_or_the_environment(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPMENT_IDS", "7,9")
    monkeypatch.setenv("SENSOR_IDS", "0008-0010")
    first = json.loads(run("simulate", "kiln", "--records", "2", "--rate", "1000000")[1].splitlines()[1])
    assert (first["equip_id"], list(first["data"])) == (9, ["0008", "0009", "0010"])
    first = json.loads(run("simulate", "kiln", "--records", "1", "--equipment-ids", "5", "--sensor-ids", "x")[1])
    assert (first["equip_id"], list(first["data"])) == (5, ["x"])


def test_a_simulation_lasts_as_long_as_it_is_told(run: Callable[..., tuple[int, str, str]]) -> None:
    began = time.monotonic()
    status, out, _ = run("simulate", "kiln", "--duration", "300ms", "--history", "1m", "--rate", "100")
    assert status == 0
    assert time.monotonic() - began >= 0.3
    assert len(out.splitlines()) >= 6000


def test_names_in_data_do_not_move_the_cursor_of_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("TAG",), [("a\x1b[31m\nb",), ("é",)])
    assert capsys.readouterr().out == "TAG\na\\x1b[31m\\nb\né\n"
