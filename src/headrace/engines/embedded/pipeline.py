"""A pipeline that can be run where it is written: in a notebook, a test or a program; and step by step in a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from headrace.engines.embedded.results import Result
from headrace.plan import pipeline as plan_pipeline
from headrace.plan.stream import Stream

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from headrace.engines.embedded.in_process import RowStream
    from headrace.engines.embedded.trial import Trial
    from headrace.plan.pipeline import Plan

__all__ = ["Pipeline", "pipeline", "test"]


class _ArrowStream(Protocol):
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class _ArrowArray(Protocol):
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


if TYPE_CHECKING:
    _Partition = str | os.PathLike[str] | pl.LazyFrame | _ArrowStream | _ArrowArray | Iterable[Mapping[str, Any] | bytes]
    Input = _Partition | Sequence[_Partition]


class Pipeline(plan_pipeline.Pipeline):
    """A pipeline as its author defined it. `run` computes it over rows, frames or files; `headrace run` runs it from the command line."""

    def run(self, inputs: Mapping[str, Input], /, **settings: Any) -> Result:  # noqa: ANN401
        """Run the pipeline over bounded inputs, as `headrace run` does over files, and return what it wrote. No file is written.

        Parameters
        ----------
        inputs
            What each topic holds, by topic: a list of dicts; a Polars, pandas or Arrow table; the path of a file (NDJSON, CSV, Parquet);
            or a list of such, which are the topic's partitions. Records are read by the rules for topics: what cannot be read is set aside.
        settings
            Values of the pipeline's settings; the others have their defaults.

        Returns
        -------
        Result
            `result["topic"]` is the table of an output: `.rows()`, `.frame`, `.arrow()`; then `.dead_letters`, `.late` and `.ledger`.

        Raises
        ------
        PlanError
            If an input, a topic or a setting is not one of the pipeline's, or a record is no dict.
        DataError
            If a frame or file as a whole does not fit the schema.
        EnvironmentFault
            If a file cannot be read.
        ProcessError
            If a process fails.

        Examples
        --------
        >>> result = fingerprint.run({"sensor-data": rows}, window_size_minutes=5)
        >>> result["fingerprint-output"].rows()
        """
        from headrace.engines.embedded.in_process import run

        return run(self.plan(**settings), inputs)

    def stream(self, inputs: Mapping[str, Input], /, **settings: Any) -> RowStream:  # noqa: ANN401
        """Return the rows one by one, each as soon as it is known: `for topic, row in pipeline.stream({"topic": records})`.

        The same run as `run`, with the same rows. A record of an iterator is worked through before the next one is asked for, which costs
        milliseconds a record; lists, frames and files are read in batches. The end of the inputs closes the windows that are open.

        Parameters
        ----------
        inputs
            As for `run`.
        settings
            As for `run`.

        Returns
        -------
        RowStream
            An iterator of topics and rows. A dead letter has the topic `TOPIC.dead-letter`. `.ledger` says what became of the records so far.

        Raises
        ------
        PlanError, DataError, EnvironmentFault, ProcessError
            As for `run`.
        """
        from headrace.engines.embedded.in_process import RowStream

        return RowStream(self.plan(**settings), inputs)


def pipeline(name: str, *, version: str, env: Sequence[str] = ()) -> Callable[[Callable[..., Mapping[str, Stream]]], Pipeline]:
    """Make a pipeline of a function that returns its sinks.

    The function's parameters are the pipeline's settings and have defaults. `version` changes only by the author's hand:
    it enters every generated id and all saved state.

    The variable `HEADRACE_SET_LIMIT` of the environment sets `limit`. `env=["LIMIT"]` also takes the bare name, `LIMIT`; list only
    names that nothing else in an environment has.

    Examples
    --------
    >>> @hr.pipeline("hot", version="1")
    ... def hot(limit: float = 90.0):
    ...     readings = hr.stream("readings", schema={"tag": "STRING", "value": "DOUBLE"})
    ...     return {"hot": readings.where("value > :limit")}
    """

    def decorate(function: Callable[..., Mapping[str, Stream]]) -> Pipeline:
        return Pipeline(function, name, version, env)

    return decorate


def test(pipeline: plan_pipeline.Pipeline | Plan, /, *, start: datetime | None = None, partitions: int = 1) -> Trial:  # noqa: PT028  (no test itself)
    """Run a pipeline live inside a test, step by step: the test feeds records, advances the wall clock, and looks at what was written.

    It is the live run of the embedded engine with its defaults, on topics of its own in a temporary folder, which `close` removes.

    Parameters
    ----------
    pipeline
        The pipeline, or its plan with settings: `hot.plan(limit=90)`.
    start
        The wall clock at the beginning; by default now. Records arrive by this clock, so one whose event time is more than an hour past it
        is set aside as `future`.
    partitions
        How many partitions each topic that is read has.

    Returns
    -------
    Trial
        `feed`, `advance`, `drain` and `restart` make steps; `rows`, `dead_letters`, `ledger` and `open` show what has come of them.

    Raises
    ------
    PlanError
        If it is no pipeline, `start` no time, or `partitions` less than 1.

    Examples
    --------
    >>> with hr.test(hot.plan(limit=90)) as live:
    ...     live.feed("readings", [{"tag": "t1", "time": 1_767_254_400_000, "value": 95.0}])
    ...     assert [row["value"] for row in live.rows("hot")] == [95.0]
    """
    from headrace.engines.embedded.trial import Trial

    return Trial(pipeline, start, partitions)


test.__test__ = False  # type: ignore[attr-defined]  # a test runner that finds it by its name takes it for a test
