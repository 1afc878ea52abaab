"""A process driven over records without an engine."""

from __future__ import annotations

from typing import Any

import pytest

import headrace as hr
from headrace.apps.rules import Hampel, Watch


class Latest:
    """Gives what it keeps, which goes after 10 s, and tells of a minute's silence."""

    output = {"before": "BIGINT", "limit": "BIGINT"}
    side_outputs = {"silent": {"at": "BIGINT"}}
    state = {"value": hr.Value("BIGINT", ttl=hr.seconds(10))}
    shared = {"limit": hr.Value("BIGINT", 0)}

    def on_broadcast(self, row: dict[str, Any], shared: Any) -> None:
        shared.limit = row["limit"]

    def on_record(self, row: dict[str, Any], state: Any) -> Any:
        yield {"before": state.value, "limit": state.shared.limit}
        state.value = row["v"]
        state.set_timer("silence", state.time + 60_000)

    def on_timer(self, _name: str, state: Any) -> Any:
        return "silent", {"at": state.time}


RECORDS = [{"k": "a", "t": 9_999, "v": 2}, {"k": "a", "t": 0, "v": 1}, {"k": "b", "t": 5, "v": 7}, {"k": "a", "t": 19_999, "v": 3}]


def test_records_come_by_time_state_ages_and_broadcasts_come_first() -> None:
    given = hr.drive(Latest, RECORDS, by="k", time="t", broadcast=[{"t": 9_999, "limit": 5}])
    assert given == [
        ("", {"k": "a", "before": None, "limit": 0}),
        ("", {"k": "b", "before": None, "limit": 0}),
        ("", {"k": "a", "before": 1, "limit": 5}),
        ("", {"k": "a", "before": None, "limit": 5}),
    ]


def test_a_row_for_a_broadcast_record_has_null_for_a_key_that_it_omits() -> None:
    """As in a run."""

    class Limited(Latest):
        def on_broadcast(self, row: dict[str, Any], shared: Any) -> Any:
            super().on_broadcast(row, shared)
            yield {"limit": row["limit"]}
            yield "silent", {"k": "all", "at": row["t"]}

    assert hr.drive(Limited, [], by=["k", "j"], time="t", broadcast=[{"t": 5, "limit": 1}]) == [
        ("", {"k": None, "j": None, "before": None, "limit": 1}), ("silent", {"k": "all", "j": None, "at": 5}),
    ]  # fmt: skip


def test_time_passes_up_to_a_moment() -> None:
    given = hr.drive(Latest(), RECORDS, by=["k"], time="t", upto=60_006)
    assert given[-1] == ("silent", {"k": "b", "at": 60_005})
    assert hr.drive(Latest(), RECORDS, by=["k"], time="t", upto=60_005)[-1][0] == ""


def test_records_of_other_inputs_come_at_their_times_behind_those_of_the_stream() -> None:
    class Counter:
        output = {"called": "STRING"}

        def on_record(self, row: dict[str, Any], _state: Any) -> Any:
            yield {"called": f"record {row['v']}"}

        def on_add(self, row: dict[str, Any], _state: Any) -> Any:
            yield {"called": f"add {row['v']}"}

        def on_set(self, row: dict[str, Any], _state: Any) -> Any:
            yield {"called": f"set {row['v']}"}

    more = {"set": [{"k": "a", "t": 9_999, "v": 8}], "add": [{"k": "a", "t": 9_999, "v": 9}, {"k": "a", "t": 9_998, "v": 10}]}
    given = hr.drive(Counter, RECORDS, by="k", time="t", inputs=more)
    assert [row["called"] for _, row in given] == ["record 1", "record 7", "add 10", "record 2", "set 8", "add 9", "record 3"]
    assert [row["called"] for _, row in hr.drive(Counter, RECORDS[:1], by="k", time="t")] == ["record 2"]
    with pytest.raises(hr.PlanError, match=r"Counter has no on_sett; write on_sett\(self, row, state\)"):
        hr.drive(Counter, RECORDS, by="k", time="t", inputs={"sett": []})
    with pytest.raises(hr.PlanError, match="on_record is called for something else"):
        hr.drive(Counter, RECORDS, by="k", time="t", inputs={"record": []})


def test_the_kilns_processes_are_driven_so() -> None:
    readings = [{"equip_id": "1", "sensor": "a", "at": second * 1000, "value": 95.0} for second in range(3)]
    watch = Watch(10, 90, in_a_row=3, hysteresis=2, silence_ms=30_000)
    told = [row["event"] for _, row in hr.drive(watch, readings, by=["equip_id", "sensor"], time="at", upto=40_000)]
    assert told == ["critical", "no data"]
    assert hr.drive(Hampel, readings, by=["equip_id", "sensor"], time="at") == []


def test_mistakes_are_told_as_in_a_run() -> None:
    class Bad(Latest):
        def on_record(self, row: dict[str, Any], state: Any) -> Any:
            state.valeu = row["v"]

    with pytest.raises(hr.ProcessError, match=r"records/0 offset 0, key k 'a'.*did not declare: 'valeu'; did you mean 'value'"):
        hr.drive(Bad, RECORDS[1:2], by="k", time="t")
    with pytest.raises(hr.PlanError, match="no 'key'"):
        hr.drive(Latest, RECORDS, by="key", time="t")
    with pytest.raises(hr.ProcessError, match=r"broadcast 1.*on_broadcast raised KeyError"):
        hr.drive(Latest, RECORDS, by="k", time="t", broadcast=[{"t": 0, "limit": 1}, {"t": 0}])
