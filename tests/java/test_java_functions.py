"""What the jar works out for functions, and what Java makes of patterns, is what Polars makes of them in the embedded engine."""

from __future__ import annotations

import random
import zoneinfo
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.kernels.columnar.compile import compile_expression
from headrace.plan.expression import Call, Column, Literal
from headrace.plan.functions import FUNCTIONS
from headrace.plan.functions.regex import regex
from headrace.plan.schema import BIGINT, DOUBLE, STRING, Type
from java.probe import Probe

PATTERNS = 400
ALPHABET = [
    "a",
    "b",
    "B",
    "k",
    "K",
    "_",
    "0",
    "9",
    "-",
    ".",
    " ",
    "\n",
    "\r",
    "\t",
    "\x0b",
    "\x1c",
    "\x85",
    "\u2028",
    "\xa0",
    "é",
    "É",
    "ſ",
    "\u212a",
    "ß",
    "٣",
    "😀",
    "\u0301",
    "$",
    "\\",
]


def of(name: str, kind: Type, columns: list[tuple[list[Any], Type]], *constants: object) -> list[Any]:
    """Return what a function gives for rows, and for one row alone."""
    frame = pl.DataFrame({f"c{number}": values for number, (values, _) in enumerate(columns)})
    arguments = [Column(f"c{number}", one) for number, (_, one) in enumerate(columns)]
    literals = [Literal(one, BIGINT if isinstance(one, int) else STRING) for one in constants]  # type: ignore[arg-type]
    called = Call(name, (*arguments, *literals), kind)
    found: list[Any] = frame.select(compile_expression(called)).to_series().to_list()
    return found


# Regular expressions


def text_of(chance: random.Random) -> str:
    return "".join(chance.choice(ALPHABET) for _ in range(chance.randrange(9)))


def pattern_of(chance: random.Random, depth: int = 3) -> str:
    """Return a pattern that is likely, but not sure, to be of the subset."""
    pieces = []
    for _ in range(chance.randrange(1, 4)):
        match chance.randrange(9 if depth else 6):
            case 0 | 1 | 2:
                letter = chance.choice(ALPHABET)
                piece = f"\\{letter}" if letter in ".$\\-" else letter
            case 3:
                piece = (
                    "["
                    + chance.choice(["", "^"])
                    + "".join(chance.choice(["a-k", "A-Z", r"\d", r"\W", r"\s", r"\S", "é", "\u2028", "0", r"\-", "😀", r"\n"]) for _ in range(2))
                    + "]"
                )
            case 4:
                piece = chance.choice([".", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\x{1F600}", r"\u00e9"])
            case 5:
                pieces.append(chance.choice(["^", "$", r"\b", r"\B", ""]))
                continue
            case 6 | 7:
                piece = chance.choice(["(", "(", "(?:", "(?<n>", "(?i:", "(?s:"]) + pattern_of(chance, depth - 1) + ")"
            case _:
                piece = f"(?:{pattern_of(chance, depth - 1)}|{pattern_of(chance, depth - 1)})"
        pieces.append(piece + chance.choice(["", "", "", "?", "*", "+", "*?", "+?", "??", "{2}", "{1,2}", "{0,2}?", "{1,}"]))
    return "".join(pieces)


def differences(java: Probe, seed: int, count: int) -> list[str]:
    """Return a line for each random pattern and text that Java and Rust disagree about."""
    chance, found, compared = random.Random(seed), [], 0
    while compared < count:
        written = chance.choice(["", "", "", "(?i)", "(?s)", "(?is)"]) + pattern_of(chance)
        try:
            pattern = regex(written)
        except PlanError:
            continue
        compared += 1
        texts = ["", *(text_of(chance) for _ in range(12))]
        put = chance.choice(["", "#", "$1", "\\1", "$"])
        extracting = regex(written, extracting=True).java
        answers = [(java.matched(extracting, text, put)[0], java.matched(pattern.java, text, put)[1]) for text in texts]
        matches = of("REGEXP", STRING, [(texts, STRING)], written)
        groups = [of("REGEXP_EXTRACT", STRING, [(texts, STRING)], written, group) for group in range(pattern.groups + 1)]
        replaced = None if pattern.empty else of("REGEXP_REPLACE", STRING, [(texts, STRING)], written, put)
        for row, (text, (theirs, changed)) in enumerate(zip(texts, answers, strict=True)):
            mine = [one[row] for one in groups] if matches[row] else []
            if mine != theirs:
                found.append(f"{written!r} on {text!r}: {mine}, in Java {theirs}")
            if replaced and replaced[row] != changed:
                found.append(f"{written!r} on {text!r} by {put!r}: {replaced[row]!r}, in Java {changed!r}")
            if not pattern.empty and "" in theirs[:1]:
                found.append(f"{written!r} matches an empty text in {text!r}")
    return found


def test_java_and_rust_find_the_same_with_any_pattern_of_the_subset(java: Probe) -> None:
    assert differences(java, 1, PATTERNS) == []


@pytest.mark.parametrize("written", [r"\B", r"(?i)\B", r"\B\W", r"\B.+", r".\B", r"\B\b"])
def test_no_pattern_matches_between_the_two_halves_of_a_character_in_java(java: Probe, written: str) -> None:
    texts = ["k😀_", "😀", "😀😀", "_😀", "😀_", "a😀b", " 😀"]
    matched = of("REGEXP_EXTRACT", STRING, [(texts, STRING)], written, 0)
    assert [next(iter(java.matched(regex(written).java, text, "")[0]), None) for text in texts] == matched


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_java_and_rust_find_the_same_with_many_patterns(java: Probe, seed: int) -> None:
    assert differences(java, seed, 20 * PATTERNS) == []


# Times by a pattern

TIMES = [
    "yyyy-MM-dd HH:mm:ss.SSS",
    "d/M/yyyy H:m:s",
    "yyMMddHHmmss",
    "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'",
    "HH:mm",
    "'it''s' yyyy",
    "yyyy",
    "SSS",
    "dd.MM.yy",
    "😀yyyy''",
]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(TIMES), st.datetimes(timezones=st.just(UTC)), st.integers(0, 2**32))
def test_a_text_is_the_same_time_by_a_pattern(java: Probe, pattern: str, time: datetime, seed: int) -> None:
    written = of("DATE_FORMAT", STRING, [([time], STRING)], pattern)[0]
    chance, texts = random.Random(seed), [written, "", f"{written}\n", f" {written}"]
    for _ in range(12):  # a few signs changed
        place = chance.randrange(len(written))
        texts.append(written[:place] + chance.choice([*"0123456789", "", "٣", ":", " "]) + written[place + chance.randrange(2) :])
    mine = of("TO_TIMESTAMP_LTZ", STRING, [(texts, STRING)], pattern)
    assert [None if one is None else round(one.timestamp() * 1000) for one in mine] == [java.time(pattern, text) for text in texts]


ZONES = [
    "Europe/Berlin",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Havana",
    "Asia/Kolkata",
    "UTC",
    "EST",
]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(ZONES), st.lists(st.datetimes(datetime(1975, 1, 1), datetime(2060, 1, 1)), min_size=1, max_size=40))  # noqa: DTZ001
def test_a_local_time_is_the_same_instant_in_a_zone(java: Probe, zone: str, times: list[datetime]) -> None:
    texts = [time.strftime("%Y-%m-%d %H:%M") for time in times]
    # Local times near a change of the clocks: every quarter of an hour of the nights of some months.
    texts += [f"{times[0].year}-{month:02}-{day:02} 0{hour}:{minute}" for month in (3, 4, 10, 11) for day in (1, 8, 26, 31 if month in (3, 10) else 30)
              for hour in (0, 1, 2, 3) for minute in (15, 45)]  # fmt: skip
    mine = of("TO_TIMESTAMP_LTZ", STRING, [(texts, STRING)], "yyyy-MM-dd HH:mm", zone)
    assert [None if one is None else round(one.timestamp() * 1000) for one in mine] == [java.time("yyyy-MM-dd HH:mm", text, zone) for text in texts]


