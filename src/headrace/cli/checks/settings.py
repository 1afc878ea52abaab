"""The settings file: its tables are pipelines', and their settings are known."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import msgspec

import headrace.apps
from headrace.cli.apps import SETTINGS_FILE, find_pipeline, pipelines_of_file
from headrace.cli.checks.case import Case, Finding
from headrace.errors import PlanError, near
from headrace.plan.pipeline import Pipeline
from headrace.plant.file import TABLES
from headrace.topics.cluster import properties_of_table

__all__ = ["check_settings"]


def check_settings(case: Case) -> Iterator[Finding]:
    """Check the settings file of the working folder."""
    where = str(SETTINGS_FILE)
    if not SETTINGS_FILE.exists():
        return
    try:
        whole: dict[str, Any] = msgspec.toml.decode(SETTINGS_FILE.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        yield Finding("FAIL", where, f"cannot be read: {error}", "fix or remove it")
        return
    known = _known_pipelines(case.app)
    findings = [finding for name, table in whole.items() for finding in _table(name, table, known)]
    yield from findings or [Finding("ok", where, f"settings of {', '.join(whole) or 'no pipeline'}")]


def _known_pipelines(app: str | None) -> dict[str, Pipeline]:
    """Return the shipped pipelines and those that stand with APP, by name."""
    known: dict[str, Pipeline] = {}
    for module in iter_modules(headrace.apps.__path__):
        found = vars(importlib.import_module(f"headrace.apps.{module.name}")).values()
        known.update({one.name: one for one in found if isinstance(one, Pipeline)})
    with suppress(PlanError):  # which the check of APP shows
        if app is not None:
            file, _, _ = app.partition(":")
            found_with = pipelines_of_file(Path(file)).values() if file.endswith(".py") else [find_pipeline(app)]
            known.update({one.name: one for one in found_with})
    return known


def _table(name: str, table: object, known: Mapping[str, Pipeline]) -> Iterator[Finding]:
    if name in TABLES and name != "kafka":
        return  # part of a plant, which `headrace check` checks
    where = f"{SETTINGS_FILE} [{name}]"
    if not isinstance(table, dict):
        yield Finding("warn", f"{SETTINGS_FILE} {name}", "stands in no table and is not read", "write [PIPELINE] above the settings of a pipeline")
        return
    if name == "kafka":
        properties_of_table(table, where, SETTINGS_FILE.parent, os.environ)
        return
    if name not in known:
        yield Finding("warn", where, f"no pipeline {name!r} is known here", f"{near(name, known)}; if it is your own: headrace doctor FILE.py:{name}")
        return
    settings = {setting.name.lower(): setting for setting in known[name].settings}
    for key, value in table.items():
        if key.lower() not in settings:
            yield Finding("FAIL", where, f"unknown setting {key!r}", near(key, settings))
            continue
        try:
            settings[key.lower()].read(value, where)
        except PlanError as error:
            yield Finding("FAIL", where, error.what, "fix the value, or remove the line")
