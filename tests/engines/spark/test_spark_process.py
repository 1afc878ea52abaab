"""Processes run by a real Spark give what the embedded engine gives, and what is written down here by hand."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from broker import Shared
from conformance.engine import differences, left
from engines.embedded.chains import layered, over_windows
from engines.embedded.chains import records as chain_records
from engines.embedded.processes import START, expected, line, plan_of
from engines.spark.processes import Clocked, Endless, Everything, Facts, Limits, Needy, Raises, Retyped, Sequence
from engines.spark.test_spark_kafka import create, everything, produce, skip_unless_there
from headrace.engines.embedded.run import run_files as run_embedded
from headrace.engines.folder_jobs import FolderJob
from headrace.engines.spark.run import _Script, _submit, run_latest, run_live, run_many
from headrace.engines.spark.script import live_script, spark_script
from headrace.errors import HeadraceError, PlanError, ProcessError
from headrace.plan.pipeline import Plan
from keeper import once
from spark import HOME, lines, missing_for_processes, same, warm

SCHEMA = {"k": "STRING", "t": "BIGINT", "n": "BIGINT", "x": "DOUBLE", "s": "STRING"}
COUNTS = {"received": 0, "accepted": 0, "malformed": 0, "future": 0, "duplicate": 0, "late": 0, "filtered": 0, "shed": 0}


def rows(topic: str = "in", delay: int = 2) -> hr.Stream:
    return hr.stream(topic, schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(t, 3)", watermark=hr.seconds(delay))


def plan(named: str, **sinks: hr.Stream) -> Plan:
    return hr.pipeline(named, version="1")(lambda: {topic.replace("_", "-"): stream for topic, stream in sinks.items()}).plan()


def of_everything(topic: str = "in", *, chains: bool = False) -> Plan:
    source = rows(topic)
    made = source.derive(t="TO_TIMESTAMP_LTZ(t, 3)").where("s IS NULL OR s <> 'no'").process(Everything, by=["k"], failed_to=f"{topic}-failed")
    behind = made.where("kind = 'record'").derive(twice="n * 2").select("k", "at", "twice")
    sinks = {"out": made, "behind": behind, "big": made.side("big"), "joined": made.side("big").select("k", "n").union(made.select("k", "n"))}
    if chains:
        sinks |= {name: stream for name, stream in chained(source).items() if name in {"of_windows", "in_a_row"}}
    return plan("everything", **{f"{topic}-{name}": stream for name, stream in sinks.items()})


def chained(source: hr.Stream) -> dict[str, hr.Stream]:
    """Return windows behind a process, a process behind a process and behind windows, and all of these in one row."""
    sequence = source.process(Sequence, by=["k"], name="first")
    per_key = source.window(hr.tumbling(hr.seconds(20)), by=["k"]).aggregate(n="COUNT(*)", x="MAX(x)").derive(s="'w'")
    sums = {"count": "COUNT(*)", "first": "FIRST_VALUE(n)", "all": "ARRAY_AGG(n)"}
    windowed = sequence.window(hr.sliding(hr.seconds(30), hr.seconds(10)), by=["k"]).aggregate(**sums)
    of_groups = windowed.derive(odd="count % 2").aggregate(by=["odd"], n="MAX(first)").process(Sequence, by=["odd"], name="fourth")
    return {
        "windowed": windowed,
        "twice": sequence.derive(third="n % 3").process(Sequence, by=["third"], name="second"),
        "of_windows": per_key.process(Sequence, by=["s"], name="third"),
        "in_a_row": of_groups.derive(s="'g'").process(Sequence, by=["s"], name="fifth"),
    }


def records(count: int, seed: int, *, step: int = 700, back: int = 3500) -> list[bytes]:
    chance, made = random.Random(seed), []
    for number in range(count):
        at = START + number * step + chance.randrange(-back, 1000) + (20_000 if seed == 1 and 60 < number < 64 else 0)
        n = chance.choice([-1, 1, 2, 3, 6, 2**60 + number, None]) if chance.random() < 0.3 else number
        x, s = chance.choice([None, 1.5, 2.0, 1e300, -0.1, 1e7]), chance.choice(["no", "u", 'é"', "", None])
        made.append(json.dumps({"k": chance.choice(["a", "b", "c", None]), "t": at, "n": n, "x": x, "s": s}).encode())
    return made


def rules() -> list[bytes]:
    told = [{"t": START + i * 9000 - (30_000 if i % 7 == 6 else 0), "n": i % 5, "s": ["u", 'é"', ""][i % 3]} for i in range(12)]
    return [json.dumps(one).encode() for one in told]


def machine_lines(chance: random.Random, *, failing: bool) -> list[bytes]:
    second, made = 0.0, []
    does = ["", "last", "held", "recent", "all", "seen:p", "seen:q", "unseen:p", "tally:z", "aside:x", "untimer:p"]
    does += [f"timer:{after}:{name}" for after in (0, 1, 1500, 3000, -2000, 7000) for name in ("p", "q:then:timer:1000:p", "w:then:aside:y")]
    for _ in range(chance.randrange(10, 40)):
        second += chance.choice([0, 0, 0.5, 1, 3])
        do = chance.choice([*does, "fail", "off"] if failing else does)
        made.append(
            line(second - chance.choice([0, 0, 0, 1, 2, 2.5, 6]), chance.choice(["a", "b", "ab", None]), do, chance.choice([1.5, -0.0, 3, None]))
        )
    return [*made, b"{"]


def jobs() -> dict[str, tuple[Plan, dict[str, list[list[bytes]]]]]:
    """Return the plans by name, each with its input."""
    made = {
        "facts": (plan("facts", out=rows(delay=0).process(Facts, by=["k", "n"])), {"in": [FACTS]}),
        "everything": (of_everything(), {"in": [records(200, 1), records(90, 2), []]}),
        "nothing": (of_everything(), {"in": [[]]}),
        "limits": (
            plan("limits", out=rows().process(Limits, by=["k"], broadcast=rows("rules"), failed_to="failed")),
            {"in": [records(150, 1), records(90, 2)], "rules": [rules()]},
        ),
        "raises": (
            plan("raises", out=rows().process(Raises, by=["k"])),
            {"in": [[b'{"t": %d, "n": %d}' % (START + 1000 * (5 - n), n) for n in (5, 4, 3, 0)]]},
        ),
    }
    made["endless"] = plan("endless", out=rows().process(Endless, by=["k"], limit=hr.seconds(1))), made["raises"][1]
    made["chained"] = plan("chained", **chained(rows())), {"in": [records(120, 1), records(60, 2)]}
    every = rows().window(hr.tumbling(hr.seconds(20)), by=["k"]).aggregate(n="ARRAY_AGG(n)").unnest("n", value="n")
    unnested = plan("unnested", out=every.derive(n="n + 1").where("n > 1").process(Sequence, by=["k"]))
    made["unnested"] = unnested, {"in": [records(120, 1), records(60, 2)]}
    for build in (over_windows, layered):
        derived = hr.pipeline(build.__name__.replace("_", "-"), version="1")(build).plan()
        made[build.__name__] = derived, {one.topic: [chain_records(2, 40), chain_records(3, 40)] for one in derived.sources}
    made["deduplicated"] = (plan("deduplicated", out=rows().deduplicate(["k", "s"], within=hr.seconds(8))), {"in": [records(120, 1), records(60, 2)]})
    for number, options in enumerate(
        ({}, {"failing": True, "rules": "rules"}, {"arrival": True, "rules": "rules", "failing": True}, {"arrival": True})
    ):
        chance = random.Random(number)
        topics = ["one", *(["two"] if number < 3 else []), *(["rules"] if "rules" in options else [])]
        given = {t: [machine_lines(chance, failing="failing" in options and t != "rules") for _ in range(chance.randrange(1, 3))] for t in topics}
        made[f"machine {number}"] = plan_of(dict.fromkeys(topics, 2_000), name=f"machine-{number}", **options), given
    return made


# By hand: the delay is 0, so that a record is late which is older than the one before it; key 1 has NULLs in it.
FACTS = [
    json.dumps({"k": k, "t": START + 1000 * second, "n": n, "s": s}).encode()
    for k, second, n, s in [
        *[("a", 1, 1, "keep"), (None, 1, None, "keep"), ("a", 5.999, 1, "look"), ("a", 6, 1, "look"), (None, 7, None, "look")],
        *[("a", 10, 1, "timers"), ("a", 9, 1, "late"), ("b", 12, 1, "timers"), ("b", 13, 1, "look"), ("b", 15, 1, "timer beyond the end")],
    ]
]
GIVEN = [
    *[("a", 1, 5.999, "look: keep ['keep'] {'keep': 1}"), ("a", 1, 6, "look: None [] {}"), (None, None, 7, "look: None [] {}")],
    *[("a", 1, 12, "timer 1"), ("a", 1, 12, "timer 2"), ("b", 1, 13, "look: None [] {}"), ("b", 1, 14, "timer 1"), ("b", 1, 14, "timer 2")],
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, spark_requests: Callable[[], Path]) -> dict[str, tuple[Path, Path, Any]]:
    """Return by name where Spark put its outputs, where the embedded engine did, and what Spark's run gave."""
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    with warm(spark_requests, processes=True):
        return once("spark-processes", tmp_path_factory, _runs)


