"""All that is asked of an engine, by name: the jobs of the cases, of the function table and of the rules of reading."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from conformance import form, functions, reading
from conformance.engine import CLUSTERS, Engine, Job, Outcome, differences
from headrace.errors import PlanError
from waiting import locked

Outcomes = Mapping[str, Outcome]
SECONDS = 2400  # of a run beside all other tests on a machine that does much else


@cache
def cases() -> dict[str, form.Case]:
    """Return the cases by name."""
    return form.load()


@cache
def restarted() -> dict[str, form.Case]:
    """Return the cases that restart by the names of the jobs that do so; a job with the case's own name runs without."""
    return {f"{name}, restarted": case for name, case in cases().items() if any(step.restart for step in case.steps)}


@cache
def jobs() -> dict[str, Job]:
    """Return all jobs by name."""
    return {
        **{name: replace(case.job(), restarts=()) for name, case in cases().items()},
        **{name: case.job() for name, case in restarted().items()},
        **{name: job for name, (job, _) in reading.asked().items()},
        **functions.jobs(),
    }


@cache
def left_out(engine: str) -> frozenset[str]:
    """Return the names of the jobs that an engine is asked for only in a whole run: those of cases that are not in its sample."""
    from conformance import features

    return frozenset({**cases(), **restarted()}) - features.sample(engine) if engine in CLUSTERS else frozenset()


def asked(engine: str, whole: bool) -> dict[str, Job]:
    """Return by name all that an engine is asked for in one run: these jobs, random plans and random processes."""
    from conformance import test_differential, test_differential_processes

    mine = jobs() if whole else {name: job for name, job in jobs().items() if name not in left_out(engine)}
    return {**mine, **test_differential.jobs(engine), **test_differential_processes.jobs()}


def judged(case: form.Case, job: Job, engine: str, got: Outcome) -> list[str]:
    """Return what is wrong with the outcome of a case, and with its marks: one that is no longer true is wrong too."""
    if (why := mark(case.unsupported, job, engine)) is not None:
        if got.refused is None:
            return [f"{engine} no longer refuses it: take the mark `unsupported` out of the case"]
        return [] if re.search(why, str(got.refused)) else [f"refused otherwise: {got.refused}"]
    found = differences(got, case.outcome(job))
    if mark(case.differs, job, engine) is not None:
        return [] if found and got.refused is None else [*found, f"{engine} no longer gives otherwise: take the mark `differs` out of the case"]
    return found


def mark(marks: Mapping[str, str], job: Job, engine: str) -> str | None:
    """Return the mark of a job: with restarts that of `ENGINE, restarted`, if there is one."""
    return marks.get(f"{engine}, restarted" if job.restarts else engine, marks.get(engine))


def outcomes(engine: Engine, folder: Path, whole: bool) -> Outcomes:
    """Return the outcomes of jobs by name, from one run of the engine that all processes with this folder share."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, late = folder / f"{engine.name}.json", folder / f"{engine.name}.late"
    try:
        with locked(folder / f"{engine.name}.lock", f"{engine.name} runs the suite", seconds=0 if late.exists() else SECONDS):
            if not kept.exists():
                kept.write_text(json.dumps(_run(engine, whole)))
    except AssertionError:
        late.touch()  # who asks next need not wait as long
        raise
    found = json.loads(kept.read_text())
    if "failed" in found:
        raise AssertionError(f"{engine.name} failed as a whole:\n{found['failed']}")
    return {name: _outcome(one) for name, one in found.items()}


def _run(engine: Engine, whole: bool) -> dict[str, Any]:
    try:
        wanted = asked(engine.name, whole)
        return {name: _kept(outcome) for name, outcome in zip(wanted, engine.run(list(wanted.values()), interpreted=not whole), strict=True)}
    except Exception:  # noqa: BLE001  (whatever it is, it is told to each test, and not tried again)
        return {"failed": traceback.format_exc()}


def _kept(outcome: Outcome) -> dict[str, Any]:
    refused = outcome.refused and [outcome.refused.what, outcome.refused.where, outcome.refused.fix]
    return {"written": outcome.written, "dead": outcome.dead, "ledger": outcome.ledger, "refused": refused}


def _outcome(kept: dict[str, Any]) -> Outcome:
    refused = None
    if kept["refused"]:
        what, where, fix = kept["refused"]
        refused = PlanError(what, where=where, fix=fix)
    return Outcome(kept["written"], kept["dead"], kept["ledger"], refused)
