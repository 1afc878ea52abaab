"""`headrace run`: a pipeline over files, or on topics."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from headrace._durable import private_folder, put
from headrace.cli.apps import home, plan_of
from headrace.cli.logs import KafkaOptions
from headrace.cli.paths import InputPath, OutputPath, inputs_of
from headrace.cli.simulate import duration_ms
from headrace.cli.stopping import asked_to_stop, interruptible_reads
from headrace.engines.entries import Ledger
from headrace.errors import DataError, PlanError
from headrace.kernels.ledger import Account, Reasons, balance, received_in_vain
from headrace.plan.cache import caching_in
from headrace.plan.pipeline import Plan

__all__ = ["LiveOptions", "flink_url", "run"]

_JEMALLOC = "dirty_decay_ms:-1,muzzy_decay_ms:-1,background_thread:false,narenas:1,thp:always"
_REASONS, _LONGEST = 3, 300  # how many reasons are printed, and how many letters of each
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LiveOptions(KafkaOptions):
    """The options of runs on topics, which are those without --input. --duration, --records and --drain are for files too.

    Parameters
    ----------
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
        With --anew: do not ask.
    commit_every
        The longest time between commits while there is work.
    batch_records
        How many records to take in at once, at most.
    idle_after
        A partition quiet for so long holds no window open; never: it always does.
    close_quiet_after
        When all are quiet for so long, open windows close as the clock passes them; never: they wait.
    max_ahead
        A record whose event time is further past its arrival is set aside; never: none is.
    parallelism
        For engines with several workers. The embedded engine has one.
    metrics_port
        Serve Prometheus metrics on this port of the loopback interface.
    from_savepoint
        On Flink, start with the state that a savepoint holds.
    """

    kafka_config: InputPath | None = None  # here again, that its type is found
    until: Literal["latest"] | None = None
    duration: str | None = None
    records: int | None = None
    drain: Annotated[bool, Parameter(negative=())] = False
    anew: Annotated[bool, Parameter(negative=())] = False
    yes: Annotated[bool, Parameter(negative=())] = False
    commit_every: str = "1s"
    batch_records: int | None = None
    idle_after: str = "30s"
    close_quiet_after: str = "60s"
    max_ahead: str = "1h"
    parallelism: Annotated[int | None, Parameter(alias="-p")] = None
    metrics_port: int | None = None
    from_savepoint: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything starts."""
        for name in ("records", "batch_records", "parallelism"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PlanError(f"is {value}", where=_option(name), fix="give 1 or more")
        for name in ("duration", "commit_every", "idle_after", "close_quiet_after", "max_ahead"):
            self.seconds(name)

    def refuse(self, engine: str, *names: str) -> None:
        """Raise PlanError if one of these is given: the engine has no such thing."""
        for name in names:
            if getattr(self, name):
                raise PlanError(f"is not for {engine}", where=_option(name), fix="leave it out, or run on the embedded engine")

    def seconds(self, name: str) -> float | None:
        """Return the duration that an option gives; None is never, or that it is not given."""
        text = getattr(self, name)
        return None if text is None or text == "never" else duration_ms(text, _option(name)) / 1000

    def ms(self, name: str) -> int | None:
        """Return the same in whole ms."""
        seconds = self.seconds(name)
        return None if seconds is None else round(seconds * 1000)


def flink_url(named: str | None) -> str | None:
    """Return the address of the Flink cluster that is named, here or in the environment."""
    return named or os.environ.get("FLINK_REST_URL")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(
    app: str,
    /,
    *,
    input: Annotated[list[str] | None, Parameter(name="--input", negative=(), allow_leading_hyphen=True)] = None,
    output: Annotated[OutputPath | None, Parameter(name="--output")] = None,
    set: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    output_format: Literal["ndjson", "parquet"] = "ndjson",
    allow_nothing_accepted: Annotated[bool, Parameter(negative=())] = False,
    engine: Literal["embedded", "flink", "spark"] = "embedded",
    cluster: str | None = None,
    live: LiveOptions = LiveOptions(),
) -> None:
    """Run a pipeline over files, or live on topics where no --input is given.

    Parameters
    ----------
    app
        A shipped pipeline (fingerprint), file.py[:name], or module:name.
    input
        [TOPIC=]FILE …: NDJSON, CSV or Parquet by its ending, - for NDJSON from standard input. Several files of one topic are its
        partitions. Files after the first belong to the same topic: --input *.csv, or --input TOPIC= *.csv.
    output
        Folder for <topic>.ndjson, <topic>.dead-letter.ndjson and ledger.json. Without it, rows go to standard output. A live run
        writes to topics instead.
    output_format
        ndjson or parquet.
    allow_nothing_accepted
        End with status 0 even if every record was set aside as malformed; else the status is then 1. A live run warns.
    set
        KEY=VALUE for a setting of the pipeline.
    engine
        embedded; or flink or spark, on a cluster.
    cluster
        The cluster's REST address (http://HOST:8081) for Flink, else FLINK_REST_URL; its master for Spark, else SPARK_MASTER. Where
        none is named, one is started on this machine, and ends with the run.
    """
    if engine != "embedded":
        _run_on_cluster(engine, _plan_of(app, set or []), input, output, cluster, live, output_format, allow_nothing=allow_nothing_accepted)
        return
    if cluster is not None:
        raise PlanError("the embedded engine has no cluster", where="--cluster", fix="add --engine flink")
    _suit_batches()
    if app.partition(":")[::2] == ("fingerprint", "saver"):
        _save(output, live, asked_to_stop())
        return
    if not input:
        if output is not None:
            raise PlanError("no input", where="--input", fix="name a file: --input FILE; a live run writes to topics and takes no --output")
        if live.from_savepoint is not None:
            raise PlanError("the embedded engine's commits are its savepoints", where="--from-savepoint", fix="leave it out: it goes on by itself")
        stop = asked_to_stop()
        _run_live(_plan_of(app, set or []), live, stop, allow_nothing=allow_nothing_accepted)
        return
    plan = _plan_of(app, set or [])
    _check_bounded(live, "duration", "records", "drain")
    inputs = inputs_of(plan, input)
    from headrace.engines.embedded.output import Printed
    from headrace.engines.embedded.run import Limits, run_files, run_to

    limits = Limits(live.seconds("duration"), live.records, live.drain)

    _collect_from_here()
    interruptible_reads()
    with _progress() as progress:
        if output is None:
            accounts = run_to(plan, inputs, Printed(sys.stdout.buffer), progress=progress, limits=limits)
        else:
            accounts = run_files(plan, inputs, output, progress=progress, output_format=output_format, limits=limits)
    _report(plan, accounts, allow_nothing=allow_nothing_accepted)
    if output is not None and (output / ".run").exists():
        print(
            f"headrace: stopped before the end of the input, windows left open; the same command resumes there, from {output}/.run", file=sys.stderr
        )


def _plan_of(app: str, settings: Sequence[str]) -> Plan:
    with caching_in(home() / "expressions.cache"):
        return plan_of(app, settings)


def _check_bounded(live: LiveOptions, *allowed: str) -> None:
    """Raise PlanError if there are options that a run over files does not have."""
    plain = LiveOptions()
    given = [
        _option(one.name) for one in fields(live) if one.name not in {"parallelism", *allowed} and getattr(live, one.name) != getattr(plain, one.name)
    ]
    if given:
        raise PlanError("is not for a run over files on this engine", where=", ".join(given), fix="leave out --input, or this")


def _run_on_cluster(
    engine: str,
    plan: Plan,
    given: Sequence[str] | None,
    output: Path | None,
    cluster: str | None,
    live: LiveOptions,
    output_format: str,
    *,
    allow_nothing: bool,
) -> None:
    """Run a pipeline on an engine that is not ours, over files if any are given, else on Kafka's topics."""
    if output_format != "ndjson":
        raise PlanError(f"{engine} writes NDJSON only", where="--output-format", fix="leave it out, or run on the embedded engine")
    if not given and output is not None:
        raise PlanError("no input", where="--input", fix="name a file: --input FILE; a live run writes to topics and takes no --output")
    module = importlib.import_module(f"headrace.cli.{engine}")
    stop = asked_to_stop()
    if not given:
        _confirm(plan, live, kept=(home() / engine / plan.pipeline).exists())
        ledger = module.on_topics(plan, live, cluster=cluster, stop=stop)
        _report(plan, ledger, allow_nothing=allow_nothing or live.until is None)
        return
    _check_bounded(live)
    inputs = inputs_of(plan, given)
    from headrace.engines.working import working_folder

    with nullcontext(output) if output is not None else working_folder(home(), "output") as folder:
        ledger = module.on_files(plan, inputs, folder, cluster=cluster, parallelism=live.parallelism or 1, stop=stop)
        if output is None:
            for topic in plan.topics:
                sys.stdout.buffer.write((folder / f"{topic}.ndjson").read_bytes())
        reasons = {topic: _reasons_in(folder / f"{topic}.dead-letter.ndjson") for topic in ledger}
    _report(plan, ledger, reasons, allow_nothing=allow_nothing)


def _reasons_in(dead_letters: Path) -> Reasons:
    """Return why records were set aside, as their dead letters say."""
    reasons = Reasons()
    with suppress(FileNotFoundError), dead_letters.open("rb") as lines:
        for line in lines:
            letter = msgspec.json.decode(line)
            reasons.note(letter["partition"], letter["offset"], letter["detail"])
    return reasons


def _report(plan: Plan, ledger: Mapping[str, Account] | Ledger, reasons: Mapping[str, Reasons] | None = None, *, allow_nothing: bool) -> None:
    """Keep the ledger of a run that has ended, and print it, with the commonest reasons why records were set aside.

    Raises
    ------
    DataError
        If there were records, and not one of them could be used.
    """
    sources = {topic: one.counts() if isinstance(one, Account) else one for topic, one in ledger.items()}
    _remember(plan, sources)
    for topic, counts in sources.items():
        account = ledger[topic]
        print(f"{topic}: {balance(counts)}", file=sys.stderr)
        known = account.reasons if isinstance(account, Account) else (reasons or {}).get(topic, Reasons())
        _tell_reasons(topic, known)
    if (received := received_in_vain(sources.values())) and not allow_nothing:
        raise DataError(
            f"no record could be used of {received:,} received",
            where=f"pipeline {plan.pipeline}",
            fix="do the stream's schema and event_time fit the input? --allow-nothing-accepted takes this as done",
        )


def _tell_reasons(topic: str, reasons: Reasons) -> None:
    found = reasons.commonest()
    for one in found[:_REASONS]:
        example = f"partition {one.partition} offset {one.offset}: {_cut(one.detail)}"
        print(f"{topic}: {one.count:,} set aside: {_cut(one.text)}; the first is {example}", file=sys.stderr)
    if others := sum(one.count for one in found[_REASONS:]):
        print(f"{topic}: {others:,} set aside for {len(found) - _REASONS} other reasons", file=sys.stderr)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _confirm(plan: Plan, options: LiveOptions, *, kept: bool = False) -> None:
    if options.anew:
        from headrace.cli.anew import confirm_pipeline

        confirm_pipeline(plan, options, yes=options.yes, kept=kept)


def _run_live(plan: Plan, options: LiveOptions, stop: Callable[[], bool], *, allow_nothing: bool) -> None:
    _confirm(plan, options)
    from headrace.cli.live import run_on_topics

    _collect_from_here()
    _report(plan, run_on_topics(plan, options, stop), allow_nothing=allow_nothing or options.until is None)


def _save(output: Path | None, options: LiveOptions, stop: Callable[[], bool]) -> None:
    from headrace.cli.logs import open_log
    from headrace.cli.saver import save

    _collect_from_here()
    seconds = options.seconds("duration")
    latest = options.until == "latest"
    save(open_log(options), output or Path("output"), stop=stop, duration=seconds, records=options.records, latest=latest)


def _suit_batches() -> None:
    """Suit the process to work that is done in batches of a few MB, one after the other."""
    gc.disable()
    # A second thread of Polars costs more than it saves on such. Polars reads this when it is imported.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    # Both would give each batch's memory back to the system and ask for it again, a tenth of the whole cost: Polars' own
    # allocator, which reads this when Polars is imported, and glibc.
    os.environ.setdefault("_RJEM_MALLOC_CONF", _JEMALLOC)
    with suppress(OSError, AttributeError, TypeError):  # where there is no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def _collect_from_here() -> None:
    """Have garbage collected again. What has been made up to here stays; the collector need not look at it."""
    gc.freeze()
    gc.enable()


def _remember(plan: Plan, sources: Mapping[str, Mapping[str, int | None]]) -> None:
    """Keep the ledger of the pipeline's last run for `headrace ledger`."""
    folder = home() / "ledgers"
    try:
        private_folder(folder)
        put(folder / f"{plan.pipeline}.json", msgspec.json.encode({"pipeline": plan.pipeline, "sources": sources}), secret=True)
    except OSError as error:
        print(f"headrace: {folder}: the ledger cannot be kept for `headrace ledger`: {error.strerror}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[..., None] | None]:
    """Show how far a run is while it lasts, if someone looks on."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[received]:,} records"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("run", total=None, received=0)
        yield lambda at: bar.update(task, completed=at.done, total=at.total, received=at.received)