def _runs(folder: Path) -> dict[str, tuple[Path, Path, Any]]:
    given = {}
    for name, (made, inputs) in jobs().items():
        (folder / name).mkdir()
        paths = {topic: [folder / name / f"{topic}.{number}.ndjson" for number in range(len(parts))] for topic, parts in inputs.items()}
        for topic, parts in inputs.items():
            for path, part in zip(paths[topic], parts, strict=True):
                path.write_bytes(b"".join(one + b"\n" for one in part))
        given[name] = made, paths
    away = folder / "site-packages"
    away.mkdir()
    (away / "lacking_on_workers.py").write_text("class Thing:\n    n = 1\n")
    sys.path.insert(0, str(away))
    try:
        given["needy"] = plan("needy", out=rows().process(Needy, by=["k"])), given["nothing"][1]
        told = run_many([FolderJob(made, paths, folder / name / "spark") for name, (made, paths) in given.items()], master="local[2]", home=HOME)
    finally:
        sys.path.remove(str(away))
    found = {}
    for (name, (made, paths)), one in zip(given.items(), told, strict=True):
        if not isinstance(one, Exception):
            run_embedded(made, paths, folder / name / "embedded")
        found[name] = folder / name / "spark", folder / name / "embedded", one
    return found


Runs = Mapping[str, tuple[Path, Path, Any]]


