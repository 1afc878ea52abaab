"""A Flink cluster under live jobs: its task managers and workers are killed, it goes away whole, or its disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from broker import Shared
from conformance.engine import Outcome
from flink import BUILD, JAVA, PATIENT, client, missing
from headrace.cli import main
from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.run import run_topics, submit, wait
from headrace.engines.flink.script import flink_script
from headrace.errors import HeadraceError

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

import test_process  # noqa: E402
import test_rules_live  # noqa: E402
from flink_topics import LIMIT, wait_for, workers  # noqa: E402
from test_flink import PLAN, Topics, lines, same  # noqa: E402
from test_process import CHAIN, linked  # noqa: E402
from test_rules_live import PLAN as RULES  # noqa: E402
from test_rules_live import parts  # noqa: E402


@pytest.fixture
def topics(kafka: Shared, tmp_path: Path) -> Iterator[Topics]:
    made = Topics(kafka.servers, tmp_path / "home", PLAN, 2)
    with closing(made.log):
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster that tests may kill: they leave it whole. Nothing of it stays behind when it ends."""
    if (why := missing()) is not None:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, fetched(BUILD, kafka=True), Sizes(slots=2, managed=512, heap=768), JAVA, PATIENT) as made:
        yield made
        pids = list(made.pids.values())
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    wait_for(lambda: not workers(folder))


def drain(cluster: Cluster, job: str, folder: Path) -> None:
    """Stop a job with a savepoint in a folder, and wait for its end and that of its workers."""
    request = cluster.rest.savepoint(job, f"file://{folder}/savepoints", stop=True, drain=True)
    wait_for(lambda: cluster.rest.savepoint_at(job, request))
    wait(cluster.rest, job)
    wait_for(lambda: not workers(cluster.folder))


def running(cluster: Cluster) -> str:
    """Return the one job that runs."""
    (job,) = [one["jid"] for one in cluster.rest.jobs() if one["state"] == "RUNNING"]
    return str(job)


class Running:
    """A live run in a thread of its own."""

    def __init__(self, topics: Topics, cluster: Cluster, kept: Path) -> None:
        self.error: HeadraceError | None = None
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(topics, cluster, kept), daemon=True)
        self._thread.start()

    def _run(self, topics: Topics, cluster: Cluster, kept: Path) -> None:
        try:
            run_topics(PLAN, topics.places(idle_after_ms=None), cluster.rest, kept, drain=True, stop=self.stop.is_set, seconds=LIMIT)
        except HeadraceError as error:
            self.error = error

    def said(self) -> str | None:
        """Wait for its end, and return the error that it says, if any."""
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        return None if self.error is None else str(self.error)


def checkpoints(kept: Path) -> set[Path]:
    """Return the whole checkpoints."""
    return {*kept.glob("checkpoints/*/chk-*/_metadata")}


