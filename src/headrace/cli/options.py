"""The options of a run, from the command line to what engines take."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from headrace.cli.logs import KafkaOptions
from headrace.cli.paths import InputPath
from headrace.cli.values import duration_ms
from headrace.engines.options import OPTIONS, Options, flag
from headrace.errors import PlanError

__all__ = ["RunOptions"]

_LAST_MS = 253_402_300_799_999  # the end of the year 9999
_DURATIONS = ("duration", "commit_every", "idle_after", "close_quiet_after", "max_ahead")
_NUMBERS = ("records", "batch_records", "parallelism")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions(KafkaOptions):
    """The options of a run that engines may honour or refuse. One that is not given is None, or False.

    Parameters
    ----------
    cluster
        The cluster's REST address (http://HOST:8081) for Flink, else FLINK_REST_URL; its master for Spark, else SPARK_MASTER. Where
        none is named, one is started on this machine, and ends with the run.
    output_format
        ndjson, which is the default, or parquet: of the files that are written.
    kafka_servers
        HOST:PORT of Kafka, whose topics are then read and written; else KAFKA_SERVERS of the environment, else those of the SQLite log in HEADRACE_HOME.
    kafka_config
        File of properties of Kafka's clients, as librdkafka names them: TOML, or lines of NAME=VALUE. For TLS and passwords.
    until
        latest: end where the topics end now, with all windows closed, as a run over files does.
    duration
        Stop after so long, windows left open: 30s, 5m.
    records
        Stop after so many records, windows left open.
    drain
        Close the open windows before the end. Over files, event time also runs on after the last event, for 24 hours at most, until no timer
        of a process is left.
    anew
        Forget what the pipeline has committed, and start from the first records: results are written again. It says how many records
        that concerns, and asks on a terminal; without a terminal it is refused unless --yes is given.
    yes
        With --anew or --from-savepoint: do not ask.
    commit_every
        The longest time between commits while there is work; 1s if it is not given.
    batch_records
        How many records to take in at once, at most.
    idle_after
        A partition without records for so long is idle, and holds no window open; 30s if it is not given; never: it always does.
    close_quiet_after
        When all are without records for so long, open windows close as the wall clock passes them; 60s if it is not given; never: they stay open.
    max_ahead
        A record whose event time is further past its arrival is set aside; 1h if it is not given; never: none is.
    parallelism
        How many parallel subtasks at most.
    metrics_port
        Serve Prometheus metrics on this port of the loopback interface.
    from_savepoint
        Start with the state and at the offsets of a savepoint: a file of headrace savepoint, or the path of one of Flink's. Results of
        records that were read since are written again; it says how many records that concerns, and asks as --anew does.
    from_
        Where a pipeline begins that has committed nothing, or forgets it with --anew: earliest, which is the default; latest: behind the records
        that are there; or a time, 2026-11-29T06:00:00+01:00: at the records that arrived then. One that has committed resumes there.
    reset
        The name of a window or process that starts without state, where it is another than the one that left the state.
    """

    cluster: str | None = None
    output_format: Literal["ndjson", "parquet"] | None = None
    kafka_config: InputPath | None = None  # here again, that its type is found
    until: Literal["latest"] | None = None
    duration: str | None = None
    records: int | None = None
    drain: Annotated[bool, Parameter(negative=())] = False
    anew: Annotated[bool, Parameter(negative=())] = False
    yes: Annotated[bool, Parameter(negative=())] = False
    commit_every: str | None = None
    batch_records: int | None = None
    idle_after: str | None = None
    close_quiet_after: str | None = None
    max_ahead: str | None = None
    parallelism: Annotated[int | None, Parameter(alias="-p")] = None
    metrics_port: int | None = None
    from_savepoint: str | None = None
    from_: Annotated[str | None, Parameter(name="--from")] = None
    reset: Annotated[list[str] | None, Parameter(negative=())] = None

    def __post_init__(self) -> None:
        """Refuse impossible values, before anything starts."""
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PlanError(f"is {value}", where=flag(name), fix="give 1 or more")
        if self.yes and not (self.anew or self.from_savepoint):
            raise PlanError("answers the question of --anew, which is not given", where="--yes", fix="leave it out, or add --anew")
        _ = self.parsed

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name, as they were written."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    @property
    def parsed(self) -> Options:
        """The options as engines take them."""
        values = {name: value for name, value in self.given.items() if name in Options.__dataclass_fields__}
        durations = {name: _seconds(name, value) for name, value in values.items() if name in _DURATIONS}
        begin = None if self.from_ is None else _begin(self.from_)
        return Options(**(values | durations | {"from_": begin, "reset": tuple(self.reset or ())}))


def _begin(text: str) -> str | int:
    """Return where a pipeline begins: `earliest`, `latest`, or a time in ms since the epoch."""
    if text in {"earliest", "latest"}:
        return text
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        what = f"{text!r} is {'no time' if time is None else 'a time without a zone'}"
        raise PlanError(what, where="--from", fix="give earliest, latest, or a time such as 2026-11-29T06:00:00+01:00 or 2026-11-29T05:00Z")
    return min(max(round(time.timestamp() * 1000), 0), _LAST_MS)  # numbers below 0 have a meaning of their own to Kafka


def _seconds(name: str, text: str) -> float | None:
    """Return the duration that an option gives; None for never."""
    return None if text == "never" else duration_ms(text, flag(name)) / 1000