@pytest.mark.parametrize("name", [name for name in jobs() if name not in {"raises", "endless"}])
def test_spark_gives_what_the_embedded_engine_gives(runs: Runs, name: str) -> None:
    got, wanted, told = runs[name]
    assert not isinstance(told, HeadraceError), told
    sources = [one.name.removesuffix(".dead-letter.ndjson") for one in wanted.glob("*.dead-letter.ndjson")]
    found = differences(left(got, sources), left(wanted, sources))
    assert not found, "\n".join(found)
    # What stays open, such as timers, a cluster does not count.
    ledgers = [json.loads((folder / "ledger.json").read_text()) | {"open": None} for folder in (got, wanted)]
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("name", ["machine 0", "machine 1", "machine 2", "machine 3"])
def test_spark_gives_what_the_plain_reference_gives(runs: Runs, name: str) -> None:
    made, inputs = jobs()[name]
    ruled, arrival = "rules" in inputs, name in {"machine 2", "machine 3"}
    told = expected(inputs, dict.fromkeys(inputs, 2_000), rules="rules" if ruled else None, failing="failed" in made.topics, arrival=arrival)
    for topic, output in (("out", ""), ("aside", "aside"), ("bare", "bare")):
        got, wanted = (sorted(map(json.dumps, one)) for one in (lines(runs[name][0] / f"{topic}.ndjson"), told.of(output)))
        assert got == wanted
    if "failed" in made.topics:
        failed = [(row["topic"], row["partition"], row["offset"], row["key"]) for row in lines(runs[name][0] / "failed.ndjson")]
        assert sorted(map(str, failed)) == sorted(map(str, told.failed))


def check_facts(got: Path, told: Any) -> None:
    shown = [(row["k"], row["n"], row["at"], row["said"]) for row in lines(got / "out.ndjson")]
    assert shown == [(k, n, f"2024-01-01T00:00:{second:06.3f}Z".replace(".000Z", "Z"), said) for k, n, second, said in GIVEN]
    assert told["in"] == COUNTS | {"received": 10, "accepted": 9, "late": 1}


def test_state_ttl_timers_and_late_records_are_as_written_down_here(runs: Runs) -> None:
    got, _, told = runs["facts"]
    check_facts(got, told)


FAILING_AT_ITS_STOP = """
import signal, threading
from pathlib import Path
def main(arguments):
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    Path(arguments[0]).touch()
    asked.wait()
    raise RuntimeError("the broker has gone")
"""


