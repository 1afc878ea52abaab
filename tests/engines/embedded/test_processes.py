"""Processes over files: what the reference gives, whatever the batches, commits and restarts."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from engines.embedded.processes import NEVER, PLAIN, Answers, Read, Reference, Unruled, expected, line, plan_of, read, source
from headrace.engines.embedded.output import Output, encode_rows
from headrace.engines.embedded.run import Progress, Run, run_files
from headrace.errors import EnvironmentFault, PlanError, ProcessError
from headrace.plan.pipeline import Plan
from headrace.plan.schema import FIRST_MS, LAST_MS
from headrace.topics.dead_letters import encode_dead_letter
from headrace.topics.files import open_file
from repeated import examples

KEYS = ["a", "b", "ab", None]
AFTER = ["0", "1", "1500", "3000", "-2000", "7000"]
BROKEN = [b"{", b"7", b'{"k": "a"}', b'{"t": null}', b'{"t": "soon"}']


class Kept(Output):
    """Keeps what is written, as bytes."""

    def __init__(self) -> None:
        self.topics: dict[str, bytes] = {}

    def write(self, topic: str, rows: Any, keys: Any = None) -> None:  # noqa: ARG002
        self.topics[topic] = self.topics.get(topic, b"") + encode_rows(rows)

    def set_aside(self, letters: Any) -> None:
        for letter in letters:
            topic = f"{letter.topic}/{letter.partition}"
            self.topics[topic] = self.topics.get(topic, b"") + encode_dead_letter("machine", letter)


@st.composite
def deeds(draw: st.DrawFn, *, failing: bool) -> str:
    kind = draw(st.sampled_from(["plain", "plain", "timer", "timer", "untimer", *(["fail", "off"] if failing else [])]))
    if kind == "plain":
        return draw(st.sampled_from(PLAIN))
    if kind in ("fail", "off"):
        return kind
    names = [
        "p",
        "q",
        "r:then:last",
        "s:then:seen:p",
        "p:then:timer:0:q",
        "q:then:timer:1000:p",
        "u:then:timer:-500:q",
        "v:then:untimer:p",
        "w:then:aside:y",
    ]
    if failing:
        names += ["x:then:fail", "y:then:off"]
    name = draw(st.sampled_from(names))
    return f"timer:{draw(st.sampled_from(AFTER))}:{name}" if kind == "timer" else f"untimer:{name}"


@st.composite
def partitions(draw: st.DrawFn, *, failing: bool) -> list[bytes]:
    second, lines = 0.0, []
    for _ in range(draw(st.integers(0, 14))):
        if draw(st.integers(0, 11)) == 0:
            lines.append(draw(st.sampled_from(BROKEN)))
            continue
        second += draw(st.sampled_from([0, 0, 0.5, 1, 3, 10]))
        back = draw(st.sampled_from([0, 0, 0, 1, 2, 2.5, 6]))
        lines.append(line(second - back, draw(st.sampled_from(KEYS)), draw(deeds(failing=failing)), draw(st.sampled_from([1.5, -0.0, 3, None]))))
    return lines


@st.composite
def cases(draw: st.DrawFn, *, arrival: bool = False) -> tuple[dict[str, list[list[bytes]]], dict[str, int], dict[str, Any]]:
    failing, ruled = draw(st.booleans()), draw(st.booleans())
    topics = draw(st.sampled_from([["one"], ["one"], ["one", "two"]]))
    late = ["drop", "take"] if arrival else ["drop", "take", "side"]
    names = draw(st.sampled_from([(), ("command",), ("command", "limit"), ("limit", "command")]))
    others = {name: draw(st.sampled_from(late)) for name in names}
    delays = {topic: draw(st.sampled_from([0, 2_000, 5_000])) for topic in [*topics, *(["rules"] if ruled else []), *others]}
    inputs = {topic: draw(st.lists(partitions(failing=failing and topic != "rules"), min_size=1, max_size=2)) for topic in delays}
    return inputs, delays, {"rules": "rules" if ruled else None, "failing": failing, "arrival": arrival, "others": others}


def run(plan: Plan, files: dict[str, list[Path]], chance: random.Random | None = None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return what a run gives, and its ledger; with `chance` each partition brings now more, now less."""
    kept = Kept()
    with ExitStack() as stack:
        readers = {topic: [stack.enter_context(closing(open_file(path))) for path in paths] for topic, paths in files.items()}
        running = Run(plan, readers, kept)
        while not running.finished:
            for partition in running.partitions if chance else ():
                partition.reader._chunk = int(10 ** chance.uniform(1, 3.5))
            running.take_turn()
        running.finish()
    return kept.topics, {topic: account.counts() for topic, account in running.ledger.items()}


