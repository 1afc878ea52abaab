"""`headrace backup` and `headrace restore`: a whole home in one file, and back."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from headrace.cli.apps import home
from headrace.cli.paths import InputPath, OutputPath
from headrace.topics.backup import backup as take
from headrace.topics.backup import restore as put_back

__all__ = ["backup", "restore"]


def backup(file: OutputPath, /) -> None:
    """Write the home to one file: the log with its topics and state, state beside Kafka, ledgers and jobs. Runs may go on meanwhile.

    Parameters
    ----------
    file
        A tar file to make.
    """
    found = take(home(), file)
    print(f"Backed up {home()} to {file}: {len(found.files):,} files, {found.size / 1e6:,.1f} MB, checked.")


def restore(file: InputPath, /, *, replace: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Restore a home from a backup. No process may use it meanwhile.

    Parameters
    ----------
    file
        What `headrace backup` wrote.
    replace
        Even if the home is used; what was in it is moved aside within it.
    """
    count, aside = put_back(file, home(), replace=replace)
    moved = f" What was there is in {aside}." if aside else ""
    print(f"Restored {count:,} files to {home()}, checked.{moved}")