def test_workers_have_the_modules_in_an_archive_and_a_job_that_fails_while_it_is_stopped_says_so(tmp_path: Path) -> None:
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    (tmp_path / "in.ndjson").write_bytes(b"\n".join(FACTS))
    made, begun = spark_script(jobs()["facts"][0]), tmp_path / "begun"
    facts = _Script(made, [f"--input=in={tmp_path}/in.ndjson", f"--output={tmp_path}"], processes=True)
    told, failed = _submit([facts, _Script(FAILING_AT_ITS_STOP, [str(begun)], processes=False)], "local[1]", HOME, [], begun.exists)
    check_facts(tmp_path, told)
    assert str(failed) == "Spark: RuntimeError: the broker has gone"


def test_rows_that_nothing_disturbs_come_in_the_order_of_handling(runs: Runs) -> None:
    for name, topic in (("everything", "in-out"), ("everything", "in-failed"), ("limits", "out"), ("deduplicated", "out")):
        got, wanted = (lines(folder / f"{topic}.ndjson") for folder in runs[name][:2])
        assert len(got) > 0
        assert all(map(same, got, wanted)), (name, topic)


def test_the_runs_try_late_failing_and_duplicate_records(runs: Runs) -> None:
    assert min(runs["everything"][2]["in"][fate] for fate in ("accepted", "late", "filtered")) > 0
    assert runs["deduplicated"][2]["in"]["duplicate"] > 0
    assert len(lines(runs["everything"][0] / "in-failed.ndjson")) > 0
    assert {row["topic"] for row in lines(runs["limits"][0] / "failed.ndjson")} == {"rules"}


def test_a_process_that_raises_ends_the_run_with_what_and_where(runs: Runs) -> None:
    told = runs["raises"][2]
    assert isinstance(told, ProcessError)
    assert told.exit_status == 1
    assert str(told).startswith("process raises, in/0 offset 3, key k None, time 1704067205000, state {}: Raises.on_record raised ZeroDivisionError")
    assert not (runs["raises"][0] / "out.ndjson").exists()


def test_a_process_that_does_not_end_ends_the_run(runs: Runs) -> None:
    told = runs["endless"][2]
    assert isinstance(told, ProcessError)
    assert "Endless.on_record does not end within 1 s" in str(told)


def test_a_module_that_the_workers_lack_is_named(runs: Runs) -> None:
    told = runs["needy"][2]
    assert isinstance(told, ProcessError)
    assert "needs module 'lacking_on_workers', which the cluster lacks" in str(told)


def per_minute(source: hr.Stream | None = None) -> hr.Stream:
    return (source or rows()).window(hr.tumbling(hr.minutes(1)), by=["k"]).aggregate(n="COUNT(*)")


def told_by_windows() -> hr.Stream:
    source = rows()
    return source.process(Limits, by=["k"], broadcast=per_minute(source))


@pytest.mark.parametrize(
    ("stream", "complaint"),
    [
        (lambda: rows().process(Clocked, by=["k"]), "on_clock: a stream of Spark has timers of event time or of the clock, not both"),
        (
            lambda: per_minute().top_n(1, order="n").process(Sequence, by=["k"]),
            "a process of the first rows of windows: Spark's streams cannot rank",
        ),
        (
            lambda: per_minute().aggregate(by=["k"], n="COUNT(DISTINCT n)").process(Sequence, by=["k"]),
            "COUNT(DISTINCT …): Spark's streams cannot count so",
        ),
        (told_by_windows, "a broadcast from a window or a process: Spark's streams have none"),
    ],
)
def test_what_spark_cannot_do_live_is_refused_with_its_operator(stream: Any, complaint: str) -> None:
    made = plan("refused", out=stream())
    compile(spark_script(made), "refused.py", "exec")
    with pytest.raises(PlanError) as refused:
        live_script(made)
    assert complaint in str(refused.value)
    assert re.match(r"Spark SQL of #\d (process|window) ", str(refused.value))


# live


LAST, LAST_TEXT = START + 10**7, "2024-01-01T02:46:40Z"