def written_files(folder: Path, inputs: dict[str, list[list[bytes]]]) -> dict[str, list[Path]]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {topic: [folder / f"{topic}.{number}.ndjson" for number in range(len(parts))] for topic, parts in inputs.items()}
    for topic, parts in inputs.items():
        for path, lines in zip(files[topic], parts, strict=True):
            path.write_bytes(b"".join(one + b"\n" for one in lines))
    return files


def rows(data: bytes | None) -> list[dict[str, Any]]:
    return [json.loads(one) for one in (data or b"").splitlines()]


def check(found: dict[str, bytes], ledger: dict[str, Any], told: Answers) -> None:
    for topic, output in (("out", ""), ("aside", "aside"), ("bare", "bare")):
        assert rows(found.get(topic)) == told.of(output), topic
    assert [(row["topic"], row["partition"], row["offset"], row["key"]) for row in rows(found.get("failed"))] == told.failed
    assert {topic: {name: counts[name] for name in told.ledger[topic]} for topic, counts in ledger.items()} == told.ledger


# Against the reference


def compare(case: Any, chance: random.Random) -> None:
    """Check that a process gives what the reference gives, however its records come."""
    inputs, delays, options = case
    told = expected(inputs, delays, **options)
    if not options["failing"] and options["rules"]:
        told.failed = []
    with TemporaryDirectory() as folder:
        files = written_files(Path(folder), inputs)
        found, ledger = run(plan_of(delays, **options), files)
        check(found, ledger, told)
        assert run(plan_of(delays, **options), files, chance) == (found, ledger)


@examples(24, 1000)
@given(cases(), st.randoms(use_true_random=False))
def test_a_process_gives_what_the_reference_gives(case: Any, chance: random.Random) -> None:
    compare(case, chance)


@examples(24, 1000)
@given(cases(arrival=True), st.randoms(use_true_random=False))
def test_a_process_in_the_order_of_arrival_gives_what_the_reference_gives(case: Any, chance: random.Random) -> None:
    compare(case, chance)


# What stands before and behind a process


AGAIN = "timer:1500:q:then:seen:p"


def again(stream: hr.Stream, name: str = "again") -> hr.Stream:
    """Return a second machine over a stream that has `k`."""
    return stream.select("k", x="1.0", do=f"'{AGAIN}'").process(Unruled(), by=["k"], name=name)


def told_again(made: list[dict[str, Any]], end: int) -> list[dict[str, Any]]:
    """Return what a second machine gives for rows in the order of their times `at`."""
    reference = Reference(failing=False, ruled=False)
    for row in made:
        reference.fire(row["at"])
        reference.record(Read("", 0, -1, 0, {"k": row["k"], "t": row["at"], "x": 1.0, "do": AGAIN}, NEVER, NEVER))
    reference.fire(max([end, *(row["at"] + 1 for row in made)]))
    return reference.told.of("")


