"""The ledger of a job on a cluster, from its entries."""

from __future__ import annotations

import headrace as hr
from headrace.engines.entries import added_up
from headrace.plan.pipeline import Plan


def plan() -> Plan:
    return hr.pipeline("trial", version="1")(lambda: {"out": hr.stream("t", schema={"x": "DOUBLE"}).select("x")}).plan()


def test_entries_are_added_up_and_what_none_tells_is_unknown() -> None:
    entries = [{"topic": "t", "received": 5, "malformed": 1, "future": 0}, {"topic": "t", "reached": 3, "accepted": 2}, {"topic": "t", "received": 5}]
    assert added_up(plan(), entries)["t"] == {
        "received": 10, "accepted": 2, "duplicate": 0, "malformed": 1, "future": 0, "late": 1, "filtered": 6, "shed": 0,
    }  # fmt: skip
    unknown = added_up(plan(), entries[:1])["t"]
    assert (unknown["accepted"], unknown["late"], unknown["filtered"]) == (None, None, None)


def test_an_entry_that_names_its_first_record_counts_once_and_another_plans_not_at_all() -> None:
    one = {"topic": "t", "partition": 0, "first": 0, "last": 4, "received": 5, "malformed": 1, "future": 0}
    entries = [one, one | {"partition": 1}, one, one | {"first": 5, "last": 9}, one | {"topic": "before"}]
    assert added_up(plan(), entries)["t"]["received"] == 15


def test_of_a_topic_that_nothing_came_to_all_is_known() -> None:
    assert set(added_up(plan(), [])["t"].values()) == {0}