def live_inputs(plant: str, folder: Path, servers: str, *, chains: bool = False) -> tuple[Plan, list[list[bytes]]]:
    """Make the topics, unless something is lacking, and return the plan and two partitions whose last record has the clock pass all others."""
    skip_unless_there()
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    made = of_everything(plant, chains=chains)
    create(servers, made, **{plant: 2})
    every = [*records(160, 3, step=300, back=1500), json.dumps({"k": "end", "t": LAST, "n": 1, "x": 1.0}).encode()]
    parts = [every[0::2], every[1::2]]
    for number, part in enumerate(parts):
        (folder / f"{number}.ndjson").write_bytes(b"".join(one + b"\n" for one in part))
    run_embedded(made, {plant: [folder / "0.ndjson", folder / "1.ndjson"]}, folder / "embedded")
    return made, parts


def check_live(made: Plan, servers: str, folder: Path, *, once: bool) -> None:
    """Check that the topics hold what the embedded engine gives but for the last record; if `once`, no more often."""
    for topic in made.topics:
        given = [row for row in lines(folder / "embedded" / f"{topic}.ndjson") if row.get("k") != "end"]
        wanted = sorted(json.dumps(plain(row)) for row in given if max(row.get("time", ""), row.get("window_end", "")) < LAST_TEXT)
        got = sorted(json.dumps(plain(json.loads(value))) for value in everything(servers, topic))
        assert len(wanted) > 0
        assert (got if once else sorted(set(got))) == (wanted if once else sorted(set(wanted))), topic


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what the arrival of a record has to do with."""
    return {name: value for name, value in row.items() if name not in {"arrived_ms", "state"}}


@pytest.mark.usefixtures("warm_processes")
def test_two_live_runs_from_one_checkpoint_give_what_one_run_gives(kafka: Shared, tmp_path: Path) -> None:
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    made, parts = live_inputs(plant, tmp_path, kafka.servers, chains=True)
    late = json.dumps({"k": "a", "t": START, "n": 77, "x": 1.0, "s": "u"}).encode()
    for turn in (0, 1):
        for number, part in enumerate(parts):
            half = len(part) // 2
            produce(kafka.servers, plant, part[half:] if turn else part[:half], number)
        if turn:
            produce(kafka.servers, plant, [late], 1)
        run_live(made, kafka.servers, checkpoint=tmp_path / "checkpoint", trigger="available-now", master="local[2]", home=HOME)
    check_live(made, kafka.servers, tmp_path, once=True)
    raising = plan("raises", **{f"{plant}-raises": rows(plant).process(Raises, by=["k"])})
    create(kafka.servers, raising)
    with pytest.raises(ProcessError, match=f"process raises, {plant}/[01] offset .* Raises.on_record raised"):
        run_live(raising, kafka.servers, checkpoint=tmp_path / "raising", trigger="available-now", master="local[2]", home=HOME)
    (tmp_path / "1.ndjson").write_bytes(b"".join(one + b"\n" for one in [*parts[1], late]))
    made = of_everything(plant)
    run_embedded(made, {plant: [tmp_path / "0.ndjson", tmp_path / "1.ndjson"]}, tmp_path / "with late")
    run_latest(made, kafka.servers, output=tmp_path / "latest", master="local[2]", home=HOME)
    for topic in made.topics:
        got, wanted = (sorted(json.dumps(plain(row)) for row in lines(tmp_path / folder / f"{topic}.ndjson")) for folder in ("latest", "with late"))
        assert got == wanted, topic
    ledgers = [json.loads((tmp_path / folder / "ledger.json").read_text())["sources"] for folder in ("latest", "with late")]
    assert ledgers[0] == ledgers[1]
    assert ledgers[0][plant]["late"] == 1


@pytest.mark.usefixtures("warm_processes")
def test_arrival_late_rules_and_state_of_another_type_are_as_written_down_here(kafka: Shared, tmp_path: Path) -> None:
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    skip_unless_there()
    if (why := missing_for_processes()) is not None:
        pytest.skip(why)
    made = arriving(plant, Sequence())
    create(kafka.servers, made, **{plant: 1, f"{plant}-rules": 1})

    def run(one: Plan, *given: tuple[str, float, int, str | None]) -> None:
        produce(kafka.servers, plant, [json.dumps({"k": k, "t": START + round(1000 * at), "n": n, "s": s}).encode() for k, at, n, s in given])
        run_live(one, kafka.servers, checkpoint=tmp_path, trigger="available-now", master="local[2]", home=HOME)

    run(made, ("a", 100, 1, "u"), ("a", 50, 2, "u"), ("b", 0, 4, "u"), ("a", 10, 3, None))  # no rule has ever been seen: none is waited for
    told = [{"t": START + 1000 * at, "n": n, "s": "u"} for at, n in ((60, 5), (99, 0), (101, 10))]  # late, not to be applied, in time
    produce(kafka.servers, f"{plant}-rules", [json.dumps(rule).encode() for rule in told])
    run(made, ("a", 20, 5, "u"), ("a", 100.5, 6, "u"), ("a", 101, 7, "u"), ("end", 10_000, 1, "u"))
    sequence = [row for row in map(json.loads, everything(kafka.servers, made.topics[0])) if row["k"] == "a"]
    at_timers = [(row["order"], row["time"][14:]) for row in sequence if row["n"] is None]
    assert [(row["order"], row["n"]) for row in sequence] == [(1, 1), (2, 2), (3, 3), (4, None), (5, 5), (6, 6), (7, 7), (8, None)]
    assert at_timers == [(4, "00:11Z"), (8, "01:41.500Z")]
    limits = [json.loads(value) for value in everything(kafka.servers, made.topics[1])]
    assert sorted((row["k"], row["at"][14:-1], row["n"], row["limit"]) for row in limits if row["k"] != "end") == sorted(LIMITED)
    (failed,) = [json.loads(value) for value in everything(kafka.servers, f"{plant}-failed")]
    assert (failed["topic"], failed["offset"]) == (f"{plant}-rules", 1)
    with pytest.raises(ProcessError, match="state_version 1"):
        run(arriving(plant, Retyped()), ("a", 20_000, 1, "u"))


def arriving(plant: str, process: object) -> Plan:
    source = rows(plant)
    in_order = source.process(process, by=["k"], order="arrival", name="sequence")
    limited = source.process(Limits, by=["k"], broadcast=rows(f"{plant}-rules"), failed_to=f"{plant}-failed", name="limits")
    return plan("arriving", **{f"{plant}-sequence": in_order, f"{plant}-limited": limited})


LIMITED = [
    *[("b", "00:00", 4, None), ("b", "00:02", -1, None), ("a", "00:10", 3, None), ("a", "00:12", -1, None), ("a", "00:50", 2, None)],
    *[("a", "00:52", -1, None), ("a", "01:40", 1, 20), ("a", "01:40.500", 6, 20), ("a", "01:41", 7, 10), ("a", "01:43", -1, 10)],
]

LIVE = """
import sys
from pathlib import Path
from engines.spark.test_spark_process import of_everything
from headrace.engines.spark.run import run_live
plant, servers, checkpoint, home = sys.argv[1:]
run_live(of_everything(plant), servers, checkpoint=Path(checkpoint), trigger="500 milliseconds", master="local[2]", home=Path(home))
"""


@pytest.mark.long  # a kill is in test_spark_rules.py too, and all kinds of state that go on from a checkpoint are above
@pytest.mark.usefixtures("warm_processes")
def test_a_live_run_that_is_killed_twice_goes_on_and_loses_nothing(kafka: Shared, tmp_path: Path) -> None:
    plant = f"plant-{uuid.uuid4().hex[:8]}"
    made, parts = live_inputs(plant, tmp_path, kafka.servers)
    command = [sys.executable, "-c", LIVE, plant, kafka.servers, str(tmp_path / "checkpoint"), str(HOME)]
    chance, done, seen = random.Random(7), 0, 0
    for most in (35, 70):  # of each partition, so that something is left for the next run, however slowly one begins
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}) as run:
            give_up_at = time.monotonic() + 180
            try:
                while len(everything(kafka.servers, made.topics[0])) < seen + 20:
                    assert run.poll() is None, "the run has ended"
                    assert time.monotonic() < give_up_at, "the run gives nothing"
                    for number, part in enumerate(parts):
                        produce(kafka.servers, plant, part[done : min(done + 5, most)], number)
                    done = min(done + 5, most)
                    time.sleep(chance.uniform(0.2, 1.0))
            finally:
                run.kill()
        seen = len(everything(kafka.servers, made.topics[0]))
    for number, part in enumerate(parts):
        produce(kafka.servers, plant, part[done:], number)
    run_live(made, kafka.servers, checkpoint=tmp_path / "checkpoint", trigger="available-now", master="local[2]", home=HOME)
    check_live(made, kafka.servers, tmp_path, once=False)
