"""`headrace fit`: the model of a detector from files of history."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace._json import NOT_JSON
from headrace.backtest.figures import iso
from headrace.backtest.labels import labels_of
from headrace.cli.paths import GROUP, InputPath, OutputPath, local_path, refuse_equal
from headrace.cli.tables import counted, printable
from headrace.cli.values import duration_ms, pair_of
from headrace.detect.calibration import Calibration
from headrace.detect.history import History, Span, Table, moment_of
from headrace.detect.kinds import PARAMETERS
from headrace.detect.kinds import Parameter as Value
from headrace.detect.model import Model
from headrace.detect.model_file import save
from headrace.errors import DataError, PlanError, first_of, near

if TYPE_CHECKING:
    from headrace.plant.tags import Tags

__all__ = ["fit"]


def fit(
    kind: str,
    /,
    *,
    input: Annotated[list[str], Parameter(name="--input", negative=(), allow_leading_hyphen=True)],
    to: OutputPath,
    name: str | None = None,
    time: str | None = None,
    values: str | None = None,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    tags: str | None = None,
    without: str | None = None,
    tag_list: InputPath | None = None,
    normal: Annotated[list[str] | None, Parameter(negative=())] = None,
    labels: InputPath | None = None,
    grace: str = "0s",
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    calibration: Annotated[Calibration, Parameter(name="*")] = Calibration(),
) -> None:
    """Fit the model of a detector to normal history, for hr.detect. Needs the extra learn.

    Parameters
    ----------
    kind
        range, rate, stuck, states, robust_z, ewma, cusum, page_hinkley, ar, var, pca, mahalanobis, lagged_pca, adwin, replayed or novelty.
    input
        FILE …: NDJSON, CSV or Parquet with a row of all tags for each time, or with readings: tag, time, value, quality.
    to
        The file of the model.
    name
        What the detector is called; by default as its file.
    time
        The column with the time; by default t_stamp, timestamp, time, datetime or date.
    values
        A column with an object of all tags.
    only
        COLUMN=VALUE: rows of one asset alone.
    tags
        NAME,NAME: the tags; by default all columns that are numbers or states.
    without
        NAME,NAME: columns that are no tags.
    tag_list
        The plant's tag list, for units.
    normal
        START..END in ISO 8601: when operation was normal; may be given several times.
    labels
        CSV file of events, start,end,name: rows within them are left out.
    grace
        How long after an event rows are left out too.
    set
        KEY=VALUE for a parameter of the kind.
    """
    if kind not in PARAMETERS:
        raise PlanError(f"unknown kind {kind!r}", where="fit", fix=near(kind, PARAMETERS))
    from headrace.detect.fitting import fit as fit_model

    files = [local_path(one, "--input") for group in input for one in group.split(GROUP)]
    refuse_equal([("--to", to)], files)
    parameters = dict(_parameter(kind, one) for one in set or [])
    spans = [_span(one) for one in normal or []]
    after = duration_ms(grace, "--grace")
    if after and labels is None:
        raise PlanError("there are no labels that it is after", where="--grace", fix="give --labels, or leave it out")
    events = [] if labels is None else [Span(one.start, one.end + after, one.name) for one in labels_of(labels)]
    listed = None if tag_list is None else _tags(tag_list)
    history = History(time=time, values=values, only=_pairs(only or []))
    _read(files, history)
    table = history.table(
        tags=_names(tags),
        without=_names(without),
        normal=spans,
        labels=events,
        changing=0.0 if kind in {"range", "states"} else 1 - calibration.holdout,
    )
    model = fit_model(
        kind, table.values, table.tags, table.times, name=name or to.stem, units=_units(listed, table.tags), states=table.states,
        excluded=table.excluded, calibration=calibration, **parameters,
    )  # fmt: skip
    save(model, to)
    _print(model, table, history.repeated, to)


def _read(files: Sequence[Path], history: History) -> None:
    """Add the rows of files to a history; lines that cannot be read and rows without a time are counted, and reported.

    Raises
    ------
    DataError
        If no row has a time.
    """
    unread: list[str] = []
    without_time: list[DataError] = []
    for path in files:
        for row, where in _rows(path, unread):
            try:
                history.add(row, where)
            except DataError as error:
                without_time.append(error)
    if unread:
        print(f"headrace: {counted(len(unread), 'line')} could not be read; the first is {unread[0]}", file=sys.stderr)
    if without_time:
        if not len(history):
            raise without_time[0]
        print(f"headrace: {counted(len(without_time), 'row')} left out that had no time; the first: {without_time[0]}", file=sys.stderr)


def _rows(path: Path, unread: list[str]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield the rows of a file, each with its place."""
    from headrace.topics.files import TextFile, csv_object, open_file

    number = 0
    with closing(open_file(path)) as file:
        while not file.finished:
            found: Any = file.read()
            if not isinstance(file, TextFile):
                yield from ((row, f"{path} row {number + place}") for place, row in enumerate(found.frame.iter_rows(named=True), 1))
                number += len(found.frame)
                continue
            for place in range(len(found)):
                number += 1
                where = f"{path} record {number}"
                line = found.raw(place)
                text = line if file.separator is None else csv_object(line, file.columns or [], file.separator)
                row = _decoded(text, csv=file.separator is not None)
                if row is None:
                    unread.append(where)
                else:
                    yield row, where


