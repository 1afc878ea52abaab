"""The page of what engines support says what they did."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conformance import features, suite, support
from conformance.engine import CLUSTERS, Engine

HINT = "run python tests/conformance/support.py"


@pytest.mark.parametrize("run", ["short", pytest.param("whole", marks=pytest.mark.long)])
def test_the_recorded_results_are_those_of_now(run: str, engine: Engine, outcomes: suite.Outcomes) -> None:
    path = support.RESULTS / f"{engine.name}.json"
    assert path.exists(), HINT
    recorded = json.loads(path.read_text())
    assert path.read_text() == support.text(recorded), HINT
    assert support.of(recorded, outcomes) == support.results(engine, outcomes), HINT
    if run == "whole":
        assert outcomes.keys() >= suite.jobs().keys()


@pytest.mark.parametrize("engine", CLUSTERS)
def test_a_clusters_sample_has_what_the_cases_have(engine: str) -> None:
    whole = {**suite.cases(), **suite.restarted()}
    sample = {name: case for name, case in whole.items() if name not in suite.left_out(engine)}
    for feature, has in features.FEATURES.items():
        assert any(map(has, sample.values())), feature
    assert all(engine not in {*case.unsupported, *case.differs} for name, case in suite.cases().items() if name not in sample)
    assert len(sample) < len(whole) / 2
    assert suite.asked(engine, whole=True).keys() - suite.asked(engine, whole=False).keys() == whole.keys() - sample.keys()


def test_the_page_says_what_is_recorded() -> None:
    assert support.PAGE.read_text() == support.page(support.recorded()), HINT


@pytest.mark.parametrize("feature", features.FEATURES)
def test_each_feature_has_cases(feature: str) -> None:
    assert len(features.having(feature)) >= 3


def test_a_gap_shows_on_the_page() -> None:
    (embedded,) = (one for one in support.recorded() if one["engine"] == "embedded")
    late = features.having("late rows kept, `late_to`")
    gaps: dict[str, Any] = {
        "engine": "other",
        "otherwise": {**{f"case {name}": "refused: late_to" for name in late}, **{f"case {name}": "live it is otherwise" for name in suite.restarted()}},
        "functions_otherwise": {"MAP_AGG": ["there is none"], "%": ["5 % 3"]}, "ledger_nulls": ["late"],
    }  # fmt: skip
    page = support.page([embedded, embedded | gaps])
    rows = {line.split(" | ")[0].lstrip("| ").rsplit(" (", 1)[0]: line for line in page.splitlines() if line.startswith("| ")}
    assert rows["late rows kept, `late_to`"].endswith("| yes | no |")
    assert rows["restarts between records"].endswith("| yes | no |")
    assert rows["the ledger"].endswith("| yes | all but late |")
    assert rows["aggregate functions"].endswith(f"| {len(support.AGGREGATES) - 1} of {len(support.AGGREGATES)} |")
    assert f"- refused: late_to ({', '.join(late[:5])} and {len(late) - 5} more)" in page
    assert "- `MAP_AGG`: there is none" in page
