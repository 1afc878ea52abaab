"""The options of a run, and which of them an engine honours: each one is honoured, or refused by name with the reason and a fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from headrace.errors import PlanError

__all__ = ["OPTIONS", "Capabilities", "Honoured", "Mode", "Options", "Refused", "Support", "check_begin", "flag", "refuse"]


class Mode(StrEnum):
    """The kinds of run. Each engine has the first three; one with a cluster of its own may have the last."""

    FILES = "over files"
    LIVE = "live on topics"
    LATEST = "on topics up to their present end"
    JOB = "as a job of the cluster"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run, parsed, with their defaults.

    Attributes
    ----------
    cluster
        The address of a cluster, as the engine names it.
    output_format
        `ndjson` or `parquet`.
    until
        `latest`: the run ends where its topics end when it starts.
    duration
        Seconds after which the run stops.
    records
        How many records after which the run stops.
    drain
        Whether a run that is stopped closes its open windows.
    anew
        Whether the run forgets what the pipeline has committed.
    commit_every
        The longest time between commits, in seconds; None for never.
    batch_records
        How many records are read at once, at most.
    idle_after
        Seconds after which a partition without records is idle; None for never.
    close_quiet_after
        Seconds without any records after which the watermark follows the wall clock; None for never.
    max_ahead
        Seconds past its arrival up to which a record's event time is accepted; None for any.
    parallelism
        How many parallel subtasks at most; None leaves it to the engine.
    metrics_port
        The port of the loopback interface at which metrics are served.
    from_savepoint
        The savepoint with whose state the run starts.
    from_
        Where a pipeline that has committed nothing begins: `earliest`, `latest`, or a time of arrival in ms since the epoch.
    reset
        Windows and processes that start without state.
    """

    cluster: str | None = None
    output_format: str = "ndjson"
    until: str | None = None
    duration: float | None = None
    records: int | None = None
    drain: bool = False
    anew: bool = False
    commit_every: float | None = 1.0
    batch_records: int | None = None
    idle_after: float | None = 30.0
    close_quiet_after: float | None = 60.0
    max_ahead: float | None = 3600.0
    parallelism: int | None = None
    metrics_port: int | None = None
    from_savepoint: str | None = None
    from_: str | int | None = None
    reset: tuple[str, ...] = ()

    @property
    def mode(self) -> Mode:
        """The kind of a run on topics."""
        return Mode.LIVE if self.until is None else Mode.LATEST


# In the order of the reference. Those of Kafka say where topics are, and have no place among an engine's own.
OPTIONS = ("kafka_servers", "kafka_config", *Options.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Honoured:
    """An option that an engine honours, with what is particular about it there."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """An option that an engine refuses when it is given."""

    reason: str
    fix: str = "leave it out"


Support = Honoured | Refused


@dataclass(frozen=True)
class Capabilities:
    """How an engine treats each option.

    Attributes
    ----------
    options
        By kind of run, for each of `OPTIONS` whether it is honoured. A kind that is not there is one that the engine does not have.
    stops
        What SIGTERM and Ctrl-C do, by kind of run. A kind that is not there they end at once.
    """

    options: Mapping[Mode, Mapping[str, Support]]
    stops: Mapping[Mode, str]


def flag(option: str) -> str:
    """Return an option as it is written on the command line."""
    return f"--{option.rstrip('_').replace('_', '-')}"


def refuse(support: Mapping[str, Support], given: Iterable[str]) -> None:
    """Raise PlanError if one of the options that were given is refused; those with the same reason are named together."""
    refused = {name: one for name in given if isinstance(one := support[name], Refused)}
    for one in refused.values():
        names = [flag(name) for name, other in refused.items() if other == one]
        raise PlanError(one.reason, where=", ".join(names), fix=one.fix)


def check_begin(options: Options) -> None:
    """Raise PlanError if a run is to begin at a savepoint and elsewhere."""
    if options.from_ is not None and options.from_savepoint:
        raise PlanError("begins without state, and --from-savepoint with some", where="--from", fix="give one of them")


HONOURED = Honoured()
_EVENT_TIME_ONLY = Refused("the wall clock decides nothing over files")
_NO_TOPICS = Refused("a run over files reads no topics", "leave out --input, or this")

# What no engine has in a kind of run. An engine's own table says the rest.
OVER_FILES: Mapping[str, Support] = {
    "kafka_servers": _NO_TOPICS,
    "kafka_config": _NO_TOPICS,
    "until": Refused("a run over files ends where the files end"),
    "from_": Refused("a run over files reads them from their first records"),
    "batch_records": Refused("a run over files reads blocks of its own size, on which no result depends"),
    "idle_after": _EVENT_TIME_ONLY,
    "close_quiet_after": _EVENT_TIME_ONLY,
    "max_ahead": _EVENT_TIME_ONLY,
    "metrics_port": Refused("a run over files serves no metrics", "leave it out; the ledger has the counts"),
}
ON_TOPICS: Mapping[str, Support] = {
    "kafka_servers": HONOURED,
    "kafka_config": HONOURED,
    "until": HONOURED,
    "output_format": Refused("topics hold JSON"),
}
_NO_CLOCK = Refused("the wall clock decides nothing in a run that ends where the topics end", "leave it out, or leave out --until")
UP_TO_THE_END: Mapping[str, Support] = {**ON_TOPICS, "idle_after": _NO_CLOCK, "close_quiet_after": _NO_CLOCK, "max_ahead": _NO_CLOCK}
