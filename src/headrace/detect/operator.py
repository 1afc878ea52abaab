"""`hr.detect`: the scores of a stream's rows by a model, and conditions for alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headrace._lazy import lazy_import
from headrace.errors import Mistakes, PlanError, first_of, near
from headrace.plan.stream import ProcessedStream, Stream

if TYPE_CHECKING:
    from headrace.detect import model as models
    from headrace.detect import model_file, process
    from headrace.detect.model import Model
    from headrace.plant import tags as lists
    from headrace.plant.tags import Tags
else:
    models, model_file = map(lazy_import, ("headrace.detect.model", "headrace.detect.model_file"))
    process, lists = map(lazy_import, ("headrace.detect.process", "headrace.plant.tags"))

__all__ = ["Detections", "detect"]

_READ = ("DOUBLE", "BIGINT", "STRING", "BOOLEAN")


@dataclass(frozen=True)
class Detections:
    """The streams of a detector.

    Attributes
    ----------
    scores
        A row for each row: its `score` (NULL if it has none), the `threshold`, whether there is an `anomaly`, the tags that contribute most to a
        score above the threshold with their shares, the tags that were `missing`, and the model's `version`.
    conditions
        A row whenever an anomaly begins or ends, for the custom alarms of `hr.alarm`: `tag` is the key, `definition` the detector's name.
    unknown
        A row whenever too many tags are missing for a score, with their names, and when there are enough again.
    older
        Rows that were older than the last of their key, and changed nothing.
    """

    scores: ProcessedStream
    conditions: Stream
    unknown: Stream
    older: Stream

    def topics(self, name: str = "detector", *, conditions: str = "alarm-conditions") -> dict[str, Stream]:
        """Return the streams by topics, as a pipeline returns them: that which `hr.alarm` reads, and `detector.scores` and so on."""
        return {conditions: self.conditions, **{f"{name}.{part}": getattr(self, part) for part in ("scores", "unknown", "older")}}


def detect(
    rows: Stream,
    model: Model | str | Path,
    *,
    by: str | Sequence[str],
    values: str | None = None,
    tags: Tags | str | Path | None = None,
    order: Literal["arrival", "event_time"] | None = None,
    name: str | None = None,
) -> Detections:
    """Return the scores of rows by a detector that `headrace fit` has made.

    Parameters
    ----------
    rows
        Rows with an event time and a column for each tag of the model, a number or a text. NULL, texts that are no numbers and numbers that are not
        finite are missing; they are never 0.
    model
        A model, or its file.
    by
        The column or columns that a key is made of: the asset whose tags a row has. Each key has a state of its own.
    values
        A column `MAP<STRING, …>` that has the tags, in place of columns.
    tags
        The plant's tag list, or its file: a model with a tag that it does not have, or with another unit, is refused.
    order
        `arrival`: a row is scored when it arrives. `event_time`: a watermark later, with results that depend on event times alone. By default
        `arrival`; rows of windows and processes come in the order of event time.
    name
        The detector's name in conditions, errors, metrics and state; by default the model's.

    Raises
    ------
    PlanError
        If the model cannot be read, or was fitted for other tags or units.
    EnvironmentFault
        If its file cannot be read.
    """
    if not isinstance(model, models.Model | str | Path):
        raise PlanError(f"{model!r} is not a model", where="hr.detect", fix="give a file that headrace fit has made")
    fitted = model if isinstance(model, models.Model) else model_file.load(model)
    called = fitted.name if name is None else name
    where = f"detector {called}"
    keys = [by] if isinstance(by, str) else [*by]
    if not isinstance(rows, Stream):
        raise PlanError(f"{rows!r} is not a stream", where=where, fix="write hr.stream(topic, schema=…, event_time=…)")
    mistakes = [*_key_mistakes(keys, where), *_column_mistakes(rows, fitted, values, where)]
    if tags is not None and not isinstance(tags, lists.Tags | str | Path):
        raise PlanError(f"{tags!r} is not a tag list", where=f"{where} tags", fix="give hr.Tags or the file of the list")
    if tags is not None:
        mistakes += _tag_mistakes(tags if isinstance(tags, lists.Tags) else lists.load(tags), fitted, where)
    Mistakes.report(mistakes)
    made = rows.process(
        process.Detector(fitted, called, values), by=keys, order=order or ("event_time" if rows.node.traits.derived else "arrival"), name=called
    )
    key = " || '/' || ".join(f"CAST({_quoted(column)} AS STRING)" for column in keys)
    conditions = made.side("conditions").select("definition", "time", "active", "value", "threshold", "contributions", "version", tag=key)
    return Detections(made, conditions, made.side("unknown"), made.side("older"))


def _quoted(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def _key_mistakes(keys: Sequence[str], where: str) -> list[PlanError]:
    """Return which columns of a key have the name of a column of the output."""
    taken = {*process.Detector.output, *(name for one in process.Detector.side_outputs.values() for name in one)}
    return [
        PlanError(
            f"the key column {name!r} has the name of a column of the detector's output", where=where, fix=f"rename it: .derive(asset={name!r})"
        )
        for name in keys
        if name in taken
    ]


def _column_mistakes(rows: Stream, model: Model, values: str | None, where: str) -> list[PlanError]:
    """Return which columns of a model are not in rows."""
    names = rows.schema.names
    if values is not None:
        if values not in names:
            return [PlanError(f"there is no column {values!r}", where=where, fix=near(values, names))]
        kind = rows.schema[values].type
        if kind.kind != "MAP" or str(kind.element) not in _READ:
            return [PlanError(f"column {values!r} is a {kind}, and must be a MAP<STRING, DOUBLE> or a MAP<STRING, STRING>", where=where)]
        return []
    missing = [tag for tag in model.tags if tag not in names]
    if missing:
        what = f"the model needs the columns {first_of([*map(repr, missing)])}, which the rows do not have"
        return [PlanError(what, where=where, fix=f"{near(missing[0], names)}; or fit it again with the tags that there are")]
    kinds = [(tag, str(rows.schema[tag].type)) for tag in model.tags]
    return [PlanError(f"column {tag!r} is a {one}, and must be a DOUBLE or a STRING", where=where) for tag, one in kinds if one not in _READ]


def _tag_mistakes(tags: Tags, model: Model, where: str) -> list[PlanError]:
    """Return which tags of a model are not in a list, or have another unit there."""
    found = []
    for name, tag in tags.of_columns(model.tags).items():
        if tag is None:
            fix = near(name, [one.name for one in tags])
            found.append(PlanError(f"the model needs tag {name!r}, which is not in the tag list", where=where, fix=fix))
        elif (unit := model.units.get(name)) is not None and tag.unit and tag.unit != unit:
            what = f"tag {name!r} has the unit {tag.unit}, and the model was fitted with {unit}"
            found.append(PlanError(what, where=where, fix="convert the values, or fit the model again"))
    return found
