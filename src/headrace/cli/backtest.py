"""`headrace backtest` and `headrace what-if`: the alarms of a pipeline over labelled history, judged."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from headrace._durable import durable_folder, put, write_fault
from headrace.backtest.budget import Breach, Budget, budget_of
from headrace.backtest.compare import Comparison
from headrace.backtest.figures import AT_LEAST, FIGURES, figure, iso, moment, shown
from headrace.backtest.judge import Backtest
from headrace.backtest.labels import Label, labels_of
from headrace.backtest.topics import AlarmTopic, alarm_topics, read_topics
from headrace.cli.apps import home, plan_of
from headrace.cli.paths import InputPath, OutputPath, inputs_of
from headrace.cli.proven import record_backtest
from headrace.cli.report import print_ledger, progress
from headrace.cli.tables import counted, print_json, print_table
from headrace.cli.values import duration_ms
from headrace.engines.protocol import Result
from headrace.errors import DataError, HeadraceError, PlanError
from headrace.plan.cache import caching_in
from headrace.plan.pipeline import Plan

__all__ = ["JudgeOptions", "backtest", "what_if"]

_Inputs = Annotated[list[str] | None, Parameter(name="--input", negative=(), allow_leading_hyphen=True)]
_Settings = Annotated[list[str] | None, Parameter(name="--set", negative=())]
_ROWS = 20  # of a table, at most


class BudgetBroken(HeadraceError):
    """The alarms of a pipeline break their budget."""

    exit_status = 1


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How alarms are judged.

    Parameters
    ----------
    grace
        How long after the end of an event an alarm still counts for it: 30s, 5m.
    operators
        How many operators share the alarms.
    seed
        The seed of the random baseline.
    topic
        The output whose rows are alarms, for a pipeline without hr.alarm.
    time
        Its column with the time of an alarm: a TIMESTAMP_LTZ(3), or a BIGINT of ms since the epoch.
    rule
        Its column that names the rule.
    """

    grace: str = "0s"
    operators: int = 1
    seed: int = 0
    topic: str | None = None
    time: str | None = None
    rule: str | None = None

    def __post_init__(self) -> None:
        """Refuse impossible values, before anything starts."""
        if self.operators < 1:
            raise PlanError(f"is {self.operators}", where="--operators", fix="give 1 or more")
        _ = self.grace_ms

    @property
    def grace_ms(self) -> int:
        """The grace in ms."""
        return duration_ms(self.grace, "--grace")


def backtest(
    app: str,
    /,
    *,
    labels: InputPath,
    input: _Inputs = None,
    budget: InputPath | None = None,
    report: OutputPath | None = None,
    set: _Settings = None,
    judged: JudgeOptions = JudgeOptions(),
) -> None:
    """Run a pipeline over labelled history, and judge its alarms. The exit status is 1 if they break the budget.

    Parameters
    ----------
    app
        A shipped pipeline, file.py[:name], or module:name.
    labels
        CSV file of the events: start,end,name[,tags].
    input
        [TOPIC=]FILE …, as for headrace run. Topics of commands and conditions may be left out.
    budget
        TOML file of the alarm budget. Whether it is kept is recorded: headrace up and jobs submit refuse a pipeline that breaks it.
    report
        Folder for report.json, details.json and report.html; by default backtests/PIPELINE in HEADRACE_HOME.
    set
        KEY=VALUE for a setting of the pipeline.
    """
    allowed = Budget() if budget is None else budget_of(budget)
    events = labels_of(labels)
    with caching_in(home() / "expressions.cache"):
        plan = plan_of(app, set or [])
    job = _job(plan, input or [], judged)
    folder = home() / "backtests" / plan.pipeline if report is None else report
    _make(folder)  # before the run, which may take long
    found = _run(job, events, judged)
    allowed.check(found.backtest)
    broken = allowed.broken(found.backtest, found.report)
    if budget is not None:
        record_backtest(plan, str(budget), [one.name for one in broken])
    _write(folder, found, allowed, broken)
    _print(found, allowed, broken)
    print(f"\nreport: {folder / 'report.html'}")
    if broken:
        what = "; ".join(f"{one.name}: {one.found}, {one.limit}" for one in broken)
        raise BudgetBroken(f"breaks the alarm budget: {what}", where=f"pipeline {plan.pipeline}")


