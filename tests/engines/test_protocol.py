"""What holds of every engine: each option is honoured or refused by name, and the same calls have the same kinds of answers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import flink as flink_parts
import spark as spark_parts
from conformance.conftest import ENGINES as TESTED
from headrace.cli import main
from headrace.engines.flink import run as flink_run
from headrace.engines.flink.engine import FlinkEngine
from headrace.engines.options import OPTIONS, Honoured, Mode, Options, Refused, flag, refuse
from headrace.engines.protocol import ENGINES, Context, Engine, FileJob, JobEngine, Result, Topics, engine_named
from headrace.engines.spark import environment as spark_environment
from headrace.engines.spark import run as spark_run
from headrace.errors import EnvironmentFault, HeadraceError, PlanError
from headrace.topics.cluster import Cluster
from headrace.topics.sqlite import SqliteLog

APP = """
import headrace as hr

@hr.pipeline("pairs", version="1")
def pairs():
    readings = hr.stream("readings", schema={"k": "STRING", "v": "DOUBLE", "t": "BIGINT NOT NULL"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    return {"pairs": readings.where("v IS NOT NULL").select("k", "v", "t")}

@hr.pipeline("revised", version="1")
def revised():
    readings = hr.stream("readings", schema={"k": "STRING", "t": "BIGINT NOT NULL"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    windows = readings.window(hr.tumbling(hr.seconds(10)), by=["k"], allowed_lateness=hr.seconds(5))
    return {"revised": windows.aggregate(n="COUNT(*)")}
"""
RECORDS = [{"k": "a", "v": 1.5, "t": 1_706_123_400_000}, {"k": "b", "v": None, "t": 1_706_123_401_000}, {"k": "c", "v": 2.0, "t": "soon"}]
VALUES = {
    "kafka_servers": "127.0.0.1:9",
    "kafka_config": "kafka.properties",
    "cluster": "http://127.0.0.1:9",
    "output_format": "ndjson",
    "until": "latest",
    "duration": "0s",
    "records": "5",
    "commit_every": "2s",
    "batch_records": "5",
    "idle_after": "5s",
    "close_quiet_after": "5s",
    "max_ahead": "5s",
    "parallelism": "2",
    "metrics_port": "0",
    "from_savepoint": "s",
    "from_": "latest",
    "reset": "window:k",
}
NO_KAFKA = "reads topics of Kafka, and none is named"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_HOME", "KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "FLINK_REST_URL", "SPARK_MASTER", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "kafka.properties").write_text("client.id=me\n")
    (tmp_path / "readings.ndjson").write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    return tmp_path


def written(option: str) -> list[str]:
    return [flag(option), VALUES[option]] if option in VALUES else [flag(option)]


def command(engine: str, mode: Mode, *options: str) -> list[str]:
    """Return a run of an engine, without a Kafka to run on."""
    if mode is Mode.JOB:
        cluster = [] if "cluster" in options else written("cluster")
        return ["jobs", "submit", "app.py:pairs", "--engine", engine, *cluster, *(part for one in options for part in written(one))]
    kind = {Mode.FILES: ["--input", "readings.ndjson"], Mode.LIVE: [], Mode.LATEST: [] if "until" in options else ["--until", "latest"]}[mode]
    return ["run", "app.py:pairs", "--engine", engine, *kind, *(part for one in options for part in written(one))]


CELLS = [
    (name, mode, option, support)
    for name in ENGINES
    for mode, row in engine_named(name).capabilities.options.items()
    for option, support in row.items()
]
REFUSED = [(name, mode, option, support) for name, mode, option, support in CELLS if isinstance(support, Refused)]
HONOURED = [(name, mode, option) for name, mode, option, support in CELLS if isinstance(support, Honoured)]


def shown(one: Any) -> str:
    return str(one) if isinstance(one, str) else ""


# the table


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_says_of_each_option_whether_it_honours_it(name: str) -> None:
    engine = engine_named(name)
    assert engine.name == name
    assert {Mode.FILES, Mode.LIVE, Mode.LATEST} | ({Mode.JOB} if isinstance(engine, JobEngine) else set()) == set(engine.capabilities.options)
    for row in engine.capabilities.options.values():
        assert set(row) == set(OPTIONS)


def test_every_engine_is_under_test() -> None:
    assert [one.name for one in TESTED] == [*ENGINES]


def test_an_engine_that_is_not_there_is_told() -> None:
    with pytest.raises(PlanError, match=r"^--engine: unknown engine 'flnk'; did you mean 'flink'\?$"):
        engine_named("flnk")


# the command line


@pytest.mark.parametrize(("name", "mode", "option", "support"), REFUSED, ids=shown)
def test_an_option_that_is_refused_is_named_with_the_reason_and_a_fix(
    name: str, mode: Mode, option: str, support: Refused, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {*folder.iterdir()}
    extra = ["--yes"] if option == "anew" else []
    assert main([*command(name, mode, option), *extra]) == 2
    assert capsys.readouterr() == ("", f"headrace: {flag(option)}: {support.reason}; {support.fix}\n")
    assert {*folder.iterdir()} == before, "nothing is made"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--engine", "spark", "--max-ahead", "1m"], "--max-ahead: Spark sets records aside that are more than 1 h ahead of their arrival, whatever is asked; leave it out"),
        (["--engine", "spark", "--idle-after", "30s"], "--idle-after: Spark has no idle partitions: its watermark follows the greatest event time of a topic; leave it out"),
        (["--engine", "spark", "--kafka-servers", "127.0.0.1:9", "--cluster", "local[2]", "-p", "4"], "--parallelism: the master that is named has its own; leave it out, or name the master local[4]"),
        (["--engine", "spark", "--kafka-servers", "127.0.0.1:9", "--commit-every", "never"], "--commit-every: Spark commits with each micro-batch; give a duration"),
        (["--engine", "spark", "--until", "latest", "--anew", "--yes"], "--anew: Spark reads what the topics hold from the first records each time; leave it out"),
        (["--engine", "flink", "--close-quiet-after", "60s"], "--close-quiet-after: Flink's windows close by event time alone; leave it out, or run on the embedded engine"),
        (["--engine", "flink", "--records", "5", "--metrics-port", "9100"], "--records: Flink cannot stop after a number of records; give --duration"),
        (["--engine", "flink", "--kafka-servers", "127.0.0.1:9", "--commit-every", "100ms"], "--commit-every: Flink commits with checkpoints, at least 1 s apart; give 1s or more"),
        (["--engine", "flink", "--kafka-servers", "127.0.0.1:9", "--commit-every", "never"], "--commit-every: Flink commits with checkpoints, at least 1 s apart; give 1s or more"),
        (["--until", "latest", "--idle-after", "5s", "--max-ahead", "1m"], "--idle-after, --max-ahead: the wall clock decides nothing in a run that ends where the topics end; leave it out, or leave out --until"),
        (["--output-format", "parquet"], "--output-format: topics hold JSON; leave it out"),
        (["--input", "readings.ndjson", "--output-format", "parquet"], "--output-format: rows on standard output are NDJSON; add --output DIR"),
        (["--input", "readings.ndjson", "--output-format", "parquet", "--engine", "flink"], "--output-format: Flink writes NDJSON only"),
        (["--input", "readings.ndjson", "--output-format", "parquet", "--engine", "spark"], "--output-format: Spark writes NDJSON only"),
        (["--engine", "flink", "--kafka-servers", "127.0.0.1:9", "--anew", "--yes", "--from-savepoint", "s"], "--anew: starts from the first records, and --from-savepoint elsewhere; give one of them"),
        (["--anew", "--yes", "--from-savepoint", "s"], "--anew: starts without any state, and --from-savepoint with some; give one of them"),
        (["--reset", "window:k"], "--reset: pipeline pairs has no stage 'window:k'"),
        (["--yes"], "--yes: answers the question of --anew, which is not given; leave it out, or add --anew"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)  # fmt: skip
def test_what_was_dropped_without_a_word_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "app.py:pairs", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"headrace: {says}")


@pytest.mark.parametrize(
    ("option", "value"), [("--drain", []), ("--output-format", ["ndjson"]), ("--engine", ["flink"]), ("--set", ["a=b"]), ("--input", ["x"])]
)
def test_the_saver_refuses_the_options_of_pipelines(option: str, value: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fingerprint:saver", option, *value]) == 2
    assert capsys.readouterr().err == f"headrace: {option}: the saver has no such option; leave it out\n"


@pytest.mark.parametrize(("name", "mode", "option"), [one for one in HONOURED if one[0] != "embedded"], ids=shown)
def test_an_option_that_a_cluster_honours_is_taken_and_so_is_none(
    name: str, mode: Mode, option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as this can be seen without the cluster: what is lacking behind the options is told."""
    if option in ("kafka_servers", "kafka_config"):
        refuse(engine_named(name).capabilities.options[mode], [option])
        return
    (folder / "readings.ndjson").rename(folder / "readings.csv")
    extra = ["--yes"] if option == "anew" else []
    for arguments in (command(name, mode), [*command(name, mode, option), *extra]):
        assert main([one.replace(".ndjson", ".csv") for one in arguments]) != 0
        err = capsys.readouterr().err
        assert ("readings.csv" if mode is Mode.FILES else "127.0.0.1:9" if mode is Mode.JOB else NO_KAFKA) in err


@pytest.mark.parametrize(("mode", "option"), [(mode, option) for name, mode, option in HONOURED if name == "embedded"], ids=shown)
def test_an_option_that_the_embedded_engine_honours_is_taken(mode: Mode, option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(SqliteLog(folder / ".headrace" / "log.db")) as log:
        log.create("readings")
    if option in ("kafka_servers", "kafka_config", "metrics_port"):
        refuse(engine_named("embedded").capabilities.options[mode], [option])
        return
    until = ["--duration", "0s"] if mode is Mode.LIVE and option not in ("duration", "until") else []
    if option == "from_savepoint":
        assert main(["run", "app.py:pairs", "--duration", "0s"]) == 0
        assert main(["savepoint", "app.py:pairs", "s"]) == 0
    extra = ["--yes"] if option == "anew" else []
    arguments = [*command("embedded", mode, option), *until, *extra]
    app = "app.py:revised" if option == "reset" else "app.py:pairs"  # which has a window
    assert main([app if one == "app.py:pairs" else one for one in arguments]) == 0, capsys.readouterr().err


# what is honoured is used


class Noting:
    """Options that note which of them an engine looks at."""

    def __init__(self, options: Options) -> None:
        self.options, self.seen = options, set[str]()

    def __getattr__(self, name: str) -> Any:
        self.seen.add(name)
        if name == "mode":
            self.seen.add("until")
        return getattr(self.options, name)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs of clusters end where processes would be started."""

    rest = SimpleNamespace(check_version=lambda: None)
    monkeypatch.setattr(FlinkEngine, "_cluster", lambda *_, **__: nullcontext((rest, None)))
    monkeypatch.setattr(flink_run, "run_topics", lambda *_, **__: None)
    monkeypatch.setattr(spark_run, "run_live", lambda *_, **__: None)
    monkeypatch.setattr(spark_run, "run_latest", lambda *_, **__: {})
    monkeypatch.setattr(spark_environment, "kafka_jars", lambda _: [])


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("mode", [Mode.LIVE, Mode.LATEST])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_looks_at_each_option_that_it_honours_on_topics(name: str, mode: Mode, folder: Path) -> None:
    engine = engine_named(name)
    home = folder / "home"
    with closing(SqliteLog(home / "log.db")) as log:
        log.create("readings")
    asked = Noting(Options(until="latest" if mode is Mode.LATEST else None, duration=0.0))
    kafka = None if name == "embedded" else Cluster("127.0.0.1:9", (), "test")
    engine.run_topics(pairs(), Topics(kafka, "", lambda: SqliteLog(home / "log.db")), asked, Context(home))
    honoured = {option for option, one in engine.capabilities.options[mode].items() if isinstance(one, Honoured)} & {*Options.__dataclass_fields__}
    # Where no cluster is started, none is looked up; the embedded engine has one subtask, whatever the most.
    unseen = {"embedded": {"parallelism"}, "flink": {"cluster"}, "spark": set()}[name]
    assert honoured - unseen <= asked.seen


# the calls


def pairs(pipeline: str = "pairs") -> Any:
    from headrace.cli.apps import pipelines_of_file

    return pipelines_of_file(Path("app.py"))[pipeline].plan()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Options, Context]]:
    """Return an engine that is there, with the options and surroundings to run it."""
    if request.param == "flink":
        rest = request.getfixturevalue("flink")
        yield FlinkEngine(flink_parts.client()), Options(cluster=rest.url), Context(flink_parts.BUILD)
    elif request.param == "spark":
        if (why := spark_parts.missing()) is not None:
            pytest.skip(why)
        request.getfixturevalue("warm_spark")
        yield engine_named("spark"), Options(parallelism=2), Context(spark_parts.HOME)
    else:
        yield engine_named("embedded"), Options(), Context(Path("home"))


def test_each_engine_answers_the_same_calls_with_the_same_results(engine: tuple[Engine, Options, Context], folder: Path) -> None:
    which, options, context = engine
    printed = io.BytesIO()
    files = {"readings": [folder / "readings.ndjson"]}
    jobs = [
        FileJob(pairs(), files, folder / "out"),
        FileJob(pairs(), {"readings": [folder / "none.ndjson"]}, folder / "no"),
        FileJob(pairs(), files, printed),
    ]
    told = which.run_files(jobs, options, context)
    assert [type(one) if isinstance(one, Result) else isinstance(one, EnvironmentFault) for one in told] == [Result, True, Result], told
    row = {"k": "a", "v": 1.5, "t": RECORDS[0]["t"]}
    assert [json.loads(line) for line in printed.getvalue().splitlines()] == [row]
    assert [json.loads(line) for line in (folder / "out" / "pairs.ndjson").read_bytes().splitlines()] == [row]
    for result in (told[0], told[2]):
        assert {"received": 3, "accepted": 1, "malformed": 1, "filtered": 1}.items() <= dict(result.ledger["readings"]).items()
    assert [one.offset for one in told[0].reasons["readings"].commonest()] == [2]
    assert "none.ndjson" in str(told[1])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_shows_its_script_or_says_what_it_cannot_do(name: str) -> None:
    engine = engine_named(name)
    assert "pairs" in engine.script(pairs())
    if name == "embedded":
        assert "revised" in engine.script(pairs("revised"))
        return
    with pytest.raises(PlanError, match="lateness") as told:
        engine.script(pairs("revised"))
    (one,) = engine.run_files([FileJob(pairs("revised"), {"readings": [Path("readings.ndjson")]}, Path("out"))], Options(), Context(Path("home")))
    assert isinstance(one, HeadraceError)
    assert str(one) == str(told.value)
    assert not Path("home").exists(), "nothing is started"
