"""`headrace init`: a first plant file, from a template."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from headrace.cli.paths import OutputPath
from headrace.errors import EnvironmentFault, PlanError, near
from headrace.plant.file import PLANT_FILE

__all__ = ["TEMPLATES", "init"]

TEMPLATES = {
    "kiln": "a simulated kiln, its fingerprints minute by minute, and a file of them; needs nothing else",
    "csv": "your own CSV file that grows, with a list of tags, statistics by minute, and a file of them",
    "mqtt": "readings from an MQTT broker, statistics by minute, and a file of them",
    "opcua": "the variables of an OPC UA server, statistics by minute, and a file of them",
    "factory": "controllers of a factory from an MQTT broker, their values with quality, and documents of these in MongoDB",
    "water": "a simulated water treatment plant with attacks, its alarms, alerts and statistics, and a picture of it; needs nothing else",
    "water-influxdb": "the same plant with its alarms and picture, and InfluxDB: rows, alerts and statistics, a compose file, and four dashboards of Grafana",
    "events": "server-sent events over HTTP, such as those of headrace serve generators, statistics, and a file of them",
}
_SHARED = {
    "lines.py": tuple(name for name in TEMPLATES if name not in {"factory", "water-influxdb"}),
    "minutes.py": ("csv", "mqtt", "opcua"),
    "water.svg": ("water", "water-influxdb"),
}
_FIRST = {"water-influxdb": ". ./influxdb.env; docker compose up -d; "}  # without the variables its file is not sound


def init(template: str | None = None, /, *, folder: OutputPath = Path()) -> None:
    """Write a first plant file and what belongs to it. No file that exists is changed.

    Parameters
    ----------
    template
        kiln, csv, mqtt, opcua, factory, water, water-influxdb or events. Without it, a terminal is asked.
    folder
        Where; the working folder if it is not given.
    """
    name = template or _asked()
    if name not in TEMPLATES:
        raise PlanError(f"there is no template {name!r}", where="TEMPLATE", fix=near(name, TEMPLATES))
    templates = files("headrace.cli") / "templates"
    contents = dict(_contents(templates / name))
    contents |= {file: (templates / "shared" / file).read_bytes() for file, users in _SHARED.items() if name in users}
    if name in _SHARED["water.svg"]:
        contents["tags.csv"] = (files("headrace.simulate.water") / "tags.csv").read_bytes()
    there = sorted(file for file in contents if (folder / file).exists())
    if there:
        raise PlanError(f"{', '.join(there)} exists", where=str(folder), fix="name another folder: --folder NAME")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in sorted(contents.items()):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            with (folder / file).open("xb") as new:
                new.write(content)
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(folder), fix="name a folder that this user may write") from None
    print(f"Wrote {', '.join(sorted(contents))}: {TEMPLATES[name]}.")
    inside = "" if folder == Path() else f"cd {folder}; "
    print(f"Next: {inside}{_FIRST.get(name, '')}headrace check; headrace up")


def _contents(template: Traversable, within: str = "") -> Iterator[tuple[str, bytes]]:
    """Return the files of a template and of its folders."""
    for one in template.iterdir():
        if one.is_dir():
            yield from _contents(one, f"{within}{one.name}/")
        else:
            yield f"{within}{one.name}", one.read_bytes()


def _asked() -> str:
    """Return the template that a person chooses on a terminal. Raises PlanError where there is none."""
    unnamed = PlanError("no template is named", where="TEMPLATE", fix=f"name one of {', '.join(TEMPLATES)}")
    if not (sys.stdin and sys.stdin.isatty()):
        raise unnamed
    for number, (name, what) in enumerate(TEMPLATES.items(), 1):
        print(f"{number}  {name}: {what}")
    try:
        answer = input(f"Which one writes {PLANT_FILE}? ").strip()
    except EOFError:
        raise unnamed from None
    names = list(TEMPLATES)
    return names[int(answer) - 1] if answer.isascii() and answer.isdigit() and 0 < int(answer) <= len(names) else answer