@pytest.mark.long
def test_java_has_the_clocks_of_every_zone_that_it_knows(java: Probe) -> None:
    """From 2001 to 2021: the two databases need not be of one version."""
    texts = [f"{year}-{month:02}-11 01:30" for year in (2001, 2007, 2014, 2021) for month in (1, 4, 7, 10)]
    unknown, different = [], []
    for zone in sorted(zoneinfo.available_timezones() - {"Factory", "localtime"}):
        mine = of("TO_TIMESTAMP_LTZ", STRING, [(texts, STRING)], "yyyy-MM-dd HH:mm", zone)
        theirs = [java.time("yyyy-MM-dd HH:mm", text, zone) for text in texts]
        if not isinstance(theirs[0], int):
            unknown.append(zone)
        elif [round(one.timestamp() * 1000) for one in mine] != theirs:
            different.append(zone)
    assert different == []
    assert len(unknown) < 5, unknown


# Parts of a text, and numbers cut off


@settings(deadline=None, max_examples=150)
@given(st.text("a,é😀\\E|."), st.text("a,é😀\\E|.", max_size=3), st.integers(-2, 5) | st.integers(-(2**63), 2**63 - 1))
def test_a_text_has_the_same_parts(java: Probe, text: str, delimiter: str, number: int) -> None:
    assert [java.parts(text, delimiter)] == of("SPLIT", STRING, [([text], STRING), ([delimiter], STRING)])
    assert [java.part(text, delimiter, number)] == of("SPLIT_INDEX", STRING, [([text], STRING), ([delimiter], STRING), ([number], BIGINT)])


@settings(deadline=None, max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.decimals(-(10**15), 10**15, places=3).map(float), st.integers(-18, 18))
def test_a_number_is_cut_off_at_the_same_place(java: Probe, number: float, decimals: int) -> None:
    assert FUNCTIONS["TRUNCATE"].literal == (1,)
    assert [java.cut(number, decimals)] == of("TRUNCATE", DOUBLE, [([number], DOUBLE)], decimals)
