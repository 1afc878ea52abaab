"""From APP on the command line to a plan with its settings."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

import headrace.apps
from headrace.errors import PlanError, near
from headrace.plan.pipeline import Pipeline, Plan
from headrace.plan.settings import resolve

__all__ = ["find_pipeline", "home", "pipelines_of_file", "plan_of"]

SETTINGS_FILE = Path("headrace.toml")


def home() -> Path:
    """Return the folder of what lasts: HEADRACE_HOME, or `.headrace` in the working folder."""
    return Path(os.environ.get("HEADRACE_HOME") or ".headrace")


def find_pipeline(app: str) -> Pipeline:
    """Return the pipeline that APP names: a shipped one, `file.py[:name]` or `module:name`.

    Raises
    ------
    PlanError
        If there is none, or the file cannot be run.
    """
    place, _, name = app.partition(":")
    shipped = [module.name for module in pkgutil.iter_modules(headrace.apps.__path__)]
    if app in shipped:
        return _one(_pipelines(importlib.import_module(f"headrace.apps.{app}")), app, app)
    if place.endswith(".py"):
        return _one(pipelines_of_file(Path(place)), name, place)
    if name:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise PlanError(f"no module {error.name!r}", where=f"APP {app!r}", fix="is its folder on PYTHONPATH?") from None
        return _one(_pipelines(module), name, place)
    raise PlanError(f"no app {app!r}", fix=f"{near(app, shipped)} or name a file.py[:name] or module:name")


def pipelines_of_file(path: Path) -> dict[str, Pipeline]:
    """Return the pipelines that a Python file defines, by name."""
    if not path.is_file():
        raise PlanError("there is no such file", where=str(path), fix="name a Python file that defines a pipeline")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise PlanError("cannot be imported", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except (PlanError, KeyboardInterrupt):
        raise
    except Exception as error:
        line = _line_in(path, error)
        raise PlanError(f"{type(error).__name__}: {error}", where=f"{path}{line}", fix="mend the file") from error
    return _pipelines(module)


def _line_in(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f" line {error.lineno}"
    trace, line = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f" line {trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _pipelines(module: ModuleType) -> dict[str, Pipeline]:
    return {one.name: one for one in vars(module).values() if isinstance(one, Pipeline)}


def _one(found: dict[str, Pipeline], name: str, place: str) -> Pipeline:
    if not found:
        raise PlanError("defines no pipeline", where=place, fix="decorate a function with @hr.pipeline(name, version=…)")
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        what = f"defines no pipeline {name!r}" if name else "defines several pipelines"
        raise PlanError(what, where=place, fix=near(name, found) if name else f"add :name, one of {', '.join(found)}")
    return found[name]


def plan_of(app: str, settings: Iterable[str]) -> Plan:
    """Return APP's plan, its settings from `--set`, the environment, `headrace.toml` and the defaults."""
    pipeline = find_pipeline(app)
    given = dict(_key_value(one) for one in settings)
    return pipeline.plan(**resolve(pipeline.settings, given, os.environ, _from_file(pipeline.name)))


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise PlanError(f"{text!r} is not KEY=VALUE", where="--set")
    return key, value


def _from_file(name: str) -> dict[str, Any]:
    if not SETTINGS_FILE.is_file():
        return {}
    try:
        whole: dict[str, Any] = msgspec.toml.decode(SETTINGS_FILE.read_bytes())
    except msgspec.DecodeError as error:
        raise PlanError(f"cannot be read: {error}", where=str(SETTINGS_FILE)) from None
    table = whole.get(name, {})
    if not isinstance(table, dict):
        raise PlanError(f"{name!r} is not a table", where=str(SETTINGS_FILE), fix=f"write [{name}] above its settings")
    return table
