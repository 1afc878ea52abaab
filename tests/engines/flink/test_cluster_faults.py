"""A Flink cluster that goes away whole, or whose disk is full, under a live job."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from broker import Shared
from conformance.engine import Outcome
from flink import BUILD, JAVA, PATIENT, missing
from headrace.cli import main
from headrace.engines.flink.cluster import Cluster, Sizes, fetched
from headrace.engines.flink.run import run_topics
from headrace.errors import HeadraceError

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

from flink_topics import LIMIT, wait_for  # noqa: E402
from test_flink import PLAN, Topics, lines, same  # noqa: E402


@pytest.fixture
def topics(kafka: Shared, tmp_path: Path) -> Iterator[Topics]:
    made = Topics(kafka.servers, tmp_path / "home", PLAN, 2)
    with closing(made.log):
        yield made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if (why := missing()) is not None:
        pytest.skip(why)
    with Cluster(tmp_path / "cluster", fetched(BUILD, kafka=True), Sizes(managed=256, heap=512), JAVA, PATIENT) as made:
        yield made


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
    running = Running(topics, cluster, kept)
    wait_for(lambda: topics.rows("fingerprint-output"))
    before = checkpoints(kept)
    wait_for(lambda: checkpoints(kept) - before)  # with what it has read
    (job,) = [one["jid"] for one in cluster.rest.jobs()]
    topics.send(records[1500:2000])
    cluster.end()
    said = running.said() or "nothing"
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
        running = Running(topics, cluster, kept)
        wait_for(lambda: checkpoints(kept))
        filling = kept / "checkpoints" / "filling"
        (job,) = [one["jid"] for one in cluster.rest.jobs()]

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
        running.stop.set()
        assert running.said() is None
    got, expected = topics.outcome(), topics.expected(tmp_path)
    same(Outcome(got.written, got.dead, {}), Outcome(expected.written, expected.dead, {}))
