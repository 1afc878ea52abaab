"""`headrace run fingerprint:saver`: fingerprints and their readings, joined in files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from headrace.topics.protocol import Log

__all__ = ["save"]


def save(log: Log, folder: Path, *, stop: Callable[[], bool], duration: float | None, records: int | None, latest: bool) -> int:
    """Save each fingerprint of a log in a file of its own, say so on standard output, and return how many files were written."""
    from headrace.connectors.fingerprint_files import FingerprintSaver

    def tell(path: Path, readings: int) -> None:
        print(f"Saved {path} ({readings} reading{'' if readings == 1 else 's'})", flush=True)

    with closing(FingerprintSaver(log, folder, latest=latest, saved=tell)) as saver:
        written = saver.run(stop, duration=duration, records=records)
        if saver.bad:
            print(f"headrace: {saver.bad:,} of {saver.taken:,} records were no fingerprints", file=sys.stderr)
        return written
