"""Quality of the detectors on public data sets and on the simulated water plant, beside *always alarm* and *random*: make bench-detect.

Detectors are fitted to normal rows, and their thresholds come from held-out normal rows: labels are read by the scorers alone. Scores come row by row
from the code that runs in pipelines. docs/detection.md says how each data set is scored and where the settings come from.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection import nab
from detection.points import Counts
from detection.sets import TEP_NORMAL, Run, skab, tep
from detection.water import judged as water
from headrace.detect.calibration import Calibration
from headrace.detect.fitting import fit
from headrace.detect.model import Model
from headrace.detect.scorer import scorer_of
from headrace.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
MULTIVARIATE: dict[str, dict[str, Any]] = {
    "robust_z": {},
    "mahalanobis": {},
    "pca": {"variance": 0.9},
    "lagged_pca": {"variance": 0.9, "lags": 2},
    "ar": {"lags": 2},
    "var": {"lags": 2},
}
UNIVARIATE: dict[str, dict[str, Any]] = {"robust_z": {}, "ar": {"lags": 3}, "cusum": {}, "novelty": {}}
FITTED = 400  # rows of a run of SKAB
DRAWS = 20
SKAB_PUBLISHED = {
    "Conv-AE": (0.78, 13.6, 28.0), "MSET": (0.78, 39.7, 14.1), "T²+Q": (0.76, 26.6, 24.9),
    "LSTM-AE": (0.74, 30.0, 25.9), "T²": (0.66, 19.2, 42.6), "isolation forest": (0.29, 2.6, 82.9),
}  # fmt: skip


class Row(NamedTuple):
    """A row of a table: who, and the figures."""

    name: str
    figures: dict[str, float | str | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="a folder with skab, tep and nab")
    parser.add_argument("--nab", type=Path, help="a whole checkout of NAB, with its results")
    parser.add_argument("--only", choices=("skab", "tep", "nab", "water"), help="one part")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "detection.json", help="where the figures are written")
    asked = parser.parse_args()
    parts = {
        "SKAB valve1": ("skab", asked.data / "skab", on_skab),
        "Tennessee Eastman": ("tep", asked.data / "tep", on_tep),
        "NAB": ("nab", asked.nab or asked.data / "nab", on_nab),
        "Simulated water plant": ("water", None, on_water),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for title, (name, folder, judge) in parts.items():
        if asked.only not in (None, name):
            continue
        if folder is not None and not folder.is_dir():
            print(f"{title}: no data at {folder}; docs/detection.md says where they come from\n", file=sys.stderr)
            continue
        rows = list(judge(folder))
        shown(title, rows)
        found[title] = [{"name": row.name, **row.figures} for row in rows]
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(asked.json)


def shown(title: str, rows: Sequence[Row]) -> None:
    """Print a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    cells = [["detector", *columns], *([row.name, *(_cell(row.figures.get(name, "")) for name in columns)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"## {title}\n")
    for place, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if not place:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


def _cell(value: float | str | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}"


def _dice() -> random.Random:
    return random.Random(0)  # noqa: S311


# rows that are judged one by one


def anomalies(model: Model, run: Run) -> list[bool]:
    """Return for each row of a run whether there is an anomaly."""
    scorer = scorer_of(model)
    columns = [run.tags.index(tag) for tag in model.tags]
    rows = np.array(run.rows)[:, columns]
    return [one.anomaly for one in scorer.score_block(rows, run.times, scorer.start())]


def fitted(kind: str, run: Run, rows: int, calibration: Calibration, **parameters: Any) -> Model:
    """Return a detector for the first rows of a run: of the tags that change in those that are fitted."""
    values = np.array(run.rows[:rows])
    moving = np.ptp(values[: rows - int(rows * calibration.holdout)], axis=0) > 0
    tags = [tag for tag, moves in zip(run.tags, moving, strict=True) if moves]
    return fit(kind, values[:, moving], tags, run.times[:rows], calibration=calibration, **parameters)


def on_skab(folder: Path) -> Iterator[Row]:
    """Fit to the first 400 rows of each run, and score the others."""
    runs = skab(folder)
    tail = Calibration(holdout=0.3, false_alarm_rate=1e-4, tail="lognormal", smoothing=0.2)
    plain = Calibration(holdout=0.3, false_alarm_rate=0.01)
    best = Counts()
    for calibration, how in ((plain, "plain"), (tail, "smoothed")):
        for kind, parameters in MULTIVARIATE.items():
            counts = Counts()
            for run in runs:
                model = fitted(kind, run, FITTED, calibration, **parameters)
                counts = counts.plus(Counts.of(anomalies(model, run)[FITTED:], run.abnormal[FITTED:]))
            best = max(best, counts, key=lambda one: one.f1)
            yield Row(f"{kind}, {how}", skab_figures(counts))
    abnormal = [one for run in runs for one in run.abnormal[FITTED:]]
    yield Row("always alarm", skab_figures(Counts.of([True] * len(abnormal), abnormal)))
    share = (best.found + best.false) / len(abnormal)
    dice = _dice()
    yield Row("random, as often as the best", skab_figures(Counts.of([dice.random() < share for _ in abnormal], abnormal)))
    for name, (f1, false, missed) in SKAB_PUBLISHED.items():
        yield Row(f"published: {name}", {"F1": f1, "false alarms %": false, "missed %": missed})


def skab_figures(counts: Counts) -> dict[str, float | str | None]:
    return {
        "F1": round(counts.f1, 3),
        "false alarms %": round(100 * counts.false_alarm_rate, 1),
        "missed %": round(100 * counts.missed_alarm_rate, 1),
    }


def on_tep(folder: Path) -> Iterator[Row]:
    """Fit to the normal run, and score the runs with a fault: rows before it and after it apart."""
    normal, second, faults = tep(folder)
    plain = Calibration(holdout=0.3, false_alarm_rate=0.01)
    smoothed = Calibration(holdout=0.3, false_alarm_rate=0.01, tail="lognormal", smoothing=0.2)
    strict = Calibration(holdout=0.3, false_alarm_rate=1e-4, tail="lognormal", smoothing=0.2)
    for calibration, how in ((plain, "plain"), (smoothed, "smoothed"), (strict, "smoothed, rate 0.01 %")):
        for kind, parameters in MULTIVARIATE.items():
            if calibration is not strict or kind == "var":
                model = fitted(kind, normal, len(normal.rows), calibration, **parameters)
                quiet = anomalies(model, second)
                yield Row(f"{kind}, {how}", tep_figures([(run, anomalies(model, run)) for run in faults], quiet))
    yield Row("always alarm", tep_figures([(run, [True] * len(run.rows)) for run in faults], [True]))
    dice = _dice()
    drawn = [(run, [dice.random() < 0.03 for _ in run.rows]) for run in faults]
    yield Row("random, 3 % of the rows", tep_figures(drawn, [dice.random() < 0.03 for _ in second.rows]))


def tep_figures(found: Sequence[tuple[Run, Sequence[bool]]], quiet: Sequence[bool]) -> dict[str, float | str | None]:
    before = [Counts.of(alarms[:TEP_NORMAL], run.abnormal[:TEP_NORMAL]).false_alarm_rate for run, alarms in found]
    after = {run.name[:3]: Counts.of(alarms[TEP_NORMAL:], run.abnormal[TEP_NORMAL:]).detection_rate for run, alarms in found}
    return {
        "detection": round(sum(after.values()) / len(after), 3),
        "false alarms": round(sum(before) / len(before), 3),
        "false alarms, d00_te": round(sum(quiet) / len(quiet), 3),
        **{name: round(rate, 3) for name, rate in after.items()},
    }


# series that are judged by NAB's score


class Labelled(NamedTuple):
    """A series of NAB."""

    name: str
    times: list[str]
    values: list[float]
    windows: list[tuple[int, int]]


def on_nab(folder: Path) -> Iterator[Row]:
    """Score each series as it comes; the threshold is NAB's."""
    corpus = [_labelled(folder, name, windows) for name, windows in nab.windows(folder / "labels" / "combined_windows.json").items()]
    series = [one for one in corpus if one is not None]
    for kind, parameters in UNIVARIATE.items():
        yield Row(kind, nab_figures([nab.Series(one.name, _online(kind, one, parameters), one.windows) for one in series]))
    yield Row("always alarm", nab_figures([nab.Series(one.name, [1.0] * len(one.values), one.windows) for one in series]))
    dice = _dice()
    draws = [nab_figures([nab.Series(one.name, [dice.random() for _ in one.values], one.windows) for one in series]) for _ in range(DRAWS)]
    yield Row(f"random, mean of {DRAWS}", {name: round(sum(float(draw[name] or 0) for draw in draws) / DRAWS, 1) for name in draws[0]})
    for path in sorted((folder / "results").glob("*/")):
        if (path / "realKnownCause").is_dir():
            yield Row(f"published: {path.name}", nab_figures([_published(path, one) for one in series]))


def _labelled(folder: Path, name: str, windows: Sequence[tuple[str, str]]) -> Labelled | None:
    path = folder / "data" / name
    if not path.exists():
        return None
    times, values = nab.values(path)
    return Labelled(name, times, values, [(times.index(first), times.index(last)) for first, last in windows])


def _published(path: Path, one: Labelled) -> nab.Series:
    group, _, name = one.name.partition("/")
    return nab.Series(one.name, nab.values(path / group / f"{path.name}_{name}", "anomaly_score")[1], one.windows)


def _online(kind: str, one: Labelled, parameters: dict[str, Any]) -> list[float]:
    """Return the scores of a series: fitted to its probationary rows alone."""
    learned = nab.probation(len(one.values))
    rows = [[value] for value in one.values]
    chosen = {"rest": learned // 5} if kind == "novelty" else {}
    try:
        model = fit(kind, rows[:learned], ["value"], **chosen, **parameters)
    except DataError:  # such as a value that never changed
        return [0.0] * len(rows)
    scorer = scorer_of(model)
    return [found.score or 0.0 for found in scorer.score_block(rows, range(0, 1000 * len(rows), 1000), scorer.start())]


def nab_figures(corpus: Sequence[nab.Series]) -> dict[str, float | str | None]:
    known = [one for one in corpus if one.name.startswith("realKnownCause/")]
    parts = {"realKnownCause": known} | ({f"corpus ({len(corpus)} series)": corpus} if len(corpus) > len(known) else {})
    return {
        f"{name}, {profile}" if len(parts) > 1 else profile: round(nab.normalised(part, nab.PROFILES[profile])[0], 1)
        for name, part in parts.items()
        for profile in (nab.PROFILES if len(parts) == 1 else ("standard",))
    }


# the water plant


def on_water(folder: Path | None) -> Iterator[Row]:  # noqa: ARG001
    """Judge alarms of detectors by the labels of a simulation."""
    yield from (Row(name, figures) for name, figures in islice(water(), 100))


if __name__ == "__main__":
    main()
