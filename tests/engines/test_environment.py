"""Engines that are got on first use: what is missing is named with its fix, and nothing half made is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from zipfile import ZipFile

import pytest

from headrace.engines.environment import java, made, maven_jars, pip_install
from headrace.errors import EnvironmentFault


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path / "bin"


@pytest.mark.usefixtures("path")
def test_no_java_is_told_with_how_to_get_it() -> None:
    with pytest.raises(EnvironmentFault, match=r"PATH: Flink needs Java, and there is none; install a JDK of 11 or newer .*apt install"):
        java("Flink")


def test_an_old_java_is_told(path: Path) -> None:
    program(path, "java", "echo 'openjdk version \"1.8.0_392\"' >&2")
    with pytest.raises(EnvironmentFault, match=r"Spark needs Java 17 or newer, not 8"):
        java("Spark", least=17)


def test_java_home_comes_first(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path, "java", "exit 1")
    program(tmp_path / "jdk" / "bin", "java", "echo 'openjdk version \"21.0.1\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert java("Flink") == str(tmp_path / "jdk" / "bin" / "java")


@pytest.mark.usefixtures("path")
def test_no_maven_is_told_with_what_it_is_wanted_for(tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentFault, match=r"org.some:thing:1 is needed, and there is no Maven to get it with; apt install maven, or put its jars into"
    ):
        maven_jars(tmp_path, "org.some:thing:1")


def test_why_maven_fails_is_told_in_one_line(path: Path, tmp_path: Path) -> None:
    program(path, "mvn", "echo '[ERROR] Could not find artifact org.some:thing:1'; echo '[ERROR] more'; exit 1")
    with pytest.raises(
        EnvironmentFault, match=r"org.some:thing:1: cannot be had: \[ERROR\] Could not find artifact org.some:thing:1; see that Maven works"
    ) as raised:
        maven_jars(tmp_path, "org.some:thing:1")
    assert "\n" not in str(raised.value)


def test_a_package_that_is_not_there_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(EnvironmentFault, match=r"no-such-package-of-ours==1: cannot be had: .*; see that pip can reach a package index"):
        made(tmp_path / "engine-1", lambda aside: pip_install(aside, "no-such-package-of-ours==1"))
    assert not (tmp_path / "engine-1").exists()


@pytest.mark.skipif(not Path(sys.executable).with_name("uv").exists(), reason="no uv beside Python")
def test_uv_gets_packages_where_it_is_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    wheel, about = tmp_path / "ours-1-py3-none-any.whl", "ours-1.dist-info"
    with ZipFile(wheel, "w") as written:
        written.writestr("ours.py", "SAID = 'it is there'\n")
        written.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: ours\nVersion: 1\n")
        written.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        written.writestr(f"{about}/RECORD", f"ours.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    folder = made(tmp_path / "engine-1", lambda aside: pip_install(aside / "python", str(wheel))) / "python"
    said = subprocess.run([folder / "bin" / "python", "-c", "import ours; print(ours.SAID)"], capture_output=True, text=True, check=False)
    assert said.stdout == "it is there\n", said.stderr
    assert not (folder / "bin" / "pip").exists()


def test_of_two_that_want_the_same_one_makes_it(tmp_path: Path) -> None:
    makers: list[int] = []

    def make(aside: Path) -> None:
        makers.append(os.getpid())
        (aside / "whole").touch()

    both = [threading.Thread(target=made, args=(tmp_path / "engine-1", make)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(180)
    assert len(makers) == 1
    assert (tmp_path / "engine-1" / "whole").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match=r"cannot be made: .*; name another HEADRACE_ENGINES"):
        made(tmp_path / "file" / "engine-1", lambda _: None)
