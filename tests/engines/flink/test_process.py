"""Processes on a real Flink give what the embedded engine gives; live ones are stopped and started again."""

from __future__ import annotations

import json
import random
import re
import sys
import types
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import flink_processes
import pytest

import headrace as hr
from broker import Shared
from conformance.engine import Outcome, differences, left
from flink import client
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.entries import added_up
from headrace.engines.flink.rest import JobFailed, Rest
from headrace.engines.flink.run import run_files, run_topics
from headrace.engines.folder_jobs import FolderJob
from headrace.plan.pipeline import Plan

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

import flink_topics  # noqa: E402
from flink_topics import LIMIT, jobs_command, wait_for  # noqa: E402

START = 1_706_123_400_000
CHAIN = flink_processes.chain.plan()
RECHAINED = hr.pipeline("chain", version="1")(lambda: flink_processes.chain_of(flink_processes.Rechained)).plan()


def write(path: Path, records: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records), encoding="utf-8")
    return path


def messy(seed: int, count: int) -> list[Any]:
    """Return readings of which many are late, of equal times, of no key, failing or malformed."""
    dice, time, found = random.Random(seed), START, []
    for number in range(count):
        time += dice.choice([0, 0, 300, 500, 1000, 4000])
        found.append(
            {
                "id": dice.choice(["a", "b", None, "cü"]),
                "t": time - dice.choice([0, 0, 0, 0, 1000, 2000, 2500, 6000]),
                "x": 99.5 if dice.random() < 0.03 else dice.choice([None, dice.uniform(-5, 98), 0.1, 5, -1e-300]),
                "name": dice.choice(["n", "m", None, "skip"]),
                "big": dice.choice([None, 2**63 - 1, -(2**63), 3]),
                "at": dice.choice([None, "2024-01-24T19:10:01.500Z", "1969-12-31T23:59:59.999Z"]),
                "times": dice.choice([None, [], ["2024-01-24T19:10:01.5Z", None]]),
                "m": {key: dice.choice([None, dice.random()]) for key in sorted(dice.sample(["p", "q", "s"], 2))},
            }
        )
        if number % 100 == 50:
            found.append('{"id": 3, "t": "x"}')
    return found


def rules(seed: int, count: int) -> list[Any]:
    dice, time, found = random.Random(seed), START, []
    for _ in range(count):
        time += dice.choice([0, 3000, 10_000, 20_000])
        found.append({"name": dice.choice(["n", "m"]), "t": time - dice.choice([0, 0, 1000, 9000]), "limit": dice.choice([1, 2, 3, None])})
    return found


def both(plan: Plan, inputs: dict[str, list[Path]], folder: Path, flink: Rest, parallelism: int) -> tuple[Outcome, Outcome]:
    """Return what Flink gives and what the embedded engine gives."""
    for name in ("got", "expected"):
        (folder / name).mkdir()
    run_embedded(plan, inputs, folder / "expected")
    run_files(FolderJob(plan, inputs, folder / "got"), flink, client=client(), parallelism=parallelism)
    return left(folder / "got", inputs), left(folder / "expected", inputs)


@pytest.mark.parametrize(("partitions", "parallelism"), [(1, 1), (2, 2)])
def test_files_give_what_the_embedded_engine_gives(flink: Rest, tmp_path: Path, partitions: int, parallelism: int) -> None:
    inputs = {
        "readings": [write(tmp_path / "in" / f"{number}.ndjson", messy(number, 300)) for number in range(partitions)],
        "rules": [write(tmp_path / "in" / "rules.ndjson", rules(7, 40))],
    }
    got, expected = both(flink_processes.watching.plan(), inputs, tmp_path, flink, parallelism)
    assert not (found := differences(got, expected)), "\n".join(found[:5])
    assert all(expected.written[topic] for topic in ("watched", "quiet", "many", "each", "failed"))
    assert {row["topic"] for row in expected.written["failed"]} == {"readings", "rules"}
    assert expected.ledger["readings"]["late"]
    assert expected.ledger["readings"]["malformed"]
    assert {row["id"] for row in got.written["watched"]} == {"a", "b", None, "cü"}


