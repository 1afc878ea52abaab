"""The patterns that Rust and Java take alike: what they are said as, what is refused and how."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import PlanError
from headrace.plan.functions.regex import regex

WORD = "[0-9A-Z_a-z]"
EDGE = f"(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))"


@pytest.mark.parametrize(
    ("pattern", "rust", "java"),
    [
        ("^[0-9]+$", r"\A[0-9]+\z", None),
        (".", r"[^\n]", None),
        ("(?s).", "(?s:.)", None),
        (r"\d\D", "[0-9][^0-9]", None),
        (r"[\D]", r"[\x00-/:-\x{10FFFF}]", None),
        (r"\s", r"[\x09-\x0D ]", None),
        (r"[\w.-]", r"[\-.0-9A-Z_a-z]", None),
        (r"\bx", r"(?-u:\b)x", f"{EDGE}x"),
        ("(?i)k1-é", "[Kk]1-é", None),
        ("(?i)[b-d]", "[B-Db-d]", None),
        ("(?i:a)b", "(?:[Aa])b", None),
        ("(?<name>a)(?:b)|c{2,}?", "(a)(?:b)|c{2,}?", None),
        (r"\x41\u0042\x{1F600}\t\.", r"AB😀\x09\.", None),
        ("a]}", r"a\]\}", None),
        ("a b#", "a b#", None),
    ],
)
def test_a_pattern_is_said_to_each_engine_in_its_own_words(pattern: str, rust: str, java: str | None) -> None:
    found = regex(pattern)
    assert (found.rust, found.java) == (rust, rust if java is None else java)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("", "the pattern is empty"),
        ("a(?=b)", "at 2: a lookahead, which not every engine has"),
        ("(?<!a)b", "at 1: a lookbehind, which not every engine has"),
        ("(?>a)", "an atomic group"),
        ("(?m)a", "a flag or a group of this kind"),
        ("(?x)a", "a flag or a group of this kind"),
        ("a(?i)b", "at 2: flags stand behind the beginning; write them first, or (?i:…)"),
        ("a++", "at 3: a repetition is repeated or possessive"),
        ("a**", "at 3: a repetition is repeated or possessive"),
        ("(a*)*", "at 6: what is repeated may be empty, and engines leave such a loop at different places"),
        ("(a|){2,3}", "what is repeated may be empty"),
        ("^*", "a place is repeated"),
        (r"(a)\1", r"at 4: \1 refers to a group"),
        (r"\p{L}", r"\p is not the same in every engine; list the letters"),
        (r"a\Z", r"\Z is not the same in every engine; write $, the end of the text"),
        (r"\Qa.b\E", r"\Q is not the same in every engine; write a backslash before each sign"),
        (r"\h", r"write [ \t]"),
        ("[[:alpha:]]", "a class in a class, which not every engine has; write a-zA-Z for [:alpha:]"),
        ("[a-z&&[^b]]", "a class in a class"),
        ("[a--b]", "a - ends no range"),
        ("[]", "a class in a class"),
        ("[a", "at 1: a [ is never closed"),
        ("[z-a]", "a range does not go from one character up to another"),
        (r"[\d-z]", "a range does not go from one character up to another"),
        ("(a", "at 1: a ( is never closed"),
        ("a)", "at 2: a ) closes no group"),
        ("+", "there is nothing that + repeats"),
        ("a{,2}", "a { begins no count"),
        ("a{2,1}", "{2,1} is no count up to 1000"),
        ("a{1001}", "{1001} is no count up to 1000"),
        ("\\", "ends too early"),
        (r"\ud83d", "D83D is no character"),
    ],
)
def test_what_engines_do_not_have_in_common_is_refused(pattern: str, what: str) -> None:
    with pytest.raises(PlanError, match=re.escape(what)):
        regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "groups", "empty"),
    [("a", 0, False), ("(a)(?:b)(?<c>c)", 2, False), ("a*", 0, True), ("a|", 0, True), ("^$", 0, True), ("(a?)b", 1, False)],
)
def test_a_pattern_knows_its_groups_and_whether_it_may_be_empty(pattern: str, groups: int, *, empty: bool) -> None:
    assert (regex(pattern).groups, regex(pattern).empty) == (groups, empty)


@settings(deadline=None)
@given(st.text())
def test_any_text_stands_for_itself_once_its_signs_are_escaped(text: str) -> None:
    escaped = re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)
    if text:
        assert re.search(regex(escaped).rust.replace(r"\z", r"\Z"), text) if "\\x{" not in regex(escaped).rust else True


@settings(deadline=None, max_examples=300)
@given(st.text("ab(?i:)[]^-{}12,\\dwQ|*+$.<=", max_size=12), st.integers())
def test_any_text_is_a_pattern_or_refused(text: str, seed: int) -> None:
    letters = list(text)
    random.Random(seed).shuffle(letters)
    for one in (text, "".join(letters)):
        try:
            regex(one)
        except PlanError:
            continue
