"""The digest of a process's code: the same on every start and with comments changed, another when the code is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.apps.rules import Watch
from headrace.kernels.keyed.code import code_digest

MODULE = '''
import statistics
from dataclasses import dataclass

import beside

LIMITS = {"low": 1.0, "names": {"a", "b", "c", "d"}}
UNUSED = 1


def double(x):
    return half(x) * 4  # twice


def half(x):
    return x / 2


def unused():
    return 0


class Base:
    def helped(self, x):
        return double(x)


class Code(Base):
    """Says so."""

    output = {"x": "DOUBLE"}

    def __init__(self, more=len):
        self.more = more

    def on_record(self, row, state):
        return {"x": self.helped(row["x"]) + LIMITS["low"] + beside.thing(1) + statistics.mean([1])}
'''
BESIDE = "def thing(x):\n    return x\n"
DIGESTS = """
import importlib, sys
from headrace.kernels.keyed.code import code_digest
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    print(code_digest(importlib.import_module("code_under_test").Code()))
    del sys.path[0], sys.modules["code_under_test"], sys.modules["beside"]
"""


def written(folder: Path, module: str = MODULE, beside: str = BESIDE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "code_under_test.py").write_text(module)
    (folder / "beside.py").write_text(beside)
    return folder


def digests_of(*folders: Path) -> list[str]:
    """Return the digests that a Python of its own finds, with a seed of its own for hashes."""
    command = [sys.executable, "-B", "-c", DIGESTS, *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split()


def test_equal_code_has_equal_digests_on_every_start_and_in_every_folder(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a"), written(tmp_path / "b")
    assert len({one for _ in range(3) for one in digests_of(first, second)}) == 1


UNCHANGED = {
    "a comment": ("# twice", "# two times"), "a blank line": ("    def on_record", "\n\n    def on_record"),
    "what it does not name": ("return 0", "return 1"), "a constant that it does not name": ("UNUSED = 1", "UNUSED = 2"),
    "the order of a set": ('{"a", "b", "c", "d"}', '{"d", "c", "b", "a"}'),
}  # fmt: skip
CHANGED = {
    "a method": ('+ LIMITS["low"]', '- LIMITS["low"]'), "a base": ("return double(x)", "return double(x) + 1"),
    "a function of the module": ("* 4", "* 5"), "a function that this calls": ("x / 2", "x / 3"), "a constant": ('"low": 1.0', '"low": 2.0'),
    "its declaration": ('"x": "DOUBLE"', '"x": "DOUBLE NOT NULL"'),
}  # fmt: skip


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the digests of the code as it is, and of each change."""
    folder = tmp_path_factory.mktemp("code")
    made = {"as it is": written(folder / "as it is"), "beside": written(folder / "beside", beside=BESIDE.replace("return x", "return -x"))}
    for what, (old, new) in {**UNCHANGED, **CHANGED}.items():
        assert MODULE.count(old) == 1
        made[what] = written(folder / what, MODULE.replace(old, new))
    return dict(zip(made, digests_of(*made.values()), strict=True))


@pytest.mark.parametrize("what", [*UNCHANGED, *CHANGED])
def test_what_a_change_of_the_code_is(what: str, digests: dict[str, str]) -> None:
    assert (digests[what] == digests["as it is"]) == (what in UNCHANGED)


def test_a_module_of_the_authors_that_it_names_is_covered(digests: dict[str, str]) -> None:
    assert digests["beside"] != digests["as it is"]


def test_what_a_function_around_it_gave_it_is_covered() -> None:
    def made(limit: float) -> object:
        class Inner:
            def on_record(self, row: object, state: object) -> float:  # noqa: ARG002
                return limit

        return Inner()

    assert code_digest(made(1.0)) == code_digest(made(1.0)) != code_digest(made(2.0))


def test_a_shipped_process_has_a_digest_and_one_without_source_has_none() -> None:
    assert len(code_digest(Watch(1.0, 2.0, 3, 0.5, 1_000)) or "") == 16
    assert code_digest(type("Made", (), {})()) is None