def test_a_single_file_whose_clock_moves_with_each_record(flink: Rest, tmp_path: Path) -> None:
    """Reckoned by hand: delay 1 s, a timer 5 s after the last record of a key, time ends with the last event."""
    records = [
        {"key": "a", "t": START, "number": 0},
        {"key": None, "t": START + 4000, "number": 0},
        {"key": "a", "t": START + 3500, "number": 1},
        {"key": "a", "t": START + 2999, "number": 9},  # late: the watermark is at + 3000
        {"key": "a", "t": START + 3000, "number": 2},  # not late, and before the one above it
        {"key": None, "t": START + 9000, "number": 1},
        {"key": None, "t": START + 8500, "number": 2},
    ]
    (tmp_path / "out").mkdir()
    paths = {"numbers": [write(tmp_path / "numbers.ndjson", records)]}
    ledger = run_files(FolderJob(CHAIN, paths, tmp_path / "out"), flink, client=client())
    written = left(tmp_path / "out", ["numbers"]).written
    linked = sorted((row["key"] or "", row["n"], row["number"]) for row in written["linked"])
    assert linked == [("", 1, 0), ("", 2, 2), ("", 3, 1), ("a", 1, 0), ("a", 2, 2), ("a", 3, 1)]
    # That of `a` is at + 8500, that of no key's first record at + 9000; that of its last is behind the end.
    assert sorted((row["key"] or "", row["since"] - START) for row in written["silent"]) == [("a", 3500)]
    assert (ledger["numbers"]["accepted"], ledger["numbers"]["late"]) == (6, 1)


@pytest.mark.parametrize(
    ("x", "limit_ms", "said"),
    [
        pytest.param(
            3,
            10_000,
            r"^Flink job \w+: process raises, readings/0 offset 1, key id 'k', time .* Raises.on_record raised ValueError: it is three at ",
            marks=pytest.mark.long,  # as a live job does, below
        ),
        (4, 1000, r"Raises.on_record does not end within 1 s.*failed_to="),
    ],
)
def test_a_process_that_raises_ends_the_job(flink: Rest, tmp_path: Path, x: int, limit_ms: int, said: str) -> None:
    records = [{"id": "k", "t": START + number, "x": one} for number, one in enumerate([1, x, 2])]
    job = FolderJob(flink_processes.raising.plan(limit_ms=limit_ms), {"readings": [write(tmp_path / "r.ndjson", records)]}, tmp_path)
    with pytest.raises(JobFailed, match=said):
        run_files(job, flink, client=client())


class Failed(Rest):
    """A cluster whose job restarts, and has failed for good when it is to be cancelled: that cannot be provoked on a real one."""

    def ask(self, path: str, method: str = "GET", body: Any = None, *, seconds: float = 30) -> Any:  # noqa: ARG002
        if method == "PATCH":
            raise JobFailed("RestHandlerException: Job cancellation failed because the job has already reached another terminal state (FAILED).")
        if path.endswith("/status"):
            return {"status": "RESTARTING"}
        return {"exceptionHistory": {"entries": [{"stacktrace": "headrace.errors.ProcessError: process raises: it is three"}]}}


def test_a_job_that_has_failed_before_it_is_cancelled_tells_its_cause() -> None:
    with pytest.raises(JobFailed, match=r"^Flink job abc: process raises: it is three$"):
        Failed("http://127.0.0.1:9").ended("abc")


