"""Windows and processes behind processes, processes behind windows, and streams parted and joined, on a real Flink: what the embedded engine gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from broker import Shared
from conformance.engine import Outcome, differences, left
from engines.embedded.chains import layered, machine, over_windows, records, source, to_one
from engines.embedded.test_processes import chained, written_files
from flink import client
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.entries import added_up
from headrace.engines.flink.rest import Rest
from headrace.engines.flink.run import run_many, run_topics
from headrace.engines.folder_jobs import FolderJob
from headrace.plan.pipeline import Plan
from keeper import once

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the package confluent-kafka is not installed")

from flink_topics import LIMIT, Topics  # noqa: E402


def made(topic: str = "one", name: str = "first") -> Any:
    return machine(source(topic).select("k", "x", "do"), name)


def of_many_keys() -> dict[str, hr.Stream]:
    """Rows of many keys come to one, by every way that there is."""
    first = made()
    aside = first.side("aside")
    joined = machine(to_one(aside.where("said <> 'y'").union(first, aside.derive(said="'again ' || said"))), "joined")
    return {
        "behind": machine(to_one(first), "behind"),
        "beside": machine(to_one(aside), "beside"),
        "joined": joined,
        "third": machine(to_one(joined.where("at % 2 = 0 OR at % 1000 = 0")), "third"),
    }


def of_windows() -> dict[str, hr.Stream]:
    """Windows, what is gathered of them and their first rows go into processes, and on from there."""
    rows = source()
    counts = rows.window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)")
    sliding = rows.window(hr.sliding(hr.seconds(6), hr.seconds(2)), by=["k", "do"]).aggregate(n="COUNT(*)", x="MAX(x)")
    all_ = counts.aggregate(by=[], n="SUM(n)").derive(at="EPOCH_MS(window_end)").select(k="'all'", x="n * 1.0", do="'timer:3000:p'")
    top = counts.top_n(2, order="n DESC")
    behind = machine(to_one(counts.where("n > 1"), "TRY_CAST(n AS STRING)").derive(do="'timer:1500:q ' || do"), "counted")
    slid = machine(to_one(sliding, "COALESCE(do, '')"), "slid")
    return {
        "counted": behind,
        "twice": machine(to_one(behind), "twice"),
        "slid": slid,
        "slid-on": machine(to_one(slid.where("at % 4000 <> 1999")).derive(do="'timer:2500:p ' || do"), "slid_on"),
        "gathered": machine(all_, "gathered"),
        "top": machine(to_one(top, "TRY_CAST(rank AS STRING)"), "top"),
        "plain": counts.where("n > 1"),
        "bounds": machine(counts.derive(x="1.0", do="TRY_CAST(EPOCH_MS(window_end) AS STRING)"), "bounds"),
    }


def in_windows() -> dict[str, hr.Stream]:
    """What processes give goes into windows, and on into processes."""
    first = made()
    tumbling = first.window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)", all="ARRAY_AGG(said)")
    both = (
        first.union(first.side("aside"))
        .window(hr.sliding(hr.seconds(4), hr.seconds(2)), by=["k"])
        .late_to("late")
        .aggregate(n="COUNT(*)", last="MAX(at)")
    )
    second = (
        machine(first.select("k", x="1.0", do="'timer:1500:q'"), "second").window(hr.cumulating(hr.seconds(8), hr.seconds(2))).aggregate(n="COUNT(*)")
    )
    return {
        "tumbling": tumbling,
        "both": both,
        "gathered": both.aggregate(by=[], n="SUM(n)"),
        "second": second,
        "counted": machine(to_one(tumbling, "TRY_CAST(n AS STRING)"), "counted"),
    }


def parted() -> dict[str, hr.Stream]:
    """A stream is parted and joined again, in an order that is none."""
    rows = source().select("k", "x", "do")
    few = rows.where("x > 1").derive(do="'few ' || COALESCE(do, '')")
    no = rows.where("x IS NULL OR k = 'a'").derive(do="'no ' || COALESCE(do, '')")
    joined = rows.union(few.union(no), no)
    other = source("two").select("k", "x", "do")
    return {
        "out": machine(joined, "joined"),
        "more": machine(to_one(joined.union(other), "do"), "more"),
        "on": machine(to_one(machine(few.union(no), "small")), "on"),
        "sunk": joined,
    }


def entries() -> dict[str, hr.Stream]:
    """Entries of a record go through processes of their own to one."""
    entry = source().unnest("m", key="e", value="v").select("e", "k", x="v", do="'last:' || e")
    first = made("two", "two")
    twice = first.select("k", x="1.0", do="said").union(first.select("k", x="2.0", do="'2'")).derive(k="'a'")
    return {"on": machine(to_one(machine(entry, "entries", by="e").derive(k="e")), "on"), "behind": machine(twice, "behind")}


def dropped_entries() -> dict[str, hr.Stream]:
    """A record is a duplicate if all its entries are."""
    return {"out": source().unnest("m", key="e", value="v").deduplicate(["e", "k"], within=hr.seconds(5))}


def dropped_of_two() -> dict[str, hr.Stream]:
    """A record is a duplicate if all that became of it on two ways is."""
    rows = source().select("k", "x", "do")
    return {"out": rows.union(rows.where("x > 1").derive(k="'more'")).deduplicate(["k"], within=hr.seconds(3))}


def ruled() -> dict[str, hr.Stream]:
    """A process behind another is told of rules, which come by two ways, and fails."""
    rules = source("rules").select("k", "x", "do")
    first = made()
    both = rules.union(rules.where("x > 1").derive(do="'second'"))
    rows = first.select("k", x="1.0", do="IF(said LIKE 'last%', 'fail', said)")
    return {"ruled": machine(rows, "ruled", broadcast=both, failed_to="failed")}


PLANS: dict[str, Callable[[], dict[str, hr.Stream]]] = {
    one.__name__: one
    for one in (of_many_keys, of_windows, in_windows, parted, entries, dropped_entries, dropped_of_two, ruled, over_windows, layered)
}


ALONE = ("of_many_keys", "of_windows", "in_windows", "layered")
TOGETHER = 4


def jobs() -> dict[str, tuple[Plan, dict[str, list[list[bytes]]]]]:
    """Return plans and their input: of one partition, where watermarks come with the records, or of two."""
    found = {}
    for number, (name, build) in enumerate(PLANS.items()):
        plan = hr.pipeline(f"chain-{name}".replace("_", "-"), version="1")(build).plan()
        if name in ALONE:
            found[f"{name} alone"] = plan, {one.topic: [records(number, 60)] for one in plan.sources}
        found[name] = plan, {one.topic: [records(2 * number, 40), records(2 * number + 1, 40)] for one in plan.sources}
    chain = chained({"one": 2_000, "two": 0})
    return {**found, "chained": (chain, {one.topic: [records(20, 60)] for one in chain.sources})}


@pytest.fixture(scope="module")
def outcomes(flink: Rest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Outcome]]:
    """Return what Flink and the embedded engine give."""
    return once("chains", tmp_path_factory, partial(_outcomes, flink))


def _outcomes(flink: Rest, folder: Path) -> dict[str, tuple[Outcome, Outcome]]:
    given, found = {}, {}
    for name, (plan, inputs) in jobs().items():
        given[name] = FolderJob(plan, written_files(folder / name, inputs), folder / name / "flink")
        (folder / name / "flink").mkdir()
    for alone in (True, False):
        many = [job for name, job in given.items() if name.endswith("alone") == alone]
        for place in range(0, len(many), TOGETHER):
            run_many(many[place : place + TOGETHER], flink, client=client(), parallelism=1 if alone else 2)
    for name, job in given.items():
        (folder / name / "embedded").mkdir()
        run_embedded(job.plan, job.inputs, folder / name / "embedded")
        found[name] = left(job.folder, job.inputs), left(folder / name / "embedded", job.inputs)
    return found


@pytest.mark.parametrize("name", [*jobs()])
def test_what_is_chained_gives_what_the_embedded_engine_gives(outcomes: dict[str, tuple[Outcome, Outcome]], name: str) -> None:
    got, expected = outcomes[name]
    assert not (found := differences(got, expected)), "\n".join(found[:8])
    assert all(rows for topic, rows in expected.written.items() if topic != "late")


# Kafka


@hr.pipeline("live-chain", version="1")
def live() -> dict[str, hr.Stream]:
    first = made()
    counts = first.window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)", all="ARRAY_AGG(said)")
    behind = machine(to_one(first.union(first.side("aside"))), "behind")
    return {"behind": behind, "counts": counts, "counted": machine(to_one(counts, "TRY_CAST(n AS STRING)"), "counted")}


def test_a_live_chain_that_is_stopped_goes_on_where_it_was(flink: Rest, kafka: Shared, tmp_path: Path) -> None:
    """Records come little by little, so that watermarks pass through the chain behind many bundles."""
    plan = live.plan()
    topics = Topics(kafka.servers, tmp_path / "home", plan, 2)
    with closing(topics.log):
        lines = records(30, 1200)

        def send(some: list[bytes]) -> None:
            topics.log.append(f"{topics.prefix}one", some, [str(len(one) % 7).encode() for one in some])

        sending = iter([lines[at : at + 40] for at in range(0, 600, 40)])

        def sent() -> bool:
            some = next(sending, None)
            if some is not None:
                send(some)
            return some is None and bool(topics.rows("counted"))

        run_topics(plan, topics.places(), flink, tmp_path / "kept", client=client(), stop=sent, seconds=LIMIT)
        send(lines[600:])
        run_topics(plan, topics.places(), flink, tmp_path / "kept", client=client(), stop=topics.all_counted, drain=True, seconds=LIMIT)
        got = Outcome({topic: topics.rows(topic) for topic in plan.topics}, {}, {**added_up(plan, topics.rows("live-chain.ledger"))})
        files = written_files(tmp_path / "in", {"one": [topics.values("one", number) for number in range(2)]})
    (tmp_path / "out").mkdir()
    run_embedded(plan, files, tmp_path / "out")
    expected = left(tmp_path / "out", ["one"])
    assert not (found := differences(got, Outcome(expected.written, {}, expected.ledger))), "\n".join(found[:8])
    assert expected.ledger["one"]["late"]
