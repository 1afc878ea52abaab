"""The alarm budget as a gate: what is recorded of backtests, and which pipelines may go live."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from headrace._clock import now_ms
from headrace._durable import private_folder, put, write_fault
from headrace.backtest.figures import iso
from headrace.cli.apps import home
from headrace.errors import EnvironmentFault, PlanError
from headrace.plan.pipeline import Plan

__all__ = ["check_proven", "record_backtest"]

_UNPROVEN = "unproven.ndjson"


class _Record(msgspec.Struct, frozen=True):
    """The recorded result of a backtest with a budget: its pipeline, its time, and the limits that are broken."""

    identity: dict[str, Any]
    at: str
    budget: str
    broken: list[str]


def record_backtest(plan: Plan, budget: str, broken: Sequence[str]) -> None:
    """Record whether a pipeline, with its settings, keeps its alarm budget. It takes the place of what was recorded of them before."""
    path = _path(plan)
    try:
        private_folder(path.parent)
        put(path, msgspec.json.format(msgspec.json.encode(_Record(plan.identity, iso(now_ms()), budget, [*broken]))) + b"\n")
    except OSError as error:
        raise write_fault(path, error) from None


def check_proven(plans: Iterable[Plan], *, unproven: bool) -> None:
    """Check that no recorded backtest of these pipelines, with their settings, breaks its budget.

    With `unproven` they may go live all the same, and this is recorded. A pipeline without a recorded backtest may, too; if others of its
    settings or of its code are recorded, standard error says that it has changed.

    Raises
    ------
    PlanError
        If a budget is broken.
    """
    for plan in plans:
        path = _path(plan)
        if not path.exists():
            if any(path.parent.glob("*.json")):
                what = "has changed since its backtest, and its alarms are not known to keep the budget: run headrace backtest"
                print(f"headrace: pipeline {plan.pipeline}: {what}", file=sys.stderr)
            continue
        found = _read(path)
        if found.broken and not unproven:
            what = f"its backtest of {found.at} breaks the alarm budget {found.budget}: {', '.join(found.broken)}"
            fix = "change it until headrace backtest keeps the budget, or give --unproven to insist, which is recorded"
            raise PlanError(what, where=f"pipeline {plan.pipeline}", fix=fix)
        if found.broken:
            _insist(path.parent / _UNPROVEN, found)


def _path(plan: Plan) -> Path:
    digest = blake2b(msgspec.json.encode(plan.identity, order="deterministic"), digest_size=12).hexdigest()
    return home() / "backtests" / plan.pipeline / "recorded" / f"{digest}.json"


def _read(path: Path) -> _Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError) as error:
        raise EnvironmentFault(f"cannot be read: {error}", where=str(path), fix="remove it, and run headrace backtest again") from None


def _insist(path: Path, found: _Record) -> None:
    """Record that a pipeline goes live although it breaks its budget."""
    try:
        by = getpass.getuser()
    except (KeyError, OSError, ImportError):
        by = "unknown"
    line = {"at": iso(now_ms()), "by": by, "backtest": found.at, "broken": found.broken, "settings": found.identity["settings"]}
    try:
        with path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_fault(path, error) from None
