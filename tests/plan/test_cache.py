"""The cache of bound expressions: the same plans with and without it, and nothing that is wrong with its file breaks or changes one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.apps.fingerprint import fingerprint
from headrace.apps.rules import __dict__ as rules
from headrace.errors import PlanError
from headrace.plan import cache, sql
from headrace.plan.cache import cached, caching_in
from headrace.plan.expression import Expression, Literal
from headrace.plan.functions import AGGREGATES, FUNCTIONS
from headrace.plan.pipeline import Pipeline
from headrace.plan.schema import BIGINT, Schema
from headrace.plan.sql import parse_expression

SCHEMA = Schema.parse({"a": "BIGINT NOT NULL", "t": "STRING", "r": "ROW<x DOUBLE, `y z` ARRAY<STRING>>", "m": "MAP<STRING, DOUBLE>", "🏭": "BOOLEAN"})
TEXTS = [
    "a", "-0.0", "0", "0.0", "1e308", "-9223372036854775808", "'5'", "'é🏭\\'", "NULL", "TRUE", "r.`y z`[1]", "m['x'] + r.x", "🏭 IS NOT TRUE",
    "CASE WHEN a > 1 THEN 'x' ELSE t END", "TRY_CAST(t AS DOUBLE) / 2", "STRUCT(a, STRUCT(t AS u, m) AS inner)", "UUID_V5(t, a)", "a IN (1, :limit)",
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "expressions.cache"


def bound(
    path: Path, text: str, settings: dict[str, Any] | None = None, schema: Schema = SCHEMA, *, aggregates: bool = False
) -> tuple[Expression, bool]:
    """Return what the text means, and whether it was parsed for that."""
    parsed = []

    def bind() -> Expression:
        parsed.append(text)
        return parse_expression(text, schema, settings, aggregates=aggregates)

    with caching_in(path):
        return cached(bind, text, schema, settings or {}, aggregates=aggregates), bool(parsed)


@pytest.mark.parametrize("text", TEXTS)
def test_an_expression_comes_back_as_it_was(path: Path, text: str) -> None:
    first, again = (bound(path, text, {"limit": 3}) for _ in range(2))
    assert (first[1], again[1]) == (True, False)
    assert repr(again[0]) == repr(first[0]) == repr(parse_expression(text, SCHEMA, {"limit": 3}))


def test_all_that_the_functions_cases_say_comes_back_as_it_was(path: Path) -> None:
    texts = [case[0] for function in FUNCTIONS.values() for case in function.cases]
    texts += [case[0] for function in AGGREGATES.values() for case in function.cases]
    schema = Schema.parse({"x": "DOUBLE"})
    found, parsed = [], []
    for turn in range(2):
        with caching_in(path):
            for text in texts[: cache._MOST]:

                def bind(text: str = text, turn: int = turn) -> Expression:
                    parsed.append(turn)
                    return parse_expression(text, schema, aggregates=True)

                try:
                    found.append(repr(cached(bind, text, schema, {}, aggregates=True)))
                except PlanError as error:
                    found.append(str(error))
    half = len(found) // 2
    assert found[:half] == found[half:]
    assert parsed.count(1) < parsed.count(0) / 10  # only what is refused is parsed again


@pytest.mark.parametrize("pipeline", [fingerprint, *(one for one in rules.values() if isinstance(one, Pipeline))], ids=lambda one: one.name)
def test_a_plan_is_the_same_without_the_parser(path: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pipeline.plan().identity
    with caching_in(path):
        assert pipeline.plan().identity == plain
    monkeypatch.setattr(sql, "parse_expression", None)
    with caching_in(path):
        assert pipeline.plan().identity == plain
    with pytest.raises(TypeError):
        pipeline.plan()


def test_what_decides_the_meaning_decides_whether_an_expression_is_found(path: Path) -> None:
    assert bound(path, "a + :n", {"n": 1})[1]
    assert not bound(path, "a + :n", {"n": 1})[1]
    assert bound(path, "a + :n", {"n": 1.0})[1]
    assert bound(path, "a + :n", {"n": 1}, Schema.parse({"a": "DOUBLE"}))[1]
    assert bound(path, "a + :n", {"n": 1}, aggregates=True)[1]
    assert not bound(path, "a + :n", {"n": 1.0})[1]


def test_a_setting_that_hides_its_value_is_not_kept(path: Path) -> None:
    class Hidden(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "hidden"

    assert bound(path, ":n", {"n": Hidden("x")})[0] != bound(path, ":n", {"n": Hidden("y")})[0]
    assert not path.exists()


def test_an_error_is_not_kept(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PlanError, match="unknown column"):
            bound(path, "nothing")
    assert not path.exists()


def test_other_code_finds_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(path, "a")
    monkeypatch.setattr(cache, "_code_digest", lambda: b"other")
    assert bound(path, "a")[1]
    assert not bound(path, "a")[1]


def test_where_the_code_cannot_be_read_nothing_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "find_spec", lambda _: None)
    assert all(bound(path, "a")[1] for _ in range(2))
    assert not path.exists()


def test_a_damaged_file_changes_no_answer(path: Path) -> None:
    bound(path, "a + 1")
    whole, dice = path.read_bytes(), random.Random(1)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << dice.randrange(8))]) + whole[place + 1 :])
        assert bound(path, "a + 1") == (parse_expression("a + 1", SCHEMA), True)
    for damaged in (b"", whole[:10], whole[:-1], whole + b" ", b"\0" * 4096):
        path.write_bytes(damaged)
        assert bound(path, "a + 1") == (parse_expression("a + 1", SCHEMA), True)
    assert not bound(path, "a + 1")[1]


def test_a_file_of_another_user_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound(path, "a")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert bound(path, "a")[1]


def test_without_its_folder_or_with_a_folder_in_its_place_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for path in (tmp_path / "none" / "cache", tmp_path / "cache"):
        assert all(bound(path, "a")[1] for _ in range(2))
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "cache"]


def test_a_file_is_for_its_owner_alone_and_of_limited_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST", 3)
    for number in range(5):
        bound(path, f"a + {number}")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [bound(path, f"a + {number}")[1] for number in (4, 3, 2, 0)] == [False, False, False, True]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_an_expression_that_is_nested_too_deeply_is_only_not_kept(path: Path) -> None:
    deep: Expression = Literal(1, BIGINT)
    for _ in range(5000):
        deep = hr.plan.expression.Cast(deep, BIGINT)
    with caching_in(path):
        assert cached(lambda: deep, "deep", SCHEMA, {}, aggregates=False) is deep
    assert not path.exists()
    assert bound(path, "a")[1]


def test_several_writers_leave_a_whole_file(path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from headrace.plan.cache import cached, caching_in
from headrace.plan.expression import Literal
from headrace.plan.schema import BIGINT, Schema
for number in range(200):
    with caching_in(Path({str(path)!r})):
        for text in (str(number), "same"):
            assert cached(lambda: Literal(text, BIGINT), text, Schema(()), {{}}, aggregates=False) == Literal(text, BIGINT)
"""
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [one.wait(timeout=600) for one in writers] == [0, 0, 0]
    with caching_in(path):
        assert cached(lambda: Literal("parsed", BIGINT), "same", Schema(()), {}, aggregates=False) == Literal("same", BIGINT)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