def what_if(
    app: str,
    /,
    *,
    labels: InputPath,
    input: _Inputs = None,
    set: _Settings = None,
    replace: Annotated[list[str] | None, Parameter(name="--replace", negative=())] = None,
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    judged: JudgeOptions = JudgeOptions(),
) -> None:
    """Show what another setting, or another file of definitions, changes in the alarms over labelled history.

    Parameters
    ----------
    app
        A shipped pipeline, file.py[:name], or module:name. It is run twice: as it is, and with the change.
    labels
        CSV file of the events: start,end,name[,tags].
    input
        [TOPIC=]FILE …, as for headrace run. Topics of commands and conditions may be left out.
    set
        KEY=VALUE: the settings that change.
    replace
        TOPIC=FILE: a file that takes the place of those of --input, such as another file of definitions.
    json
        A JSON object instead of tables.
    """
    events = labels_of(labels)
    with caching_in(home() / "expressions.cache"):
        plans = plan_of(app, []), plan_of(app, set or [])
    replaced: dict[str, list[Path]] = {}
    for one in replace or []:
        replaced |= inputs_of(plans[0], [one])
    if plans[0] == plans[1] and not replaced:
        what = f"pipeline {plans[0].pipeline} has these settings already" if set else "no change is given"
        raise PlanError(what, where="--set" if set else None, fix="give --set KEY=VALUE, or --replace TOPIC=FILE")
    jobs = [_job(plan, input or [], judged, files) for plan, files in zip(plans, ({}, replaced), strict=True)]
    before, after = (_run(job, events, judged) for job in jobs)
    if before.backtest.labels != after.backtest.labels:
        raise DataError("the event times differ, so that other events are in the data", where="--set", fix="run headrace backtest for each")
    compared = Comparison(before.backtest, after.backtest)
    if json:
        changes = [{"name": one.label.name, "start": iso(one.label.start), "before_s": one.before, "after_s": one.after} for one in compared.changes]
        print_json([{"summary": compared.summary, "before": before.report, "after": after.report, "events": changes}])
        return
    _print_comparison(compared, (before.report, after.report))


def _print_comparison(compared: Comparison, reports: Sequence[Mapping[str, Any]]) -> None:
    print(f"{compared.summary}\n")
    print_table(("", "AS IT IS", "WHAT IF"), _figure_rows(reports, Budget(), ()))
    for title, rows in (("RULE", _rule_rows(reports)), ("EVENT", _event_rows(compared))):
        if rows:
            print()
            print_table((title, *(["AS IT IS", "WHAT IF", "FALSE", "WHAT IF"] if title == "RULE" else ["FOUND AFTER", "WHAT IF"])), rows[:_ROWS])
            _print_left(len(rows), "the output of --json")


def _rule_rows(reports: Sequence[Mapping[str, Any]]) -> list[list[str | int]]:
    """Return the rules with their alarms and false alarms before and after, first those whose alarms differ most."""
    nothing = {"alarms": 0, "false_alarms": 0}
    rules = sorted({rule for report in reports for rule in report["by_rule"]})
    found = [(rule, *(report["by_rule"].get(rule, nothing) for report in reports)) for rule in rules]
    found.sort(key=lambda one: -abs(one[1]["alarms"] - one[2]["alarms"]))
    return [[rule, was["alarms"], now["alarms"], was["false_alarms"], now["false_alarms"]] for rule, was, now in found]


def _event_rows(compared: Comparison) -> list[list[str]]:
    """Return the events that are found at another time."""
    differ = [one for one in compared.changes if one.before != one.after]
    return [[one.label.name, *("missed" if at is None else shown("time_to_detection_s", at) for at in one[1:])] for one in differ]


@dataclass(frozen=True)
class Judged:
    """A pipeline whose alarms were judged."""

    plan: Plan
    backtest: Backtest

    @cached_property
    def report(self) -> dict[str, Any]:
        """The figures."""
        return self.backtest.report()

    def details(self) -> dict[str, Any]:
        """Return what the figures were computed from, each event and each alarm."""
        one = self.backtest
        events = [
            {
                "name": event.label.name,
                "start": iso(event.label.start),
                "end": iso(event.label.end),
                "tags": event.label.tags,
                "alarms": len(event.alarms),
                "time_to_detection_s": event.delay_s,
                "found_by": event.alarms[0].rule if event.alarms else None,
            }
            for event in one.events
        ]
        return {
            "pipeline": self.plan.pipeline,
            "version": self.plan.version,
            "settings": {name: str(value) for name, value in self.plan.settings.items()},
            "start": iso(one.start),
            "end": iso(one.end),
            "grace_s": one.grace_ms / 1000,
            "operators": one.operators,
            "seed": one.seed,
            "events": events,
            "alarms": [{"time": iso(alarm.time), "rule": alarm.rule} for alarm in sorted(one.alarms)],
            "false_alarms": [{"time": iso(alarm.time), "rule": alarm.rule} for alarm in one.false_alarms],
        }


@dataclass(frozen=True)
class _Job:
    """A pipeline with its history, ready to run: its alarm topics, and the topics whose records are the history."""

    plan: Plan
    inputs: Mapping[str, Sequence[Path]]
    topics: Sequence[AlarmTopic]
    of_history: Sequence[str]


def _job(plan: Plan, given: Sequence[str], judged: JudgeOptions, replaced: Mapping[str, Sequence[Path]] = MappingProxyType({})) -> _Job:
    """Return the job. Raises PlanError if an input is missing, or the history itself is replaced."""
    topics = alarm_topics(plan, judged.topic, judged.time, judged.rule)
    of_history, spare = read_topics(plan, topics)
    for topic in replaced:
        if topic in of_history:
            what = f"topic {topic} is the history, which must be the same for both"
            raise PlanError(what, where="--replace", fix="replace another topic, such as that of definitions")
    inputs = {**inputs_of(plan, given), **replaced}
    plan.check_inputs({**{topic: [Path()] for topic in spare}, **inputs})
    return _Job(plan, inputs, topics, of_history)


