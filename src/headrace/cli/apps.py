"""From APP on the command line to a plan with its settings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

import headrace.apps
from headrace.cli.paths import local_path
from headrace.cli.values import pair_of
from headrace.errors import HeadraceError, PlanError, near
from headrace.plan.pipeline import Pipeline, Plan
from headrace.plan.settings import resolve

__all__ = [
    "SETTINGS_FILE",
    "blaming",
    "find_pipeline",
    "home",
    "made",
    "module_of_file",
    "pipelines_of_file",
    "plan_of",
    "settings_file",
    "table_of_settings",
    "work_in",
]

SETTINGS_FILE = Path("headrace.toml")
_HOME = ".headrace"
_settings_file = SETTINGS_FILE
_named: set[Path] = set()  # the homes above the working folder that were named on standard error


def settings_file() -> Path:
    """Return the file of settings: `headrace.toml` of the working folder, or the plant file that a command names."""
    return _settings_file


def work_in(plant: Path) -> Path:
    """Make the folder of a plant file the working folder and the file that of settings; return its name there.

    Paths in the file, and a relative HEADRACE_HOME, then mean the same wherever the command is called.
    """
    global _settings_file  # noqa: PLW0603  (a command names it once)
    folder = plant.parent
    if not folder.is_dir():
        raise PlanError("there is no such folder", where=str(folder), fix="name a plant file: --plant headrace.toml")
    if named := os.environ.get("HEADRACE_HOME"):
        os.environ["HEADRACE_HOME"] = str(local_path(named, "HEADRACE_HOME", writes=True).absolute())
    if folder != Path():
        os.chdir(folder)
    _settings_file = Path(plant.name)
    return _settings_file


def home() -> Path:
    """Return the folder of what lasts: HEADRACE_HOME, or the nearest `.headrace` of the working folder and those above it.

    Of those above, one of another user is passed over: what lies in it decides what headrace does. One that is used is named on
    standard error, once.
    """
    named = os.environ.get("HEADRACE_HOME")
    here = Path(_HOME)
    if named or here.exists():
        return local_path(named, "HEADRACE_HOME", writes=True) if named else here
    for folder in Path.cwd().parents:
        if _is_own_folder(folder / _HOME):
            if folder not in _named:
                _named.add(folder)
                print(f"headrace: home is {folder / _HOME}, found above the working folder", file=sys.stderr)
            return folder / _HOME
    return here


def _is_own_folder(path: Path) -> bool:
    try:
        return path.is_dir() and (sys.platform == "win32" or path.stat().st_uid == os.getuid())
    except OSError:
        return False


def find_pipeline(app: str) -> Pipeline:
    """Return the pipeline that APP names: a shipped one, `file.py[:name]` or `module:name`.

    Raises
    ------
    PlanError
        If there is none, or the file cannot be run.
    """
    local_path(app, "APP")
    place, _, name = app.partition(":")
    shipped = [module.name for module in pkgutil.iter_modules(headrace.apps.__path__)]
    if place in shipped:
        return _one(_pipelines(importlib.import_module(f"headrace.apps.{place}"), place), name or place, place)
    if place.endswith(".py"):
        return _one(pipelines_of_file(Path(place)), name, place)
    if place and name:
        return _one(_pipelines(_module(place), place), name, place)
    raise PlanError(f"no app {app!r}", fix=f"{near(app, shipped)}; or name a file.py[:name] or module:name")


def pipelines_of_file(path: Path) -> dict[str, Pipeline]:
    """Return the pipelines that a Python file defines, by name."""
    return _pipelines(module_of_file(path, "pipeline"), str(path))


def module_of_file(path: Path, kind: str) -> ModuleType:
    """Return the module that a Python file is, which defines a `kind` of thing. It may import modules from its own folder."""
    if not path.is_file():
        raise PlanError("there is no such file", where=str(path), fix=f"name a Python file that defines a {kind}")
    if path.suffix != ".py":
        raise PlanError("is no Python file", where=str(path), fix="name one that ends in .py")
    name, file = f"{kind}s of {path.stem}", path.absolute()
    spec = ModuleSpec(name, loader := _Source(name, str(file)), origin=str(file))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    beside = str(file.parent)
    if beside not in sys.path:
        sys.path.append(beside)  # the last, so that no file there stands in for a module that is installed
    with blaming(str(path)):
        loader.exec_module(module)
    return module


class _Source(SourceFileLoader):
    """Loads a file as it is now: bytecode is known by the second and the size, and an edit within a second may change neither."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Return nothing to know bytecode by: none is read, and none written."""
        raise OSError(path)


