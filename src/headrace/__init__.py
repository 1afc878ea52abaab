"""headrace: streaming analytics for industrial plants.

The few names a pipeline's author uses.
"""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING

from headrace.detect.operator import Detections, detect
from headrace.engines.embedded.pipeline import Pipeline, pipeline, test
from headrace.engines.embedded.results import Result, Table
from headrace.errors import DataError, EnvironmentFault, HeadraceError, InternalError, PlanError, ProcessError
from headrace.plan.inputs import InputStream, input
from headrace.plan.pipeline import Plan
from headrace.plan.process import List, Map, Value
from headrace.plan.stream import ProcessedStream, Stream, WindowedStream, stream
from headrace.plan.window import Months, Window, cumulating, months, sliding, tumbling

if TYPE_CHECKING:
    from headrace.alarms.operator import (
        Alarms,
        alarm,
        alarm_causes,
        alarm_commands,
        alarm_conditions,
        alarm_definitions,
        alarm_first_out,
        alarm_floods,
        alarm_transitions,
    )
    from headrace.alarms.rules import Rules, rule_definitions, rules
    from headrace.detect.infer import infer
    from headrace.detect.model import Model
    from headrace.engines.embedded.trial import Trial
    from headrace.kernels.keyed.drive import drive
    from headrace.kernels.keyed.state import fresh_state

__all__ = [
    "Alarms",
    "DataError",
    "Detections",
    "EnvironmentFault",
    "HeadraceError",
    "InputStream",
    "InternalError",
    "List",
    "Map",
    "Model",
    "Months",
    "Pipeline",
    "Plan",
    "PlanError",
    "ProcessError",
    "ProcessedStream",
    "Result",
    "Rules",
    "Stream",
    "Table",
    "Trial",
    "Value",
    "Window",
    "WindowedStream",
    "alarm",
    "alarm_causes",
    "alarm_commands",
    "alarm_conditions",
    "alarm_definitions",
    "alarm_first_out",
    "alarm_floods",
    "alarm_transitions",
    "cumulating",
    "days",
    "detect",
    "drive",
    "fresh_state",
    "hours",
    "infer",
    "input",
    "milliseconds",
    "minutes",
    "months",
    "pipeline",
    "rule_definitions",
    "rules",
    "seconds",
    "sliding",
    "stream",
    "test",
    "tumbling",
]

__version__ = "0.1.0"


# A pipeline without alarms, models and tests need not wait for their modules.
_WHEN_USED = {
    **{name: "headrace.alarms.operator" for name in __all__ if name.lower().startswith("alarm")},
    **dict.fromkeys(("Rules", "rule_definitions", "rules"), "headrace.alarms.rules"),
    "Model": "headrace.detect.model",
    "Trial": "headrace.engines.embedded.trial",
    "drive": "headrace.kernels.keyed.drive",
    "fresh_state": "headrace.kernels.keyed.state",
    "infer": "headrace.detect.infer",
}


def __getattr__(name: str) -> object:
    if name not in _WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_WHEN_USED[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def milliseconds(count: int) -> timedelta:
    """Return a duration of so many milliseconds."""
    return timedelta(milliseconds=count)


def seconds(count: float) -> timedelta:
    """Return a duration of so many seconds."""
    return timedelta(seconds=count)


def minutes(count: float) -> timedelta:
    """Return a duration of so many minutes."""
    return timedelta(minutes=count)


def hours(count: float) -> timedelta:
    """Return a duration of so many hours."""
    return timedelta(hours=count)


def days(count: float) -> timedelta:
    """Return a duration of so many days of 24 hours. In a window with a time zone they are days of its local time."""
    return timedelta(days=count)