def _decoded(text: bytes | str, *, csv: bool) -> Mapping[str, Any] | None:
    if csv and isinstance(text, str):  # why it does not fit the header
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except NOT_JSON:
        return None


def _names(given: str | None) -> list[str]:
    return [] if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, value = pair_of(text, "--only", "equip_id=110", "COLUMN=VALUE")
        if name in found:
            raise PlanError(f"column {name!r} has two values", where="--only", fix="fit a model for each asset")
        found[name] = value
    return found


def _parameter(kind: str, text: str) -> tuple[str, Value]:
    """Return a parameter of the type that its default has."""
    name, value = pair_of(text, "--set", "lags=3")
    default = PARAMETERS[kind].get(name)
    try:
        return name, value if default is None or isinstance(default, str) else type(default)(value)
    except ValueError:
        raise PlanError(f"is {value!r}", where=f"--set {name}", fix=f"give a number such as {default}") from None


def _span(text: str) -> Span:
    first, _, last = text.partition("..")
    start, end = moment_of(first) if first else None, moment_of(last) if last else None
    if start is None or end is None or end < start:
        fix = "write 2026-01-01T00:00Z..2026-01-01T06:00Z"
        raise PlanError(f"{text!r} is not a stretch of time START..END", where="--normal", fix=fix)
    return Span(start, end)


def _tags(path: Path) -> Tags:
    from headrace.plant.tags import load

    return load(path)


def _units(listed: Tags | None, tags: Sequence[str]) -> dict[str, str]:
    """Return the units of tags by a tag list."""
    if listed is None:
        return {}
    found = listed.of_columns(tags)
    if all(one is None for one in found.values()):
        raise DataError("has none of the history's tags", where="--tag-list", fix=near(tags[0], [tag.name for tag in listed]))
    return {name: tag.unit for name, tag in found.items() if tag is not None and tag.unit}


def _print(model: Model, table: Table, repeated: int, path: Path) -> None:
    """Print what was fitted, the threshold, and how often the rows that were held out are above it."""
    about = model.training
    print(f"{model.kind} of {counted(len(model.tags), 'tag')}: {printable(first_of(model.tags))}")
    fitted = f"fitted to {counted(about.rows, 'row')} from {iso(about.start)} on, one every {about.period / 1000:g} s"
    print(f"{fitted}; {counted(about.held_out, 'row')} up to {iso(about.end)} held out")
    if about.excluded:
        print(f"excluded: {counted(about.excluded, 'row')} that {'is' if about.excluded == 1 else 'are'} not normal")
    for why in dict.fromkeys(table.left_out.values()):
        print(f"left out, {printable(why)}: {printable(first_of([name for name, one in table.left_out.items() if one == why]))}")
    if missing := table.missing():
        print(f"missing values: {printable(first_of([f'{name} {count}' for name, count in missing.items()]))}")
    if repeated:
        print(f"left out: {counted(repeated, 'row')} with a time that there was already")
    persistence = "" if model.n == 1 else f"; {model.k} of {model.n} are, as an anomaly, in {about.anomalies:.2%}"
    print(f"threshold {model.threshold:.6g}: {about.false_alarms:.2%} of the rows held out are above it{persistence}")
    print(f"false anomalies: {about.begun} in {about.held_out * about.period / 3_600_000:.3g} h held out")
    print(f"model {path}, version {model.version}")
