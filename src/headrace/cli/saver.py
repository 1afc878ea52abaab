"""`headrace run fingerprint:saver`: fingerprints and their readings, joined in files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.logs import open_log
from headrace.cli.stopping import asked_to_stop
from headrace.engines.embedded.tuning import collect_from_here, suit_batches
from headrace.engines.options import OPTIONS, Honoured, Refused, Support, refuse
from headrace.errors import PlanError
from headrace.topics.protocol import Log

if TYPE_CHECKING:
    from headrace.cli.options import RunOptions

__all__ = ["is_saver", "run_saver", "save"]

_HONOURED = {"kafka_servers", "kafka_config", "until", "duration", "records"}
_NONE = Refused("the saver has no such option")
SUPPORT: Mapping[str, Support] = {name: Honoured() if name in _HONOURED else _NONE for name in OPTIONS}


def is_saver(app: str) -> bool:
    """Return whether APP is the saver, which is no pipeline."""
    return app == "fingerprint:saver"


def run_saver(output: Path | None, options: RunOptions, given: Mapping[str, object]) -> None:
    """Save fingerprints until SIGTERM or a limit.

    Parameters
    ----------
    given
        The options besides `options`, and whether they were given: the saver has none of them.
    """
    for option in (name for name, is_given in given.items() if is_given):
        raise PlanError(_NONE.reason, where=option, fix=_NONE.fix)
    refuse(SUPPORT, options.given)
    suit_batches()
    stop = asked_to_stop()
    log = open_log(options)
    collect_from_here()
    asked = options.parsed
    save(log, output or Path("output"), stop=stop, duration=asked.duration, records=asked.records, latest=asked.until is not None)


def save(log: Log, folder: Path, *, stop: Callable[[], bool], duration: float | None, records: int | None, latest: bool) -> int:
    """Save each fingerprint of a log in a file of its own, say so on standard output, and return how many files were written."""
    from headrace.connectors.fingerprint_saver import FingerprintSaver

    def tell(path: Path, readings: int) -> None:
        print(f"Saved {path} ({readings} reading{'' if readings == 1 else 's'})", flush=True)

    with closing(FingerprintSaver(log, folder, latest=latest, saved=tell)) as saver:
        written = saver.run(stop, duration=duration, records=records)
        if saver.bad:
            print(f"headrace: {saver.bad:,} of {saver.taken:,} records were no fingerprints", file=sys.stderr)
        return written