def windows_of(made: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Return the rows of tumbling windows over rows with a time `at` each, by end and key."""
    groups: dict[tuple[int, bool, str], list[dict[str, Any]]] = {}
    for row in made:
        groups.setdefault((row["at"] // size * size + size, row["k"] is not None, row["k"] or ""), []).append(row)
    return [{"k": rows[0]["k"], "n": len(rows), "all": [row["said"] for row in rows], "at": end - 1} for (end, *_), rows in sorted(groups.items())]


def chained(delays: dict[str, int], **options: Any) -> Plan:
    def windows(made: Any) -> hr.Stream:
        return (
            made.where("said NOT LIKE 'seen%' AND said NOT LIKE 'rule%'")
            .window(hr.tumbling(hr.seconds(4)), by=["k"])
            .aggregate(n="COUNT(*)", all="ARRAY_AGG(said)")
        )

    def behind_windows(_: Any) -> hr.Stream:
        counts = source("beside", 2_000).window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(n="COUNT(*)")
        return again(again(counts, "of_counts"), "third")

    return plan_of(
        delays,
        **options,
        both=lambda made: made.union(made.side("aside")).derive(twice="at * 2").where("said <> 'lost' AND said NOT LIKE 'rule%'"),
        windows=windows,
        gathered=lambda made: windows(made).aggregate(by=[], n="SUM(n)"),
        second=lambda made: again(made.where("said NOT LIKE 'rule%'")),
        third=behind_windows,
    )


@examples(12, 300)
@given(cases(), partitions(failing=False), st.randoms(use_true_random=False))
def test_what_stands_behind_a_process_gives_what_the_reference_gives(case: Any, beside: list[bytes], chance: random.Random) -> None:
    inputs, delays, options = case
    told = expected(inputs, delays, **options)
    heard = max((one.time for one in read(inputs, delays)[0]), default=NEVER)
    main, aside = ([row for row in told.of(name) if not row["said"].startswith("rule")] for name in ("", "aside"))  # these do not say their time
    both = sorted([*main, *(row for row in aside)], key=lambda row: row["at"])
    windows = windows_of([row for row in main if not row["said"].startswith("seen")], 4_000)
    counted, _ = read({"beside": [beside]}, {"beside": 2_000})
    on_time = [one for one in counted if one.time // 4_000 * 4_000 + 3_999 > one.mark]
    counts = windows_of([{"k": one.row["k"], "at": one.time, "said": ""} for one in on_time], 4_000)
    last = max((one.time for one in counted), default=NEVER)
    second_of_counts = told_again(counts, last + 1)
    wanted = {
        "both": [row | {"twice": row["at"] * 2} for row in both],
        "windows": [(row["k"], row["n"], row["all"]) for row in windows],
        "gathered": [sum(row["n"] for row in windows if row["at"] == at) for at in sorted({row["at"] for row in windows})],
        "second": told_again(main, heard + 1),
        "third": told_again(second_of_counts, max([last, *(row["at"] for row in counts)]) + 1),
    }
    with TemporaryDirectory() as folder:
        files = written_files(Path(folder), {**inputs, "beside": [beside]})
        found, _ = run(chained(delays, **options), files)
        assert rows(found.get("both")) == wanted["both"]
        assert [(row["k"], row["n"], row["all"]) for row in rows(found.get("windows"))] == wanted["windows"]
        assert [row["n"] for row in rows(found.get("gathered"))] == wanted["gathered"]
        assert rows(found.get("second")) == wanted["second"]
        assert rows(found.get("third")) == wanted["third"]
        assert run(chained(delays, **options), files, chance)[0] == found


def test_a_process_that_keeps_something_on_itself_at_its_last_timer(tmp_path: Path) -> None:
    class Forgetful(Unruled):
        def on_timer(self, name: str, state: Any) -> Any:
            self.last = name
            return super().on_timer(name, state)

    def build() -> dict[str, hr.Stream]:
        return {"out": source("one", 0).process(Forgetful(), by=["k"])}

    files = written_files(tmp_path, {"one": [[line(0, do="timer:2000:p"), line(2)]]})
    with pytest.raises(ProcessError, match="Forgetful keeps 'last' on itself, where no commit knows of it"):
        run(hr.pipeline("machine", version="1")(build).plan(), files)


class Dates:
    """Says each record's `x` as a moment, alone and in containers."""

    state = {"last": hr.Value("TIMESTAMP_LTZ(3)")}
    output = {
        "at": "TIMESTAMP_LTZ(3)", "all": "ARRAY<TIMESTAMP_LTZ(3)>", "by": "MAP<STRING, TIMESTAMP_LTZ(3)>", "one": "ROW<x TIMESTAMP_LTZ(3)>"
    }  # fmt: skip

    def on_record(self, row: Any, state: Any) -> Any:
        at = int(row["x"])
        state.last = at if row["do"] == "state" else None
        given = {"at": at, "all": [at], "by": {"a": at}, "one": {"x": at}}
        return {row["do"]: given[row["do"]]} if row["do"] in given else None


@pytest.mark.parametrize("where", ["at", "all", "by", "one", "state"])
def test_a_moment_outside_the_years_1_to_9999_is_off_its_type_wherever_it_stands(where: str, tmp_path: Path) -> None:
    moments = [FIRST_MS - 1, FIRST_MS, 0, LAST_MS, LAST_MS + 1, 2**62]
    (tmp_path / "in.ndjson").write_bytes(b"".join(line(n, do=where, x=float(ms)) + b"\n" for n, ms in enumerate(moments)))

    def build() -> dict[str, hr.Stream]:
        dates = source("in", 0).process(Dates(), by=["k"], failed_to="failed")
        return {"out": dates, "windows": dates.where("at IS NOT NULL").window(hr.tumbling(timedelta(days=1)), by=["at"]).aggregate(n="COUNT(*)")}

    for form in ("ndjson", "parquet"):
        run_files(hr.pipeline("dates", version="1")(build).plan(), {"in": [tmp_path / "in.ndjson"]}, tmp_path / form, output_format=form)
    found = [json.loads(one) for one in (tmp_path / "ndjson" / "out.ndjson").read_bytes().splitlines()]
    failed = [json.loads(one) for one in (tmp_path / "ndjson" / "failed.ndjson").read_bytes().splitlines()]
    assert [one["offset"] for one in failed] == [0, 4, 5]
    assert all("off its type: " in one["detail"] and "outside the years 1 to 9999" in one["detail"] for one in failed)
    assert len(found) == (0 if where == "state" else 3)
    assert pl.read_parquet(tmp_path / "parquet" / "out.parquet").height == len(found)
    assert b"ERROR" not in (tmp_path / "ndjson" / "out.ndjson").read_bytes()


def test_rows_that_come_in_no_order_of_time_go_into_no_process_that_wants_it() -> None:
    made = source("one", 0).process(Unruled(), by=["k"], order="arrival")
    with pytest.raises(PlanError, match="come in no order of time"):
        made.process(Unruled(), by=["k"], name="again")


def test_keys_on_the_disk_that_are_damaged_by_a_byte(tmp_path: Path) -> None:
    plan, files = plan_of({"one": 0}), written_files(tmp_path, {"one": [[line(0), line(1), line(2)]]})
    with pytest.raises(KeyboardInterrupt):
        run_files(plan, files, tmp_path / "out", chunk=70, commit_seconds=0, progress=interrupt)
    parts = list((tmp_path / "out" / ".run").glob("*.part"))
    assert parts
    for part in parts:
        data = part.read_bytes()
        part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(EnvironmentFault, match=r"\.part: is damaged: its checksum is another; remove .*\.run to start anew"):
        run_files(plan, files, tmp_path / "out")


def interrupt(at: Progress) -> None:
    if at.received == 2:
        raise KeyboardInterrupt


class Limited:
    """Tells of what is above a limit that all keys share."""

    output = {"n": "BIGINT"}
    shared = {"limit": hr.Value("BIGINT", 1)}

    def on_broadcast(self, row, shared):
        shared.limit = int(row["x"])

    def on_record(self, row, state):
        return {"n": row["n"]} if row["n"] > state.shared.limit else None


class Announced(Limited):
    """Announces each limit, for a key of its own."""

    def on_broadcast(self, row, shared):
        shared.limit = int(row["x"])
        yield {"k": f"limit {shared.limit}", "n": None}

    def on_record(self, row, state):
        return super().on_record({"n": int(row["x"])}, state)


def test_rows_for_broadcast_records_have_their_time_and_come_before_those_of_records(tmp_path: Path) -> None:
    @hr.pipeline("announced", version="1")
    def announced() -> dict[str, hr.Stream]:
        made = source("one", 0).process(Announced, by=["k"], broadcast=source("rules", 2_000))
        return {"out": made, "windows": made.window(hr.tumbling(hr.seconds(4)), by=["k"]).aggregate(rows="COUNT(*)")}

    inputs = {
        "one": [[line(second, x=second) for second in range(12)]],
        "rules": [[line(second, x=x) for second, x in ((3, 3.0), (9, 5.0), (1, 8.0))]],
    }
    found, _ = run(announced.plan(), written_files(tmp_path, inputs))
    at_a = [{"k": "a", "n": n} for n in range(12)]
    first, second, late = ({"k": f"limit {limit}", "n": None} for limit in (3, 5, 8))
    assert rows(found["out"]) == [*at_a[2:3], first, *at_a[4:7], late, second, *at_a[9:]]
    starts = {row["k"]: row["window_start"][17:] for row in rows(found["windows"]) if row["k"] != "a"}
    assert starts == {"limit 3": "00Z", "limit 5": "08Z", "limit 8": "04Z"}  # the last is late: it counts from the watermark, 7 s, on


class Numbers:
    """Numbers the records of a key."""

    output = {"n": "BIGINT"}
    state = {"n": hr.Value("BIGINT", 0)}

    def on_record(self, _row, state):
        state.n += 1
        return {"n": state.n}


def test_the_ledger_counts_the_rules_of_a_process_behind_a_process_as_accepted(tmp_path: Path) -> None:
    @hr.pipeline("chained", version="1")
    def chained() -> dict[str, hr.Stream]:
        numbered = source("one", 0).process(Numbers, by=["k"])
        return {"out": numbered.process(Limited, by=["k"], broadcast=source("rules", 0))}

    inputs = {"one": [[line(second) for second in range(4)]], "rules": [[line(1.5, x=3.0), line(1.7, x=2.0)]]}
    found, ledger = run(chained.plan(), written_files(tmp_path, inputs))
    assert [row["n"] for row in rows(found["out"])] == [2, 3, 4]
    assert {topic: (counts["received"], counts["accepted"], counts["filtered"]) for topic, counts in ledger.items()} == {
        "one": (4, 4, 0),
        "rules": (2, 2, 0),
    }
