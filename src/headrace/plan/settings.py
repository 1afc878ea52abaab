"""A pipeline's settings: its function's parameters, and where their values come from.

First the command line (`--set name=value`), then the environment (`HEADRACE_SET_NAME`, and the bare `NAME` if the
pipeline lists it: `USER` or `LANG` of the environment must not become a setting), then `headrace.toml` (a table named as
the pipeline), then the default.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.errors import PlanError, near

__all__ = ["Setting", "current_settings", "resolve", "settings_of", "using"]

_current: ContextVar[Mapping[str, Any]] = ContextVar("settings", default={})  # noqa: B039  (never mutated)


def current_settings() -> Mapping[str, Any]:
    """Return the settings of the pipeline that is being built; `:name` in an expression stands for one."""
    return _current.get()


@contextmanager
def using(settings: Mapping[str, Any]) -> Iterator[None]:
    """Make `settings` the current ones within a `with` block."""
    token = _current.set(settings)
    try:
        yield
    finally:
        _current.reset(token)


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of a pipeline's function.

    `bare` is whether the upper-cased name alone is a variable of the environment that sets it.
    """

    name: str
    type: Any
    default: Any
    bare: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of the environment that set it, the first that is there."""
        return (f"HEADRACE_SET_{self.name.upper()}", *([self.name.upper()] if self.bare else []))

    def read(self, value: object, origin: str) -> Any:  # noqa: ANN401
        """Return `value`, which may be text, as this setting's type."""
        if isinstance(value, str) and (typing.get_origin(self.type) or self.type) in {list, tuple, Sequence}:
            value = [part.strip() for part in value.strip("[] ").split(",") if part.strip()]
        try:
            return msgspec.convert(value, self.type, strict=False)
        except msgspec.ValidationError as error:
            kind = self.type.__name__ if isinstance(self.type, type) else str(self.type).removeprefix("typing.")
            raise PlanError(f"setting {self.name} = {value!r} is no {kind}: {error}", where=origin) from None


def settings_of(function: Callable[..., Any], env: Sequence[str] = ()) -> tuple[Setting, ...]:
    """Return the settings that the function's parameters declare, those in `env` with their bare names as variables.

    Raises
    ------
    PlanError
        If a parameter has no default, for then a run could not know its value, or a name in `env` is not the upper-cased name of one.
    """
    hints = typing.get_type_hints(function)
    settings = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            raise PlanError(f"setting {name!r} has no default", where=f"pipeline function {function.__name__}", fix=f"write {name}: int = 1, say")
        kind = Any if parameter.default is None else type(parameter.default)
        settings.append(Setting(name, hints.get(name, kind), parameter.default, bare=name.upper() in env))
    bare = [setting.name.upper() for setting in settings]
    for variable in env:
        if variable not in bare:
            raise PlanError(
                f"{variable!r} in env= is not the upper-cased name of a setting",
                where=f"pipeline function {function.__name__}",
                fix=near(variable, bare),
            )
    return tuple(settings)


def resolve(
    settings: tuple[Setting, ...],
    given: Mapping[str, str],
    environment: Mapping[str, str],
    file: Mapping[str, Any],
    *,
    file_name: str = "headrace.toml",
) -> dict[str, Any]:
    """Return the value of each setting, from the first place that has one."""
    known = [setting.name.lower() for setting in settings]
    for origin, names in (("--set", given), (file_name, file)):
        for name in names:
            if name.lower() not in known:
                raise PlanError(f"unknown setting {name!r}", where=origin, fix=near(name, known))
    given = {name.lower(): value for name, value in given.items()}
    file = {name.lower(): value for name, value in file.items()}
    values = {}
    for setting in settings:
        if setting.name.lower() in given:
            values[setting.name] = setting.read(given[setting.name.lower()], "--set")
        elif variable := next((one for one in setting.variables if one in environment), None):
            values[setting.name] = setting.read(environment[variable], f"environment {variable}")
        elif setting.name.lower() in file:
            values[setting.name] = setting.read(file[setting.name.lower()], file_name)
        else:
            values[setting.name] = setting.default
    return values
