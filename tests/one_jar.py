"""Puts the jars of a folder into one: whoever compiles code looks for many classes that there are not, and looks into each jar for them."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

_OF_ONE_JAR = re.compile(r"META-INF/(MANIFEST\.MF|INDEX\.LIST|[^/]+\.(SF|RSA|DSA|EC))")  # signatures are of a jar as it was
_MANIFEST = b"Manifest-Version: 1.0\r\nMulti-Release: true\r\n\r\n"


def merge(folder: Path, name: str, without: re.Pattern[str], apart: re.Pattern[str]) -> None:
    """Leave in `folder` one jar, `name`, of all its jars, and those that match `apart`; those that match `without` go. Of a class that two have the first stays."""
    if (folder / name).exists():
        return
    aside, old = folder.with_name(f"{folder.name}.new"), folder.with_name(f"{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    jars = sorted(jar for jar in folder.glob("*.jar") if not without.match(jar.name))
    for jar in jars:
        if apart.match(jar.name):
            shutil.copy2(jar, aside)
    _write(aside / name, (jar for jar in jars if not apart.match(jar.name)))
    folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old)


def _write(merged: Path, jars: Iterable[Path]) -> None:
    services: dict[str, list[bytes]] = defaultdict(list)
    with ZipFile(merged, "w", ZIP_STORED) as written:
        written.writestr("META-INF/MANIFEST.MF", _MANIFEST)
        there = set()
        for jar in jars:
            with ZipFile(jar) as read:
                for entry in read.namelist():
                    if entry.startswith("META-INF/services/") and not entry.endswith("/"):
                        services[entry].append(read.read(entry))
                    elif entry not in there and not _OF_ONE_JAR.fullmatch(entry):
                        written.writestr(entry, read.read(entry))  # folders too: some are looked for
                        there.add(entry)
        for entry, parts in services.items():
            written.writestr(entry, b"\n".join(parts) + b"\n")
