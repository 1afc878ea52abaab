"""A topic mirrored into another log: nothing lost, nothing twice, the order kept in each partition, whatever fails."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from outside import LIMIT, SEEDS, FaultyLog, run_with_kills, values_of

from broker import Shared, kafka
from headrace.cli import main
from headrace.cli.bridge import source_of, target_of
from headrace.connectors import forward, inflow, ingest
from headrace.connectors.forward import Forward
from headrace.connectors.ingest import Ingest, position_before
from headrace.connectors.mirror import Mirror
from headrace.connectors.protocol import Source
from headrace.errors import EnvironmentFault
from headrace.topics.protocol import Away, Log
from headrace.topics.sqlite import SqliteLog
from ports import free_port

__all__ = ["kafka"]

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "site" / "log.db")) as one:
        yield one


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path / "centre" / "log.db")) as one:
        yield one


def value(number: int) -> bytes:
    return b'{"n":%d}' % number


def grow(log: Log, first: int, count: int, topic: str = "readings", partitions: int = 3) -> None:
    if topic not in {info.name for info in log.topics()}:
        log.create(topic, partitions)
    numbers = range(first, first + count)
    log.append(topic, [value(number) for number in numbers], [f"tag {number % 7}".encode() for number in numbers])


def content(log: Log, topic: str = "readings") -> list[list[tuple[bytes | None, bytes]]]:
    """Return keys and values of each partition, in their order."""
    return [[(entry.key, entry.value) for entry in log.entries(topic, info.number, info.first, 1_000_000)] for info in log.topic(topic).partitions]


def mirror(log: SqliteLog, topic: str = "readings") -> Mirror:
    """Return a topic as a source that ends where the topic ends."""
    one = Mirror(f"topic:{topic}", topic, lambda: SqliteLog(log.path))
    one.latest = True
    return one


def run(log: Any, source: Source, topic: str = "readings", **options: Any) -> int:
    with closing(Ingest(log, source, topic, **({"told": lambda _: None} | options))) as one:
        return asyncio.run(asyncio.wait_for(one.run(), LIMIT))


class FaultyFeeds:
    """A log that cannot be read now and then, as dice say."""

    def __init__(self, log: Log, dice: Random, faults: float) -> None:
        self._log, self._dice, self._faults = log, dice, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def feed(self, *topics: Any, **options: Any) -> Any:
        if self._dice.random() < self._faults:
            raise Away("does not answer", where="the site")
        feed = self._log.feed(*topics, **options)
        fetch = feed.fetch

        def faulty(most: int | None = None) -> bool:
            if self._dice.random() < self._faults:
                raise Away("does not answer", where="the site")
            return fetch(most)

        feed.fetch = faulty  # type: ignore[method-assign]
        return feed


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_fails_the_centre_has_what_the_site_has(site: SqliteLog, centre: SqliteLog, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflow, "MOST_RECORDS", 40)
    monkeypatch.setattr(inflow, "AHEAD", 15)
    monkeypatch.setattr(ingest, "_TICK_SECONDS", 0.01)
    monkeypatch.setattr(Mirror, "batch_seconds", 0.004)
    monkeypatch.setattr(Mirror, "pause_seconds", 0.001)
    dice = Random(seed)
    faulty = FaultyLog(centre, Random(seed), 0.4)
    grow(site, 0, 300)
    for count in (0, 200, 1):
        grow(site, 1000 * count, count) if count else None
        source = mirror(site)
        source._opened = lambda: FaultyFeeds(SqliteLog(site.path), dice, 0.3)  # type: ignore[assignment,return-value]
        run(faulty, source)
        assert content(centre) == content(site)
    assert faulty.failed
    known = position_before(centre, "readings")
    assert known is not None
    assert (known.passed, known.duplicate, known.malformed) == (501, 0, 0)


def test_partitions_that_the_centre_does_not_have_keep_their_order(site: SqliteLog, centre: SqliteLog) -> None:
    grow(site, 0, 200)
    centre.create("all", 2)
    run(centre, mirror(site), "all")
    first, second, third = content(site)
    found = content(centre, "all")
    assert found[1] == second
    assert [one for one in found[0] if one in first] == first
    assert [one for one in found[0] if one in third] == third
    assert len(found[0]) == len(first) + len(third)


def test_what_retention_took_is_reported_and_the_rest_follows(tmp_path: Path, centre: SqliteLog) -> None:
    now, told = 1_700_000_000_000, list[str]()
    with closing(SqliteLog(tmp_path / "old" / "log.db", clock=lambda: now)) as old:
        grow(old, 0, 50, partitions=1)
        run(centre, mirror(old))
        grow(old, 50, 50)
        now += 2000
        grow(old, 100, 50)
        old.alter("readings", retention_ms=1000, retention_bytes=None)
        run(centre, mirror(old), told=told.append)
        known = position_before(centre, "readings")
        assert known is not None
        assert known.ledger == {"received": 150, "accepted": 100, "malformed": 0, "duplicate": 0, "shed": 50}
        assert run(centre, mirror(old)) == 0
        assert position_before(centre, "readings") == known
    assert told == ["topic:readings: partition 0: records 50 to 99 are gone, by retention: they are not mirrored"]
    assert values_of(centre, "readings") == [value(number) for number in [*range(50), *range(100, 150)]]


@pytest.mark.parametrize("partitions", [3, 1])
def test_a_topic_that_was_created_again_is_not_taken_for_the_one_before(site: SqliteLog, centre: SqliteLog, partitions: int) -> None:
    """It may have more records than were mirrored, and then the first of them would be missing."""
    grow(site, 0, 20)
    run(centre, mirror(site))
    before = content(centre)
    site.delete("readings")
    grow(site, 100, 200, partitions=partitions)
    with pytest.raises(EnvironmentFault, match="has been deleted and created again since its records were mirrored"):
        run(centre, mirror(site))
    assert content(centre) == before
    run(centre, mirror(site), anew=True)
    assert sorted(values_of(centre, "readings")) == sorted([*map(value, range(20)), *map(value, range(100, 300))])
    assert run(centre, mirror(site)) == 0


def test_records_that_a_log_cannot_have_are_dead_letters(site: SqliteLog, centre: SqliteLog) -> None:
    class Odd(Mirror):
        async def decoded_(self, given: bytes) -> bytes:
            return {b"1": b"", b"2": b"a\nb", b"3": b'{"n":\n3}'}.get(given, given)

    site.create("odd", 1)
    site.append("odd", [b"0", b"1", b"2", b"3", b"4"])
    source = Odd("topic:odd", "odd", lambda: SqliteLog(site.path))
    source._decoded, source.latest = source.decoded_, True
    run(centre, source, "odd")
    assert values_of(centre, "odd") == [b"0", b'{"n":\r3}', b"4"]
    assert [json.loads(one)["detail"] for one in values_of(centre, "odd.dead-letter")] == [
        "partition 0 offset 1: is empty", "partition 0 offset 2: has a line feed, and is not JSON",
    ]  # fmt: skip


def test_a_topic_that_grows_is_mirrored_as_it_grows(site: SqliteLog, centre: SqliteLog) -> None:
    grow(site, 0, 10)
    source, grown = mirror(site), list[int]()
    source.latest = False

    def stop() -> bool:
        count = len(values_of(centre, "readings")) if centre.topics() else 0
        if count == 10 and not grown:
            grow(site, 10, 10)
            grown.append(count)
        return count >= 20

    with closing(Ingest(centre, source, "readings", told=lambda _: None)) as one:
        asyncio.run(asyncio.wait_for(one.run(stop), LIMIT))
    assert content(centre) == content(site)


def test_the_command_mirrors_a_topic(
    site: SqliteLog, kafka: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SQLite to Kafka, Kafka to another topic of Kafka, and back."""
    from headrace.topics.kafka import KafkaLog

    for name in ("KAFKA_SERVERS", "KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_TOPIC_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(site.path.parent))
    one, two = f"one-{uuid.uuid4().hex}", f"two-{uuid.uuid4().hex}"
    grow(site, 0, 500)
    servers = ["--kafka-servers", kafka.servers]
    assert main(["bridge", "topic:readings", f"kafka:{one}", *servers, "--until", "latest"]) == 0
    assert f"headrace bridge: topic:readings → kafka:{one}, from the first event" in capfd.readouterr().out
    assert main(["bridge", f"kafka:{one}", f"kafka:{two}", *servers, "--until", "latest"]) == 0
    assert main(["bridge", f"kafka://{kafka.servers}/{two}", "topic:back", "--until", "latest"]) == 0
    with closing(KafkaLog(kafka.servers, tmp_path / "kafka")) as log:
        assert content(log, one) == content(log, two) == content(site) == content(site, "back")
    grow(site, 500, 1)
    assert main(["bridge", "topic:readings", f"kafka:{one}", *servers, "--until", "latest"]) == 0
    assert "headrace: 1 records brought over" in capfd.readouterr().err
    for arguments, says in (
        (["topic:a", "topic:a"], "TO: cannot be bridged to topic:a, itself; name another topic, or another log"),
        (["topic:a", "topic:b", "--name", "x"], "--name: is only for a bridge from a topic to a target; leave it out"),
        (["topic:readings", "topic:b", "--key", "n"], "topic:readings: parameter key is not for a source with partitions"),
        (["kafka://nowhere", "topic:b"], "FROM: is not the address of a topic of Kafka; give an address such as kafka://127.0.0.1:9092/readings"),
        (["kafka://a:1/t?registy=x", "topic:b"], "FROM: has no parameter 'registy'; did you mean 'registry'?"),
    ):
        assert main(["bridge", *arguments]) == 2
        assert says in capfd.readouterr().err


def test_a_topic_is_not_mirrored_into_itself_by_its_address(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", "site.")
    for address in ("kafka://127.0.0.1:1/site.t", "kafka://127.0.0.1:1/site.t?registry=http://127.0.0.1:1"):
        assert main(["bridge", address, "kafka:t", "--kafka-servers", "127.0.0.1:1"]) == 2
        assert "TO: cannot be bridged to kafka:t, itself; name another topic, or another log" in capsys.readouterr().err


CHILD = """
import sys
from forking import begin
from headrace.cli import main
begin()
sys.exit(main(["bridge", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
def test_kill_9_at_any_moment_loses_and_repeats_nothing(
    site: SqliteLog, kafka: Shared, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.topics.kafka import KafkaLog

    monkeypatch.setenv("HEADRACE_HOME", str(site.path.parent))
    topic = f"centre-{uuid.uuid4().hex}"
    grow(site, 0, 20_000)
    arguments = ["topic:readings", f"kafka:{topic}", "--kafka-servers", kafka.servers, "--until", "latest"]
    run_with_kills(CHILD, *arguments, dice=Random(seed), longest=0.6)
    with closing(KafkaLog(kafka.servers, tmp_path / "kafka")) as log:
        assert content(log, topic) == content(site)


TOKEN = "a-token-of-some-length"


class Link:
    """A connection between two sites that breaks as dice say: before a request, or after it, so that its answer is lost."""

    def __init__(self, port: int, dice: Random, faults: float) -> None:
        self._to, self._dice, self._faults, self.cuts = port, dice, faults, 0

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            far, on = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            back.close()
            return
        try:
            await asyncio.wait(
                [asyncio.create_task(self._carry(near, on)), asyncio.create_task(self._carry(far, back))], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for writer in (on, back):
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self._dice.random() < self._faults:
                    self.cuts += 1
                    return
                writer.write(data)
                await writer.drain()


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_over_http_a_link_that_breaks_loses_and_repeats_nothing(
    site: SqliteLog, centre: SqliteLog, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site posts each record with its key, the centre remembers the keys, and both are opened again now and then."""
    monkeypatch.setattr(Source, "batch_seconds", 0.004)
    monkeypatch.setattr(forward, "_TICK_SECONDS", 0.001)
    monkeypatch.setattr(ingest, "_TICK_SECONDS", 0.005)
    dice, port = Random(seed), free_port()
    grow(site, 0, 80, partitions=1)
    links = [Link(port, dice, 0.05) for _ in range(3)]

    async def send(link: Link, most: int | None) -> None:
        done = False
        with closing(Ingest(centre, source_of(f"http+post://127.0.0.1:{port}/in?token={TOKEN}"), "readings", told=lambda _: None)) as receiving:
            received = asyncio.create_task(receiving.run(lambda: done))
            async with link as near:
                target = target_of(f"http+out://127.0.0.1:{near}/in?body=record&token={TOKEN}")
                target.name = "http+out://the-centre/in"  # the port of a link is another each time
                with closing(Forward(site, "readings", target, "to centre", latest=True, told=lambda _: None)) as sending:
                    await sending.run(records=most)
            done = True
            await received

    for link, most in zip(links, (20, 15, None), strict=True):
        asyncio.run(asyncio.wait_for(send(link, most), LIMIT))
    assert values_of(centre, "readings") == values_of(site, "readings")
    assert sum(link.cuts for link in links) > 2