def test_a_cluster_that_was_killed_whole_goes_on_from_its_last_checkpoint(
    topics: Topics, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, kept = lines(6, 3000), tmp_path / "kept"

    def status(job: str) -> str:
        assert main(["jobs", "status", job, "--cluster", cluster.rest.url]) != 0
        return capsys.readouterr().err.strip()

    topics.send(records[:1500])
    run = Running(topics, cluster, kept)
    wait_for(lambda: topics.rows("fingerprint-output"))
    before = checkpoints(kept)
    wait_for(lambda: checkpoints(kept) - before)  # with what it has read
    job = running(cluster)
    topics.send(records[1500:2000])
    cluster.end()
    said = run.said() or "nothing"
    assert "no Flink cluster answers there" in said
    assert said.endswith("start it, and run it again: it goes on from its last checkpoint")
    assert "no Flink cluster answers there" in status(job)

    cluster.start()
    assert f"no job begins with '{job}'" in status(job)
    topics.send(records[2000:])
    seen = len(topics.rows("fingerprint-output"))
    run_topics(PLAN, topics.places(idle_after_ms=None), cluster.rest, kept, stop=lambda: len(topics.rows("fingerprint-output")) > seen, seconds=LIMIT)
    run_topics(PLAN, topics.places(idle_after_ms=None), cluster.rest, kept, stop=topics.all_counted, drain=True, seconds=LIMIT)
    got, expected = topics.outcome(), topics.expected(tmp_path)
    same(Outcome(got.written, got.dead, {}), Outcome(expected.written, expected.dead, {}))


@contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """Have a folder be a disk of 1 MB."""
    at.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(at)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}; run the test as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def test_a_full_disk_under_the_checkpoints_is_named_and_the_job_goes_on_when_there_is_room(
    topics: Topics, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    records = lines(7, 1500)
    with small_disk(kept / "checkpoints"):
        topics.send(records[:700])
        run = Running(topics, cluster, kept)
        wait_for(lambda: checkpoints(kept))
        filling = kept / "checkpoints" / "filling"
        job = running(cluster)

        def cause() -> str | None:  # a checkpoint that was under way makes room again where the one before it was
            with filling.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(1024))
            return cluster.rest.cause(job)

        wait_for(cause)
        assert main(["jobs", "status", job, "--cluster", cluster.rest.url]) == 0
        (cause,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cause ")]
        assert "no checkpoint can be made" in cause
        assert "look whether their disk is full or cannot be written" in cause

        filling.unlink()
        topics.send(records[700:])
        seen = len(topics.rows("fingerprint-output"))
        wait_for(lambda: len(topics.rows("fingerprint-output")) > seen)
        wait_for(topics.all_counted)
        run.stop.set()
        assert run.said() is None
    got, expected = topics.outcome(), topics.expected(tmp_path)
    same(Outcome(got.written, got.dead, {}), Outcome(expected.written, expected.dead, {}))


def test_a_task_manager_killed_under_load_loses_and_repeats_nothing(cluster: Cluster, topics: Topics, tmp_path: Path) -> None:
    records = lines(4, 6000)
    job = submit(cluster.rest, flink_script(PLAN, topics.places(kept=str(tmp_path / "kept"))))
    for number, place in enumerate(range(0, len(records), 1000)):
        seen = len(topics.rows("sensor-data.dead-letter"))
        topics.send(records[place : place + 1000])
        if number == 2:  # the job of rules, below, is killed twice
            cluster.kill_manager()
            cluster.start_manager()
            wait_for(lambda: cluster.rest.state(job) == "RUNNING")
        wait_for(lambda seen=seen: len(topics.rows("sensor-data.dead-letter")) > seen)
    expected = topics.expected(tmp_path)
    wait_for(lambda: len(topics.rows("sensor-data.dead-letter")) >= len(expected.dead["sensor-data"]))
    drain(cluster, job, tmp_path)
    got = topics.outcome()
    same(Outcome(got.written, got.dead, {}), Outcome(expected.written, expected.dead, {}))


@pytest.mark.long  # under rules, which are a process, it is killed with a worker below
def test_a_task_manager_killed_under_processes_loses_and_repeats_nothing(cluster: Cluster, kafka: Shared, tmp_path: Path) -> None:
    records = linked(6000)
    topics = test_process.Topics(kafka.servers, tmp_path / "home", CHAIN, 2)
    with closing(topics.log):
        job = submit(cluster.rest, flink_script(CHAIN, topics.places(kept=str(tmp_path / "kept"))), client=client())
        for number, place in enumerate(range(0, len(records), 1000)):
            topics.send(records[place : place + 1000])
            if number == 2:
                seen = len(topics.rows("linked"))
                wait_for(lambda seen=seen: len(topics.rows("linked")) > seen)
                kill(cluster)
                wait_for(lambda: cluster.rest.state(job) == "RUNNING")
        wait_for(lambda: len(topics.rows("linked")) > 5500)
        drain(cluster, job, tmp_path)
        topics.check(tmp_path)


def kill(cluster: Cluster) -> None:
    """Kill the task manager, whose workers end with it, and start it again."""
    before = workers(cluster.folder)
    assert before
    cluster.kill_manager()
    wait_for(lambda: not {*before} & {*workers(cluster.folder)})
    cluster.start_manager()


def tend(cluster: Cluster) -> None:
    """Start the task manager again if it has died, as whoever runs a cluster does: RocksDB, closed under a worker that still asks for state, can crash it."""
    if Path(f"/proc/{cluster.pids['taskmanager-0']}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
        cluster.kill_manager()
        cluster.start_manager()


def test_rules_whose_worker_and_task_manager_are_killed_lose_and_repeat_nothing(cluster: Cluster, kafka: Shared, tmp_path: Path) -> None:
    topics = test_rules_live.Topics(kafka.servers, tmp_path / "home", RULES, 2)
    with closing(topics.log):
        script = flink_script(RULES, topics.places(idle_after_ms=None, parallelism=2, kept=str(tmp_path / "kept")))
        job = submit(cluster.rest, script, client=client())
        for number, (limits, readings) in enumerate(parts(4, 100)):
            topics.send(limits, readings)
            if number in (1, 2):
                seen = len(topics.rows("kiln-events"))
                wait_for(lambda seen=seen: tend(cluster) or len(topics.rows("kiln-events")) > seen)
                if number == 1:
                    os.kill(workers(cluster.folder)[0], signal.SIGKILL)
                else:
                    kill(cluster)
        wait_for(lambda: tend(cluster) or topics.all_counted())
        assert len(cluster.rest.ask(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]) >= 2
        drain(cluster, job, tmp_path)
        topics.check(tmp_path)