def test_code_that_the_cluster_lacks_is_named(flink: Rest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = types.ModuleType("nowhere_else")
    lacking = type("Lacking", (flink_processes.Raises,), {"__module__": "nowhere_else"})
    nowhere.Lacking = lacking  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nowhere_else", nowhere)
    plan = hr.pipeline("lacking", version="1")(lambda: {"never": flink_processes.readings().process(lacking, by=["id"])}).plan()
    paths = {"readings": [write(tmp_path / "r.ndjson", [{"id": "k", "t": START}])]}
    with pytest.raises(JobFailed, match=r"needs module 'nowhere_else', which the cluster lacks; install 'nowhere_else'"):
        run_files(FolderJob(plan, paths, tmp_path), flink, client=client())


# Kafka


class Topics(flink_topics.Topics):
    """The topics of the chain."""

    def send(self, records: Sequence[Any]) -> None:
        self.log.append(f"{self.prefix}numbers", [json.dumps(one).encode() for one in records], [one["key"].encode() for one in records])

    def check(self, folder: Path) -> None:
        """See that what was written is what the embedded engine makes of the same partitions, and in the order of each key."""
        paths = [write(folder / "in" / f"{number}.ndjson", [one.decode() for one in self.values("numbers", number)]) for number in range(2)]
        (folder / "expected").mkdir()
        run_embedded(CHAIN, {"numbers": paths}, folder / "expected")
        expected = left(folder / "expected", ["numbers"])
        got = {topic: self.rows(topic) for topic in ("linked", "silent")}
        found = differences(Outcome(got, {}, {}), Outcome({topic: expected.written[topic] for topic in got}, {}, {}))
        assert not found, "\n".join(found[:5])
        assert got["silent"]
        by_key: dict[str, list[int]] = defaultdict(list)
        for partition in range(2):
            for value in map(json.loads, self.values("linked", partition)):
                by_key[value["key"]].append(value["number"])
        assert all(numbers == list(range(len(numbers))) for numbers in by_key.values())


def linked(count: int) -> list[Any]:
    """Return records of seven keys in an order that is a little out, with a silence now and then."""
    dice, numbers, found = random.Random(3), Counter[str](), []
    for number in range(count):
        key = f"k{dice.randrange(7)}"
        found.append({"key": key, "t": START + number * 50 + number // 400 * 8000, "number": numbers[key]})
        numbers[key] += 1
    for place in range(0, len(found) - 1, 4):
        found[place], found[place + 1] = found[place + 1], found[place]
    return found


@pytest.fixture
def topics(kafka: Shared, tmp_path: Path) -> Iterator[Topics]:
    made = Topics(kafka.servers, tmp_path / "home", CHAIN, 2)
    with closing(made.log):
        yield made


def test_a_live_run_that_is_stopped_goes_on_where_it_was(flink: Rest, topics: Topics, tmp_path: Path) -> None:
    """Not with state of another type than it has kept, unless that is of another version: then nothing is changed."""
    records = linked(2400)
    topics.send(records[:1000])
    run_topics(CHAIN, topics.places(), flink, tmp_path / "kept", client=client(), stop=lambda: bool(topics.rows("linked")), seconds=LIMIT)
    topics.send(records[1000:])
    with pytest.raises(JobFailed, match=r"state_version 1 has kept 'n' off its type: .*state_version = 2"):
        run_topics(RECHAINED, topics.places(), flink, tmp_path / "kept", client=client(), seconds=LIMIT)
    run_topics(CHAIN, topics.places(), flink, tmp_path / "kept", client=client(), stop=topics.all_counted, drain=True, seconds=LIMIT)
    topics.check(tmp_path)
    assert topics.rows("ticks")
    assert added_up(CHAIN, topics.rows("chain.ledger"))["numbers"]["received"] == 2400


def test_why_a_job_of_a_cluster_fails_is_told(
    flink: Rest, kafka: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alarms.py").write_text(Path(flink_processes.__file__).read_text())
    monkeypatch.chdir(tmp_path)
    topics = flink_topics.Topics(kafka.servers, tmp_path / "home", flink_processes.raising.plan(), 1)
    run = jobs_command(flink, topics, tmp_path / "home", monkeypatch, capsys)

    with closing(topics.log):
        records = [{"id": "k", "t": START, "x": 3}, {"id": "k", "t": START + 10_000, "x": 1}]
        topics.log.append(f"{topics.prefix}readings", [json.dumps(one).encode() for one in records], [b"k"] * 2)
        job = run("submit", "alarms.py:raising", "--engine", "flink", "--kafka-servers", kafka.servers, "--max-ahead", "never")
        wait_for(lambda: "cause " in run("status", job))
        assert re.search(
            r"^cause +process raises, readings/0 offset 0, key id 'k', .* raised ValueError: it is three at .*alarms.py:",
            run("status", job),
            re.MULTILINE,
        )
        assert "ProcessError" in run("logs", job)
        assert run("cancel", job, "--timeout", "60s") in {f"{job}: CANCELED", f"{job}: FAILED"}
