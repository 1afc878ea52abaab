"""`headrace doctor`: what is missing, insecure, or would not work, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import msgspec
from cyclopts import Parameter

from headrace.cli.checks.case import Case, Finding
from headrace.cli.checks.home import check_disk, check_home
from headrace.cli.checks.kafka import check_kafka
from headrace.cli.checks.log import check_log
from headrace.cli.checks.machine import check_clock, check_memory, check_open_files, check_packages, check_python
from headrace.cli.checks.pipeline import check_app
from headrace.cli.checks.settings import check_settings
from headrace.cli.logs import KafkaOptions
from headrace.errors import HeadraceError

__all__ = ["doctor"]


def doctor(
    app: str | None = None,
    /,
    *,
    kafka: KafkaOptions = KafkaOptions(),
    json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Check the environment, the home and the topics, and report each fault with its fix.

    Parameters
    ----------
    app
        A pipeline to check as well: a shipped one (fingerprint), file.py[:name], or module:name.
    json
        A JSON object a line.
    """
    failed = count = 0
    for name, finding in _findings(Case(app, kafka)):
        count += 1
        failed += finding.state == "FAIL"
        print(msgspec.json.encode({"check": name, **msgspec.to_builtins(finding)}).decode() if json else finding, flush=True)
    if failed:
        raise HeadraceError(f"{failed} of {count} checks failed", where="doctor", fix="fix them from the first on: later ones may follow from it")


def _findings(case: Case) -> Iterator[tuple[str, Finding]]:
    """Give what each check finds. One that breaks hides no other."""
    for name, check in _CHECKS.items():
        try:
            yield from ((name, finding) for finding in check(case))
        except HeadraceError as error:
            yield name, Finding("FAIL", error.where or name, error.what, error.fix)
        except Exception as error:  # noqa: BLE001  (whatever it is, the other checks are still of use)
            yield name, Finding("FAIL", name, f"cannot be checked: {type(error).__name__}: {error}", "see that this user may look at it")


_CHECKS: Mapping[str, Callable[[Case], Iterator[Finding]]] = {
    "python": check_python,
    "packages": check_packages,
    "home": check_home,
    "disk": check_disk,
    "log": check_log,
    "memory": check_memory,
    "clock": check_clock,
    "open files": check_open_files,
    "settings": check_settings,
    "kafka": check_kafka,
    "app": check_app,
}
