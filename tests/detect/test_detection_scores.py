"""The scorers of `make bench-detect`, by examples counted by hand, and on the published files where they are there."""

from __future__ import annotations

import json
import math
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH = str(ROOT / "bench")
sys.path.append(BENCH)

from detection import nab  # noqa: E402
from detection.points import Counts  # noqa: E402
from detection.sets import TEP_NORMAL, skab, tep  # noqa: E402
from detection.water import START, raised  # noqa: E402

sys.path.remove(BENCH)  # bench/engines.py is no module of the tests

DATA = ROOT.parent / "shared" / "data"
STANDARD = nab.PROFILES["standard"]


def data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


@pytest.mark.parametrize(("on_delay_s", "expected"), [(0, [3, 2000]), (2, [22, 2002]), (4, [24, 2004]), (5, [2005]), (9, [])])
def test_an_alarm_is_raised_when_its_anomaly_has_lasted_and_not_again_within_ten_minutes(on_delay_s: int, expected: list[int]) -> None:
    there = [False] * 3000
    for start, end in ((3, 5), (20, 25), (2000, 2007)):
        there[start:end] = [True] * (end - start)
    assert [(alarm.time - START) // 1000 for alarm in raised(there, "rule", on_delay_s)] == expected


def test_rows_are_counted_as_they_are() -> None:
    alarms = [True, True, False, False, True, False, False, False]
    abnormal = [True, False, True, False, True, True, False, False]
    counts = Counts.of(alarms, abnormal)
    assert counts == Counts(found=2, false=1, missed=2, quiet=3)
    assert counts.f1 == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert (counts.false_alarm_rate, counts.missed_alarm_rate, counts.detection_rate) == (1 / 4, 1 / 2, 1 / 2)


def test_one_alarm_in_an_anomaly_finds_one_row_and_not_the_others() -> None:
    assert Counts.of([True] + [False] * 9, [True] * 10).detection_rate == 0.1  # a score adjusted by events would say 1


def test_counts_of_runs_are_added_before_rates_are_computed() -> None:
    both = Counts.of([True], [True]).plus(Counts.of([True, False, False], [False, True, True]))
    assert both == Counts(found=1, false=1, missed=2, quiet=0)
    assert both.f1 == pytest.approx(2 / (2 + 1 + 2))


def test_counts_without_rows_have_rates_of_zero() -> None:
    empty = Counts()
    assert (empty.f1, empty.false_alarm_rate, empty.missed_alarm_rate, empty.detection_rate) == (0, 0, 0, 0)


def series(alarms: set[int], windows: list[tuple[int, int]], rows: int = 200) -> nab.Series:
    return nab.Series("one", [1.0 if row in alarms else 0.0 for row in range(rows)], windows)


def score(alarms: set[int], windows: list[tuple[int, int]], profile: nab.Profile = STANDARD) -> float:
    """The score with the threshold 1, whether or not it is the best."""
    rows = list(nab.points(series(alarms, windows), profile))
    gains = {point.window: -profile.missed for point in rows if point.window}
    total = 0.0
    for point in rows:
        if point.score and point.window:
            gains[point.window] = max(gains[point.window], point.gain)
        elif point.score:
            total += point.gain
    return total + sum(gains.values())


def sigmoid(position: float) -> float:
    return 2 / (1 + math.exp(5 * position)) - 1


@pytest.mark.parametrize(
    ("alarms", "expected"),
    [
        ({100}, 1.0),  # at the first row of the window
        ({109}, sigmoid(-1 / 10) / sigmoid(-1)),  # at its last row
        ({105}, sigmoid(-5 / 10) / sigmoid(-1)),
        ({100, 105, 109}, 1.0),  # the earliest counts, and no alarm within is false
        ({104, 103}, sigmoid(-7 / 10) / sigmoid(-1)),
        (set(), -1.0),  # a miss
        ({99}, -1.0 - 0.11),  # before any window: false at full cost
        ({110}, -1.0 + 0.11 * sigmoid(1 / 9)),  # just behind: it costs little
        ({100, 127}, 1.0 + 0.11 * sigmoid(18 / 9)),
        ({100, 137}, 1.0 - 0.11),  # three widths behind and more
        ({29}, -1.0),  # within the probationary period of 15 % of 200 rows
        ({30}, -1.0 - 0.11),
    ],
)
def test_gains_and_costs_of_nab(alarms: set[int], expected: float) -> None:
    assert score(alarms, [(100, 109)]) == pytest.approx(expected)


def test_the_probationary_period_is_a_share_of_the_rows_and_750_at_most() -> None:
    assert [nab.probation(rows) for rows in (0, 6, 7, 200, 205, 5000, 5001, 22_695)] == [0, 0, 1, 30, 30, 750, 750, 750]


def test_the_second_window_counts_from_its_own_start_and_the_distance_from_the_last_one_before() -> None:
    windows = [(50, 59), (100, 119)]
    assert score({50, 100}, windows) == pytest.approx(2.0)
    assert score({50, 100, 124}, windows) == pytest.approx(2.0 + 0.11 * sigmoid(5 / 19))


def test_a_detector_without_alarms_scores_0_and_a_perfect_one_100() -> None:
    windows = [(60, 69), (150, 159)]
    assert nab.normalised([series(set(), windows)], STANDARD) == (0.0, nab.Best(math.inf, -2.0))
    assert nab.normalised([series({60, 150}, windows)], STANDARD) == (pytest.approx(100.0), nab.Best(1.0, pytest.approx(2.0)))


def test_the_best_threshold_is_that_of_all_series_together() -> None:
    one = nab.Series("one", [0.0] * 60 + [0.9] + [0.0] * 139, [(60, 69)])
    other = nab.Series("other", [0.0] * 100 + [0.9] * 40 + [0.0] * 20 + [0.5] + [0.0] * 39, [(160, 169)])
    assert nab.normalised([one], STANDARD)[1] == nab.Best(0.9, pytest.approx(1.0))
    # For both, 0.5 finds both windows at the cost of 40 false alarms, 0.9 finds one at the same cost: no alarm at all is better.
    assert nab.normalised([one, other], STANDARD)[1] == nab.Best(math.inf, -2.0)
    fewer = other._replace(scores=[0.0 if 105 <= row < 140 else value for row, value in enumerate(other.scores)])
    assert nab.normalised([one, fewer], STANDARD)[1] == nab.Best(0.5, pytest.approx(2.0 - 5 * 0.11))


def test_the_best_threshold_is_better_than_any_other() -> None:
    """Compared with a count for each threshold."""
    for seed, profile in product(range(5), nab.PROFILES.values()):
        scores = [(row * (7 + seed) % 11) / 10 for row in range(80)]
        rows = list(nab.points(nab.Series("s", scores, [(20, 29), (50, 64)]), profile))
        totals = {}
        for threshold in {math.inf, *scores}:
            alarms = [point for point in rows if point.score >= threshold]
            false = sum(point.gain for point in alarms if point.window is None)
            found = [max((point.gain for point in alarms if point.window == window), default=-profile.missed) for window in (("s", 20), ("s", 50))]
            totals[threshold] = false + sum(found)
        best = nab.best(rows, profile)
        assert best.total == pytest.approx(max(totals.values()))
        assert totals[best.threshold] == pytest.approx(best.total)


def test_runs_of_skab_and_of_tennessee_eastman_are_read_with_their_labels() -> None:
    runs = skab(data("skab"))
    assert [run.name for run in runs] == [str(number) for number in range(16)]
    assert len(runs[0].tags) == 8
    assert {"anomaly", "changepoint"}.isdisjoint(runs[0].tags)
    assert not any(any(run.abnormal[:400]) for run in runs)
    normal, second, faults = tep(data("tep"))
    assert (len(normal.rows), len(second.rows), len(normal.tags)) == (500, 960, 52)
    assert [run.name for run in faults] == ["d01_te", "d04_te", "d05_te"]
    assert all(run.abnormal == [row >= TEP_NORMAL for row in range(960)] for run in faults)
    assert not any(normal.abnormal + second.abnormal)


def test_the_windows_of_nab_are_times_of_its_series_and_the_bounds_are_those_published() -> None:
    windows = nab.windows(data("nab") / "labels" / "combined_windows.json")
    published = json.loads((data("nab") / "final_results.json").read_text())
    assert (len(windows), sum(map(len, windows.values()))) == (58, 116)
    null, perfect = [], []
    for path in sorted((data("nab") / "data").glob("*/*.csv")):
        name = f"{path.parent.name}/{path.name}"
        times, _ = nab.values(path)
        found = [(times.index(first), times.index(last)) for first, last in windows[name]]
        assert all(first < last for first, last in found)
        starts = {first for first, _ in found}
        null.append(nab.Series(name, [0.0] * len(times), found))
        perfect.append(nab.Series(name, [float(row in starts) for row in range(len(times))], found))
    for profile, weights in nab.PROFILES.items():
        assert nab.normalised(null, weights)[0] == published["null"][profile] == 0
        assert nab.normalised(perfect, weights)[0] == pytest.approx(100)
