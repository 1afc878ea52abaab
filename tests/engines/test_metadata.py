"""Metadata of records on clusters: what they cannot provide they refuse by name."""

from __future__ import annotations

import pytest

import headrace as hr
from headrace.engines.flink.places import Kafka, Places
from headrace.engines.flink.script import flink_script
from headrace.engines.spark.script import live_script, spark_script
from headrace.errors import PlanError
from headrace.plan.pipeline import Plan

KINDS = ["key", "headers", "partition", "offset", "arrival_time"]


def plan_with(kind: str) -> Plan:
    stream = hr.stream("in", schema={"v": "BIGINT"}, metadata={"known": kind})
    return hr.pipeline("known", version="1")(lambda: {"out": stream}).plan()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [None, Kafka("127.0.0.1:1", "known")], ids=["files", "kafka"])
def test_flink_refuses_metadata_by_name(kind: str, places: Places | None) -> None:
    with pytest.raises(
        PlanError, match=f"Flink cannot provide the {kind.replace('_', ' ')} of a record, which column 'known' holds; run it on the emb"
    ):
        flink_script(plan_with(kind), places)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", [spark_script, live_script])
def test_spark_refuses_metadata_by_name(kind: str, script: object) -> None:
    assert callable(script)
    with pytest.raises(
        PlanError, match=f"Spark cannot provide the {kind.replace('_', ' ')} of a record, which column 'known' holds; run it on the emb"
    ):
        script(plan_with(kind))
