"""The locked packages: every one with a version and hashes, the same in every file, and none that pyproject.toml does not allow."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS, GROUPS = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
CORE = PROJECT["project"]["dependencies"]


def group(name: str) -> list[str]:
    return list(chain.from_iterable(group(one["include-group"]) if isinstance(one, dict) else [one] for one in GROUPS[name]))


ASKED = {
    "uv": ["uv"],
    "run": [*CORE, *group("build")],
    "image": [*CORE, *chain.from_iterable(EXTRAS.values())],
    "build": [*group("build"), *group("sbom")],
    "dev": [*CORE, *chain.from_iterable(EXTRAS.values()), *group("dev")],
    "site": group("site"),
}


def locked(name: str) -> dict[str, set[str]]:
    """Return the versions of each package of a file; there are several where the platform decides."""
    versions: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / "locks" / f"{name}.txt").read_text()):
        if not entry.startswith((" ", "#")):
            package, version = re.match(r"([\w.-]+)==([^\s;]+)", entry).groups()
            assert "--hash=sha256:" in entry, entry
            versions.setdefault(canonicalize_name(package), set()).add(version)
    return versions


@pytest.mark.parametrize("name", ASKED)
def test_a_lock_holds_what_pyproject_asks_for(name):
    versions = locked(name)
    for text in ASKED[name]:
        asked = Requirement(text)
        assert all(version in asked.specifier for version in versions[canonicalize_name(asked.name)]), text


def test_every_file_has_the_same_version_of_a_package():
    everything: dict[str, set[str]] = {}
    for name in ASKED:
        for package, versions in locked(name).items():
            assert everything.setdefault(package, versions) == versions, package


def test_the_makefile_and_the_image_install_nothing_without_hashes():
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "deploy" / "Dockerfile").read_text()
    for line in re.findall(r"pip install .*", makefile + dockerfile):
        assert "--require-hashes" in line or "--no-deps" in line, line
    assert set(re.findall(r"locks/(\w+)\.txt", makefile)) >= set(ASKED) - {"run"}