def _run(job: _Job, labels: Sequence[Label], judged: JudgeOptions) -> Judged:
    """Run a pipeline over its history, and judge the alarms that it raises."""
    from headrace.engines.embedded.history import run_history

    with progress() as bar:
        history = run_history(job.plan, job.inputs, {one.topic: one.columns for one in job.topics}, job.of_history, bar)
    accounts = history.ledger.items()
    print_ledger(Result({topic: one.counts() for topic, one in accounts}, {topic: one.reasons for topic, one in accounts}))
    if history.start is None or history.end is None:
        what = f"no record of {', '.join(job.of_history)} could be used that has an event time"
        raise DataError(what, where=f"pipeline {job.plan.pipeline}", fix="do the stream's schema and event_time fit the input?")
    alarms = [alarm for one in job.topics for alarm in one.raised(history.rows[one.topic])]
    inside = _inside(labels, history.start, history.end)
    return Judged(job.plan, Backtest(alarms, inside, history.start, history.end, judged.grace_ms, judged.operators, judged.seed))


def _inside(labels: Sequence[Label], start: int, end: int) -> list[Label]:
    """Return the labels that overlap with the data, and report how many do not.

    Raises
    ------
    DataError
        If there are labels, and none does.
    """
    found = [label for label in labels if label.start <= end and label.end >= start]
    if labels and not found:
        what = f"no label overlaps with the data: labels are from {moment(labels[0].start)} to {moment(max(label.end for label in labels))}"
        raise DataError(f"{what}, data from {moment(start)} to {moment(end)}", where="--labels", fix="are they of this history, and in UTC?")
    if left_out := len(labels) - len(found):
        what = "is not in the data, and is" if left_out == 1 else "are not in the data, and are"
        print(f"headrace: --labels: {counted(left_out, 'event')} {what} left out", file=sys.stderr)
    if not labels:
        print("headrace: --labels: there are no events: every alarm is false", file=sys.stderr)
    return found


# what is written


def _make(folder: Path) -> None:
    try:
        durable_folder(folder)
    except OSError as error:
        raise write_fault(folder, error) from None


def _write(folder: Path, found: Judged, budget: Budget, broken: Sequence[Breach]) -> None:
    from headrace.backtest.page import page

    whole = {**found.report, "budget": {"kept": not broken, "broken": [one.name for one in broken]}}
    try:
        put(folder / "report.json", _pretty(whole))
        put(folder / "details.json", _pretty(found.details()))
        put(folder / "report.html", page(f"{found.plan.pipeline} version {found.plan.version}", found.backtest, whole, budget, broken).encode())
    except OSError as error:
        raise write_fault(folder, error) from None


def _pretty(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


# what is printed


def _print(found: Judged, budget: Budget, broken: Sequence[Breach]) -> None:
    one, report = found.backtest, found.report
    print(
        f"{found.plan.pipeline} version {found.plan.version}: {moment(one.start)} to {moment(one.end)}, "
        f"{counted(len(one.labels), 'event')}, {counted(len(one.alarms), 'alarm')}\n"
    )
    columns = (report, report["always_alarm"], report["random"])
    print_table(("", "PIPELINE", "ALWAYS ALARM", "RANDOM", *(["BUDGET"] if budget.limits else [])), _figure_rows(columns, budget, broken))
    if report["by_rule"]:
        print()
        rules = sorted(report["by_rule"].items(), key=lambda pair: (-pair[1]["alarms"], pair[0]))
        header = ("RULE", "ALARMS", "EVENTS FOUND", "ALONE", "FALSE ALARMS")
        print_table(header, [(name, of["alarms"], of["detected"], of["detected_alone"], of["false_alarms"]) for name, of in rules[:_ROWS]])
        _print_left(len(rules))
    if one.events:
        print()
        rows = [
            (e.label.name, moment(e.label.start), shown("time_to_detection_s", e.delay_s) if e.alarms else "missed", len(e.alarms))
            for e in one.events
        ]
        print_table(("EVENT", "START", "FOUND AFTER", "ALARMS"), rows[:_ROWS])
        _print_left(len(rows))


def _print_left(count: int, where: str = "details.json") -> None:
    if count > _ROWS:
        print(f"… and {count - _ROWS:,} more, in {where}")


def _figure_rows(columns: Sequence[Mapping[str, Any]], budget: Budget, broken: Sequence[Breach]) -> list[list[str]]:
    """Return the rows of the figures, one column for each of the reports."""
    names = {one.name for one in broken}
    found = [["events found", *(f"{one['detected']:.4g} of {one['events']:.4g}" for one in columns), *([""] if budget.limits else [])]]
    for name in FIGURES:
        row = [FIGURES[name], *(shown(name, figure(one, name)) for one in columns)]
        if name in budget.limits:
            row.append(f"{'≥' if name in AT_LEAST else '≤'} {shown(name, budget.limits[name])}{' broken' if name in names else ''}")
        found.append(row + [""] * (len(found[0]) - len(row)))
    return found
