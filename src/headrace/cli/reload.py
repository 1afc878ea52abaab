"""`headrace reload`: a running plant takes its file again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from headrace._lock import TakenError, take
from headrace.cli.apps import home
from headrace.cli.paths import InputPath
from headrace.cli.plant import check_plant
from headrace.cli.up import LOCK_FILE, STATE_FILE
from headrace.errors import EnvironmentFault, PlanError
from headrace.plant.file import PLANT_FILE

__all__ = ["reload"]

_LIMIT_SECONDS = 150.0
_LOOK_SECONDS = 0.05


def reload(*, plant: InputPath = Path(PLANT_FILE)) -> None:
    """Apply the changes of the plant file to the running plant. Parts that have changed are restarted, the others go on; nothing is lost.

    A file with mistakes changes nothing. Modules that a pipeline's file imports are not read again, and variables of the environment
    stay as they were when the plant was started: restart `headrace up` for these.

    Parameters
    ----------
    plant
        The plant file.
    """
    check_plant(plant)
    owner = _owner()
    before = _state()["generation"]
    try:
        os.kill(owner, signal.SIGHUP)
    except (OSError, AttributeError) as error:
        raise EnvironmentFault(f"cannot be told: {error}", where=f"process {owner}", fix="are you its user?") from None
    give_up_at = time.monotonic() + _LIMIT_SECONDS
    while (state := _state())["generation"] == before:
        if time.monotonic() > give_up_at or not _is_running():
            raise EnvironmentFault("did not take its file again", where=f"process {owner}", fix="look at its lines")
        time.sleep(_LOOK_SECONDS)
    if state["refused"]:
        raise PlanError(f"not reloaded: {state['refused']}", where=f"process {owner}", fix="the plant goes on as it was")
    for one in ("started", "stopped", "unchanged"):
        if state[one]:
            print(f"{one + ':':<11}{', '.join(state[one])}")


def _owner() -> int:
    """Return the process that runs the plant. Raises PlanError if there is none."""
    try:
        take(home() / LOCK_FILE).close()
    except TakenError as taken:
        return int(taken.owner)
    except OSError:
        pass
    raise PlanError("no plant runs here", where=str(home()), fix="start it: headrace up")


def _is_running() -> bool:
    try:
        _owner()
    except PlanError:
        return False
    return True


def _state() -> dict[str, Any]:
    try:
        state: dict[str, Any] = msgspec.json.decode((home() / STATE_FILE).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise EnvironmentFault(f"cannot be read: {error}", where=str(home() / STATE_FILE), fix="has headrace up just been started?") from None
    return state
