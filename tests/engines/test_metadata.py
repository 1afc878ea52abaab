"""Metadata of records on clusters: what they cannot provide they refuse by name."""

from __future__ import annotations

import pytest

import headrace as hr
from headrace.engines.flink.places import Files, Kafka, Places, Staged
from headrace.engines.flink.script import flink_script
from headrace.errors import PlanError
from headrace.plan.pipeline import Plan


def plan_with(*kinds: str) -> Plan:
    stream = hr.stream("in", schema={"v": "BIGINT"}, metadata={f"the_{kind}": kind for kind in kinds})
    return hr.pipeline("known", version="1")(lambda: {"out": stream}).plan()


@pytest.mark.parametrize("places", [Files(), Staged()], ids=["files", "staged"])
def test_flink_refuses_the_offset_of_a_files_record_by_name(places: Places) -> None:
    with pytest.raises(
        PlanError, match="Flink cannot provide the offset of a file's record, which column 'the_offset' holds; read the records from Kafka"
    ):
        flink_script(plan_with("partition", "offset"), places)
    assert "`the_key`" in flink_script(plan_with("key", "headers", "partition", "arrival_time"), places)


def test_flink_reads_keys_and_headers_only_where_a_plan_declares_them() -> None:
    places = Kafka("127.0.0.1:1", "known")
    without = flink_script(plan_with("partition", "offset", "arrival_time"), places)
    assert not any(word in without for word in ("'key.format'", "`headers`", "HR_UTF8", "HR_HEADERS"))
    given = flink_script(plan_with("key", "headers"), places)
    assert all(word in given for word in ("'key.format'", "`headers`", "HR_UTF8", "HR_HEADERS"))
