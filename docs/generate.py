"""Writes the reference pages from the code: functions from their table, public names and commands from their docstrings.

`python docs/generate.py` writes them; with `--check` it says which are out of date, and which links of the docs lead nowhere.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

import headrace
from headrace.cli import app
from headrace.cli.backtest import JudgeOptions
from headrace.cli.options import RunOptions
from headrace.cli.simulate import GeneratorOptions, KilnOptions, PlcOptions, WaterOptions
from headrace.detect.calibration import Calibration
from headrace.engines.options import OPTIONS, Mode, Refused, Support, flag
from headrace.engines.protocol import ENGINES, engine_named
from headrace.plan.functions import AGGREGATES, FUNCTIONS, Aggregate, Function, Signature
from headrace.plan.functions.navigation import NAVIGATION, Navigation

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
CLASSES = {
    "headrace run": (RunOptions,),
    "headrace simulate": (KilnOptions, GeneratorOptions, PlcOptions, WaterOptions),
    "headrace backtest": (JudgeOptions,),
    "headrace fit": (Calibration,),
    "headrace what-if": (JudgeOptions,),
}
NOTICE = "<!-- made by docs/generate.py; edit the code instead -->\n"


def signature(name: str, one: Signature) -> str:
    takes = ", ".join(map(str, one.takes)) + (" …" if one.variadic else "")
    return f"`{name}`: ({takes}) → {one.gives}"


def literal(value: object) -> str:
    return "NULL" if value is None else json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else repr(value)


def entry(one: Function | Aggregate | Navigation) -> Iterator[str]:
    yield f"### `{one.name}`\n"
    yield f"{one.summary} {one.nulls}.\n"
    yield "\n".join(f"- {signature(one.name, form)}" for form in one.signatures) + "\n"
    if isinstance(one, Navigation):
        return
    if isinstance(one, Function):
        rows = [f"| `{escape(text)}` | `{escape(literal(value))}` |" for text, value in one.cases]
        yield "| expression | value |\n|---|---|\n" + "\n".join(rows) + "\n"
    else:
        rows = [f"| `{escape(call)}` | `{escape(literal(given))}` | `{escape(literal(value))}` |" for call, given, value in one.cases]
        yield "| call | rows | value |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    if one.flink is None:
        yield "Plain Flink SQL has no such function.\n"
    elif one.flink_gaps:
        yield "Plain Flink SQL answers otherwise for " + ", ".join(f"`{gap}`" for gap in one.flink_gaps) + ".\n"
    if one.spark_gaps:
        yield "Spark answers otherwise for " + ", ".join(f"`{gap}`" for gap in one.spark_gaps) + ".\n"


def escape(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text).replace("|", "\\|")


def functions_page() -> str:
    parts = [
        NOTICE,
        "# Functions\n",
        "Every function an expression may call, from the table that also says how each engine computes it. Each example is a test. `T` stands for any one type, "
        "`S` for any one that is no container, `TEXT` for a STRING or a BIGINT, `…` for one or more of the last. A DOUBLE is always finite: what would give NaN or infinity gives NULL.\n",
        "`TRY_CAST(x AS type)`, `CAST`, `CASE`, `BETWEEN`, `STRUCT(a, b AS c)` and `FILTER (WHERE …)` are syntax, described with [pipelines](../pipelines.md).\n",
        f"## Scalar functions and operators ({len(FUNCTIONS)})\n",
        *(part for one in FUNCTIONS.values() for part in entry(one)),
        f"## Aggregate functions ({len(AGGREGATES)})\n",
        *(part for one in AGGREGATES.values() for part in entry(one)),
        f"## Functions of `over` alone ({len(NAVIGATION)})\n",
        *(part for one in NAVIGATION.values() for part in entry(one)),
    ]
    return "\n".join(parts)


def described(name: str, value: object) -> Iterator[str]:
    plain = not callable(value) or (inspect.isclass(value) and issubclass(value, Exception))
    shown = name if plain else name + str(inspect.signature(value)).replace("'", "")
    yield f"### `{shown}`\n"
    yield f"```text\n{inspect.getdoc(value) or ''}\n```\n"


def names_page() -> str:
    classes = [value for name in headrace.__all__ if inspect.isclass(value := getattr(headrace, name))]
    parts = [NOTICE, "# Names\n", "What `import headrace as hr` gives. Errors are drawn as a tree in `headrace.errors`.\n"]
    for name in headrace.__all__:
        value = getattr(headrace, name)
        parts += described(f"hr.{name}", value)
        if inspect.isclass(value) and not issubclass(value, Exception | headrace.Window):  # what a window computes, engines need
            for method, function in inspect.getmembers(value, lambda one: inspect.isfunction(one) or isinstance(one, property)):
                inherited = any(one is not value and issubclass(value, one) and hasattr(one, method) for one in classes)
                if not inherited and not method.startswith("_"):
                    parts += described(f".{method}", function)
    return "\n".join(parts)


def _parameters(doc: str) -> str:
    """Return what a docstring says of its parameters."""
    return "".join(f"{line}\n" for line in doc.partition("----------\n")[2].splitlines())


def _command(path: str, app: App) -> list[str]:
    if app.default_command is not None:
        options = "".join(_parameters(inspect.getdoc(one)) for one in CLASSES.get(path, ()))
        return [f"## `{path}`\n", f"```text\n{inspect.getdoc(app.default_command)}\n{options}```\n"]
    parts = [f"## `{path}`\n", f"{app.help}\n"]
    for name in app:
        if not name.startswith("-"):
            parts += [f"### `{path} {name}`\n", f"```text\n{inspect.getdoc(app[name].default_command)}\n```\n"]
    return parts


def commands_page() -> str:
    parts = [
        NOTICE,
        "# Commands\n",
        "Exit status: 0 done, 1 the job failed, 2 wrong use. An error is one line on standard error; `--debug` adds the traceback.\n",
    ]
    for name in app:
        if not name.startswith("-"):
            parts += _command(f"headrace {name}", app[name])
    return "\n".join(parts)


def options_page() -> str:
    engines = [engine_named(name) for name in ENGINES]
    parts = [
        NOTICE,
        "# Options and engines\n",
        "What each engine does with each option of [`headrace run`](commands.md#headrace-run). *Yes*: the engine honours it. *No*: the engine refuses it when "
        "it is given, names it with this reason and a fix, and starts nothing. A default is never refused. The command line refuses by this table.\n",
        "`--input`, `--output`, `--set`, `--allow-nothing-accepted`, `--engine` and `--yes` mean the same on every engine.\n",
    ]
    for mode in Mode:
        having = [one for one in engines if mode in one.capabilities.options]
        parts += [f"## Runs {mode}\n", f"| option | {' | '.join(one.name for one in having)} |\n|---|{'---|' * len(having)}"]
        parts += [f"| `{flag(name)}` | {' | '.join(_support(one.capabilities.options[mode][name]) for one in having)} |" for name in OPTIONS]
        if mode is not Mode.JOB:
            ends = (one.capabilities.stops.get(mode, "the run ends at once") for one in having)
            parts.append(f"| SIGTERM, Ctrl-C | {' | '.join(ends)} |")
        parts.append("")
    return "\n".join(parts)


def _support(one: Support) -> str:
    return f"no: {one.reason}" if isinstance(one, Refused) else f"yes: {one.note}" if one.note else "yes"


PAGES = {"functions.md": functions_page, "names.md": names_page, "commands.md": commands_page, "options.md": options_page}


def broken_links() -> Iterator[str]:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)}: {target} does not exist"


def main() -> int:
    faults = []
    REFERENCE.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        page = REFERENCE / name
        text = make().rstrip() + "\n"
        if "--check" not in sys.argv:
            page.write_text(text)
        elif not page.exists() or page.read_text() != text:
            faults.append(f"docs/reference/{name} is out of date: run make docs")
    faults += broken_links()
    for fault in faults:
        print(fault, file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