def _module(name: str) -> ModuleType:
    try:
        with blaming(name):
            return importlib.import_module(name)
    except PlanError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise PlanError(f"no module {error.__cause__.name!r}", where=f"module {name!r}", fix="is its folder on PYTHONPATH?") from None
        raise


@contextmanager
def blaming(file: str) -> Iterator[None]:
    """Make an error of a user's own code one that names the line, of `file` or else of the last one that Python ran of theirs."""
    try:
        yield
    except HeadraceError:
        raise
    except (Exception, SystemExit) as error:
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        raise PlanError(f"{type(error).__name__}: {what}", where=_line_of(file, error), fix="fix the file") from error


def _line_of(file: str, error: BaseException) -> str:
    """Return the last line of `file` that led to the error, or if there is none, the last line of any."""
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    if isinstance(error, SyntaxError) and error.filename:
        lines.append((error.filename, error.lineno))
    mine = [line for name, line in lines if Path(name).absolute() == Path(file).absolute()]
    return f"{file} line {mine[-1]}" if mine else f"{file}: {lines[-1][0]} line {lines[-1][1]}"


def _pipelines(module: ModuleType, place: str) -> dict[str, Pipeline]:
    found: dict[str, Pipeline] = {}
    for one in vars(module).values():
        if isinstance(one, Pipeline) and found.setdefault(one.name, one) is not one:
            raise PlanError(f"defines two pipelines {one.name!r}", where=place, fix="give each a name of its own")
    if not found:
        raise PlanError("defines no pipeline", where=place, fix="decorate a function with @hr.pipeline(name, version=…)")
    return found


def _one(found: dict[str, Pipeline], name: str, place: str) -> Pipeline:
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        what = f"defines no pipeline {name!r}" if name else "defines several pipelines"
        raise PlanError(what, where=place, fix=near(name, found) if name else f"add :name, one of {', '.join(found)}")
    return found[name]


def plan_of(app: str, settings: Iterable[str]) -> Plan:
    """Return APP's plan, its settings from `--set`, the environment, `headrace.toml` and the defaults."""
    pipeline = find_pipeline(app)
    given = dict(pair_of(one, "--set", "limit=90") for one in settings)
    return made(pipeline, resolve(pipeline.settings, given, os.environ, _settings_in_file(pipeline.name)))


def _settings_in_file(pipeline: str) -> dict[str, Any]:
    """Return a pipeline's table of `headrace.toml`, empty if it is not there; the tables of a plant are no pipeline's."""
    if not settings_file().is_file():
        return {}
    from headrace.plant.file import TABLES  # most runs have no file

    return {} if pipeline in TABLES else table_of_settings(pipeline)


def made(pipeline: Pipeline, settings: Mapping[str, Any]) -> Plan:
    """Return the pipeline's plan; whatever its function raises is an error that names the line."""
    code = getattr(inspect.unwrap(pipeline.function), "__code__", None)
    with blaming(code.co_filename if code else f"pipeline {pipeline.name}"):
        return pipeline.plan(**settings)


def table_of_settings(name: str) -> dict[str, Any]:
    """Return a table of `headrace.toml`, empty if it is not there."""
    if not settings_file().is_file():
        return {}
    try:
        whole: dict[str, Any] = msgspec.toml.decode(settings_file().read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise PlanError(f"cannot be read: {error}", where=str(settings_file()), fix="fix or remove it") from None
    table = whole.get(name, {})
    if not isinstance(table, dict):
        raise PlanError(f"{name!r} is not a table", where=str(settings_file()), fix=f"write [{name}] above its settings")
    return table
