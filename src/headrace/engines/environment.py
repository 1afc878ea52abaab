"""Engines of others, fetched on first use and kept under HEADRACE_HOME: none of them is a dependency of headrace."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from headrace._durable import private_folder
from headrace._lock import TakenError, take
from headrace.errors import EnvironmentFault

__all__ = ["end_with_parent", "engines_folder", "java", "made", "maven_jars", "pip_install", "wait_for_lock"]

_FETCH_SECONDS = 1800
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>headrace</groupId><artifactId>{name}</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
{dependencies}
</dependencies></project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def engines_folder(home: Path) -> Path:
    """Return where engines are kept: HEADRACE_ENGINES, if it is set, else a folder of `home`."""
    named = os.environ.get("HEADRACE_ENGINES")
    return (Path(named) if named else home / "engines").absolute()


def made(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder, made by `make` the first time: it is there whole or not at all, and one process at a time makes it.

    Raises
    ------
    EnvironmentFault
        If it cannot be made.
    """
    if folder.exists():
        return folder
    aside = folder.with_name(f".{folder.name}.new")
    try:
        private_folder(folder.parent)
        lock = wait_for_lock(folder.with_name(f".{folder.name}.lock"))
        try:
            if not folder.exists():
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
                make(aside)
                aside.rename(folder)
        finally:
            lock.close()
    except OSError as error:
        raise EnvironmentFault(f"cannot be made: {error.strerror}", where=str(folder), fix="name another HEADRACE_ENGINES") from None
    return folder


def wait_for_lock(path: Path) -> IO[bytes]:
    """Return a file that this process has alone until it closes it.

    Raises
    ------
    EnvironmentFault
        If another process has it for half an hour.
    """
    give_up_at = time.monotonic() + _FETCH_SECONDS
    while True:
        try:
            return take(path)
        except TakenError as taken:
            if time.monotonic() > give_up_at:
                raise EnvironmentFault(f"is being made by process {taken.owner}", where=str(path), fix="wait for it, or end it") from None
            time.sleep(0.2)


def java(engine: str, *, least: int = 11) -> str:
    """Return the Java to run an engine with: JAVA_HOME's, else the one on the PATH.

    Raises
    ------
    EnvironmentFault
        If there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    fix = f"install a JDK of {least} or newer (Debian: apt install openjdk-17-jdk-headless), or name one in JAVA_HOME"
    try:
        told = subprocess.run([program or "java", "-version"], check=False, capture_output=True, text=True, timeout=60).stderr  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        raise EnvironmentFault(f"{engine} needs Java, and there is none", where="JAVA_HOME" if home else "PATH", fix=fix) from None
    found = re.search(r'version "(?:1\.)?(\d+)', told)
    if not found or int(found[1]) < least:
        raise EnvironmentFault(f"{engine} needs Java {least} or newer, not {found[1] if found else 'what there is'}", where=str(program), fix=fix)
    return str(program)


def pip_install(folder: Path, *requirements: str, dependencies: bool = True) -> None:
    """Make `folder` a virtual environment with packages in it: with uv, if it is beside the Python that runs, else with pip.

    uv does it with a fraction of the work, but knows nothing of pip's settings: what it cannot get is got with pip.

    Raises
    ------
    EnvironmentFault
        If Python cannot make one, or pip cannot get the packages.
    """
    named = " ".join(requirements)
    print(f"headrace: getting {named} into {folder.parent} (once; some hundred MB)", file=sys.stderr)
    asked = [*([] if dependencies else ["--no-deps"]), *requirements]
    uv, python = Path(sys.executable).with_name("uv"), str(folder / "bin" / "python")
    if uv.exists():
        _make_environment(folder, named, "--without-pip")
        with suppress(EnvironmentFault):
            return _run([str(uv), "pip", "install", "--quiet", "--python", python, *asked], named, "")
        shutil.rmtree(folder)
    _make_environment(folder, named)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return _run([*pip, *asked], named, "see that pip can reach a package index, or set PIP_INDEX_URL")


def _make_environment(folder: Path, named: str, *options: str) -> None:
    _run([sys.executable, "-m", "venv", "--copies", *options, str(folder)], f"the environment of {named}", "Debian: apt install python3-venv")


def maven_jars(folder: Path, *coordinates: str) -> None:
    """Copy the jars of `group:artifact:version`, and what they need, into a folder.

    Raises
    ------
    EnvironmentFault
        If there is no Maven, or it cannot get them.
    """
    named = " ".join(coordinates)
    if not shutil.which("mvn"):
        raise EnvironmentFault(
            f"{named} is needed, and there is no Maven to get it with", where="PATH", fix=f"apt install maven, or put its jars into {folder}"
        )
    dependencies = "\n".join(_DEPENDENCY.format(*one.split(":")) for one in coordinates)
    (folder / "pom.xml").write_text(_POM.format(name=folder.name.strip("."), dependencies=dependencies))
    command = [
        "mvn",
        "-q",
        "-B",
        "-f",
        str(folder / "pom.xml"),
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={folder}",
    ]
    _run(command, named, f"see that Maven works, or put its jars into {folder}")


def _run(command: Sequence[str], what: str, fix: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_FETCH_SECONDS, stdin=subprocess.DEVNULL)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"cannot be had within {_FETCH_SECONDS // 60} minutes", where=what, fix=fix) from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if "ERROR" in line] or (done.stderr or done.stdout).splitlines()[-1:]
        raise EnvironmentFault(f"cannot be had: {said[0].strip() if said else 'no reason given'}", where=what, fix=fix)


_prctl = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have this process end with the one that started it, however that ends: for `preexec_fn`."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
