"""What each engine can do, from what it did: `results/ENGINE.json`, and from those of all engines the page docs/support.md.

`python tests/conformance/support.py` runs the engines that are there and writes both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from conformance import functions, reading, suite
from conformance.engine import Engine, Outcome, differences
from conformance.features import FEATURES, RESTARTS, having
from headrace.plan.functions import AGGREGATES, FUNCTIONS

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent.parent / "docs" / "support.md"
INTRODUCTION = """<!-- made by tests/conformance/support.py; run it instead of editing -->
# What each engine supports

One suite of cases asks every engine for the same records: windows, late rows, dead letters and ledger, each function, each rule of reading. This page is made of
what the engines gave. *Yes* means that every case was answered as the contract says; `n of m` that some were not, and below stands why. A gap that closes fails the
tests until its mark is taken out, so nothing here is out of date.
"""


# Results


def results(engine: Engine, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Return what became of all that was asked of an engine: what was answered otherwise, beside how much a whole run asks."""
    asked, marked = {}, {}
    cases = {name: case for name, case in {**suite.cases(), **suite.restarted()}.items() if name in outcomes}
    for name, case in cases.items():
        job = suite.jobs()[name]
        asked[f"case {name}"] = suite.judged(case, job, engine.name, outcomes[name])
        if suite.mark(case.unsupported, job, engine.name) is not None:
            marked[f"case {name}"] = f"refused: {outcomes[name].refused}"
        elif (differs := suite.mark(case.differs, job, engine.name)) is not None:
            marked[f"case {name}"] = differs
    asked |= {name: differences(outcomes[name], expected) for name, (_, expected) in reading.asked().items()}
    wrong: dict[str, list[str]] = {}
    for name, function in {**FUNCTIONS, **AGGREGATES}.items():
        if functions.lacking(function, engine.name):
            wrong[name] = ["there is none"]
        elif found := functions.faults(functions.probes()[name], outcomes, ()):
            wrong[name] = [one for one in functions.gaps(function, engine.name) if any(fault.startswith(f"{one}: ") for fault in found)] or found
    nulls = {
        fate for name in suite.cases().keys() & cases for counts in outcomes[name].ledger.values() for fate, count in counts.items() if count is None
    }
    return {
        "engine": engine.name,
        "cases": len(suite.cases()),
        "reading": len(reading.asked()),
        "functions": len(functions.probes()),
        "otherwise": marked | {name: found[0] for name, found in asked.items() if found},
        "functions_otherwise": wrong,
        "ledger_nulls": sorted(nulls),
    }


def of(results: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return of results what is said of jobs with these names."""
    return {**results, "otherwise": {name: why for name, why in results["otherwise"].items() if name.removeprefix("case ") in names}}


def text(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False, indent=2) + "\n"


def recorded() -> list[dict[str, Any]]:
    """Return the results of all engines that have some, the embedded one first."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return sorted(found, key=lambda one: one["engine"] != "embedded")


# The page


def page(engines: list[dict[str, Any]]) -> str:
    """Return the page."""
    lines = [INTRODUCTION, f"| | {' | '.join(one['engine'] for one in engines)} |", f"|---|{'---|' * len(engines)}"]
    lines += [f"| {feature} ({len(having(feature))}) | {' | '.join(_cell(one, feature) for one in engines)} |" for feature in FEATURES]
    lines.append(f"| values read by the rule ({len(reading.asked())}) | {' | '.join(_share(one, 'reading', 'reading ') for one in engines)} |")
    for what, table in (("functions and operators", FUNCTIONS), ("aggregate functions", AGGREGATES)):
        lines.append(f"| {what} ({len(table)}) | {' | '.join(_functions(one, table) for one in engines)} |")
    lines += [
        "",
        "In parentheses: how many cases, tables of values or functions. The cases stand in `tests/conformance/cases`, each with its origin.",
        "",
    ]
    for one in engines:
        if notes := list(_notes(one)):
            lines += [f"## {one['engine']}: what is otherwise", "", *notes, ""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(engine: Mapping[str, Any], feature: str) -> str:
    names = [*suite.restarted()] if feature == RESTARTS else having(feature)
    same = [name for name in names if f"case {name}" not in engine["otherwise"]]
    if feature == "the ledger" and engine["ledger_nulls"]:
        return f"all but {', '.join(engine['ledger_nulls'])}"
    return "yes" if len(same) == len(names) else "no" if not same else f"{len(same)} of {len(names)}"


def _share(engine: Mapping[str, Any], what: str, prefix: str) -> str:
    wrong = sum(name.startswith(prefix) for name in engine["otherwise"])
    return "yes" if not wrong else f"{engine[what] - wrong} of {engine[what]}"


def _functions(engine: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    wrong = sum(name in engine["functions_otherwise"] for name in table)
    return "yes" if not wrong else f"{len(table) - wrong} of {len(table)}"


def _notes(engine: Mapping[str, Any]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for name, why in engine["otherwise"].items():
        by_reason.setdefault(why, []).append(name.removeprefix("case "))
    for why, names in by_reason.items():
        yield f"- {why} ({', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''})"
    for name, cases in engine["functions_otherwise"].items():
        yield f"- `{name}`: {'; '.join(f'`{one}`' if ' ' not in one or '(' in one else one for one in cases)}".replace("|", "\\|")
    if engine["ledger_nulls"]:
        yield f"- The ledger has null for {', '.join(engine['ledger_nulls'])}."


def main() -> int:
    from conformance.conftest import ENGINES

    RESULTS.mkdir(exist_ok=True)
    for engine in ENGINES:
        if (why := engine.missing()) is not None:
            print(f"{engine.name}: not run: {why}", file=sys.stderr)
            continue
        with TemporaryDirectory() as folder:
            found = results(engine, suite.outcomes(engine, Path(folder), whole=True))
        (RESULTS / f"{engine.name}.json").write_text(text(found))
    PAGE.write_text(page(recorded()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
