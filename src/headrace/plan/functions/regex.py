r"""Regular expressions that mean the same to Rust, whose engine Polars has, and to Java, whose engine Flink and Spark have.

A pattern is parsed here and said in each one's own words. What the two take otherwise, or only one of them has, is refused.

- `.` is any character but a line feed; `(?s)` makes it any. `^` and `$` are the start and the end of the whole text.
- `\d`, `\w`, `\s`, `\b` and `(?i)` go by ASCII alone.
- A repetition of what may be empty is refused, for the engines leave such a loop at different places.
- Java's loop over a text of known length leaves in a group within it what a repetition matched that was given up. Where a group is
  extracted, its loops are those that Java takes for texts of any length, which give groups back; they need stack for each repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from headrace.errors import PlanError

__all__ = ["Regex", "regex"]

_MOST = 1000  # repetitions: Rust makes a copy of each
_LAST = 0x10FFFF
_CLASSES = {"d": [(48, 57)], "w": [(48, 57), (65, 90), (95, 95), (97, 122)], "s": [(9, 13), (32, 32)]}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_META = frozenset(r"\.+*?()|[]{}^$")
_META_IN_CLASS = frozenset(r"\[]^-&~")
_WORD = "[0-9A-Z_a-z]"
_EDGE = f"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))"
# Java looks for matches between the two halves of a character, too, where nothing else of the subset could match first.
_INNER = rf"(?:(?<={_WORD})(?={_WORD})|(?<!{_WORD})(?!{_WORD})(?!\p{{Cs}}))"
_ANCHORS = {"^": (r"\A", r"\A"), "$": (r"\z", r"\z"), r"\A": (r"\A", r"\A"), r"\z": (r"\z", r"\z"),
            r"\b": (r"(?-u:\b)", _EDGE), r"\B": (r"(?-u:\B)", _INNER)}  # fmt: skip
_ANY_LENGTH = "(?:{}|(?!))"  # the same, and Java does not know how long it is
_COUNT = re.compile(r"\{([0-9]{1,4})(,([0-9]{0,4}))?\}")
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|x\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})")
_FLAGS = re.compile(r"\(\?([is]+)([:)])")
_NAMED = re.compile(r"\(\?P?<[A-Za-z]\w*>", re.ASCII)
_LACKING = {
    "(?=": "a lookahead", "(?!": "a lookahead", "(?<=": "a lookbehind", "(?<!": "a lookbehind", "(?>": "an atomic group", "(?": "a flag or a group of this kind",
}  # fmt: skip
_ADVICE = {
    "Z": "write $, the end of the text", "p": "list the letters: [A-Za-zÄÖÜäöü]", "P": "list the letters: [^A-Za-z]", "Q": "write a backslash before each sign",
    "E": "write a backslash before each sign", "R": r"write \r?\n", "h": r"write [ \t]",
}  # fmt: skip

_Ranges = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Regex:
    """A pattern in the words of both engines, how many groups it has, and whether an empty text can match."""

    rust: str
    java: str
    groups: int
    empty: bool


@lru_cache(maxsize=256)
def regex(pattern: str, *, extracting: bool = False) -> Regex:
    """Return a pattern of the common subset; `extracting` is set where what a group matched is asked for.

    Raises
    ------
    PlanError
        If it is not one, or holds what the engines do not have in common.
    """
    parser = _Parser(pattern, extracting=extracting)
    whole = parser.whole()
    return Regex(whole.rust, whole.java, parser.groups, whole.empty)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a pattern; `fixed` parts are places, which cannot be repeated."""

    rust: str
    java: str
    empty: bool = False
    fixed: bool = False


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str, *, extracting: bool) -> None:
        self.pattern, self.extracting, self.at, self.groups = pattern, extracting, 0, 0
        self.ignore_case = self.any = False

    def error(self, what: str, fix: str | None = None) -> PlanError:
        return PlanError(f"pattern {self.pattern!r} at {self.at + 1}: {what}", fix=fix)

    def looking_at(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self) -> str:
        if self.at >= len(self.pattern):
            raise self.error("ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def whole(self) -> _Piece:
        if not self.pattern:
            raise PlanError("the pattern is empty")
        flags = _FLAGS.match(self.pattern)
        if flags and flags[2] == ")":
            self.at = flags.end()
            self.ignore_case, self.any = "i" in flags[1], "s" in flags[1]
        found = self.choice()
        if self.at < len(self.pattern):
            raise self.error("a ) closes no group", r"write \) for the sign")
        return found

    def choice(self) -> _Piece:
        ways = [self.sequence()]
        while self.looking_at("|"):
            self.at += 1
            ways.append(self.sequence())
        return _Piece("|".join(one.rust for one in ways), "|".join(one.java for one in ways), any(one.empty for one in ways))

    def sequence(self) -> _Piece:
        pieces = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            before = self.groups
            pieces.append(self.repeated(self.atom(), captures=self.groups > before))
        return _Piece("".join(one.rust for one in pieces), "".join(one.java for one in pieces), all(one.empty for one in pieces))

    def repeated(self, piece: _Piece, *, captures: bool) -> _Piece:
        start = self.at
        least, most = self.count()
        if self.at == start:
            return piece
        times = self.pattern[start : self.at]
        if piece.fixed:
            raise self.error("a place is repeated", "take the repetition away")
        if piece.empty and most > 1:
            raise self.error("what is repeated may be empty, and engines leave such a loop at different places", "write (a|b)* for (a*|b)*, say")
        if self.looking_at("?"):
            self.at += 1
            times += "?"
        if self.at < len(self.pattern) and self.pattern[self.at] in "+*?{":
            raise self.error("a repetition is repeated or possessive, which only one engine has", "put a group around the first")
        java = _ANY_LENGTH.format(piece.java) if self.extracting and captures and most > 1 else piece.java
        return _Piece(piece.rust + times, java + times, piece.empty or least == 0)

    def count(self) -> tuple[int, int]:
        """Return how often the piece before is repeated, at least and at most, and go past what says so."""
        sign = self.pattern[self.at : self.at + 1]
        if sign and sign in "*+?":
            self.at += 1
            return int(sign == "+"), 1 if sign == "?" else _MOST
        if sign != "{":
            return 1, 1
        found = _COUNT.match(self.pattern, self.at)
        if not found:
            raise self.error("a { begins no count", r"write {2}, {2,} or {2,5}, or \{ for the sign")
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else _MOST
        if most < least or most > _MOST:
            raise self.error(f"{found[0]} is no count up to {_MOST}")
        self.at = found.end()
        return least, most

    def atom(self) -> _Piece:
        sign = self.pattern[self.at]
        two = self.pattern[self.at : self.at + 2]
        if (anchor := _ANCHORS.get(sign) or _ANCHORS.get(two)) is not None:
            self.at += 1 if sign in _ANCHORS else 2
            return _Piece(*anchor, empty=True, fixed=True)
        match sign:
            case "(":
                return self.group()
            case "[":
                return self.of_class()
            case ".":
                self.at += 1
                return _Piece("(?s:.)", "(?s:.)") if self.any else _Piece("[^\\n]", "[^\\n]")
            case "\\":
                if len(two) == 2 and two[1] in "DWS":
                    self.at += 2
                    return _class(_CLASSES[two[1].lower()], negated=True)
                self.at += 1
                ranges, single = self.escape()
                return self.letter(chr(ranges[0][0])) if single else _class(ranges, negated=False)
            case "*" | "+" | "?" | "{":
                raise self.error(f"there is nothing that {sign} repeats", f"write \\{sign} for the sign")
        self.at += 1
        return self.letter(sign)

    def letter(self, letter: str) -> _Piece:
        if self.ignore_case and letter.isascii() and letter.isalpha():
            return _class([(ord(one), ord(one)) for one in (letter.upper(), letter.lower())], negated=False)
        said = _said(letter, _META)
        return _Piece(said, said)

    def group(self) -> _Piece:
        outer = self.ignore_case, self.any
        begun, captures = self.at, True
        if flags := _FLAGS.match(self.pattern, self.at):
            if flags[2] == ")":
                raise self.error("flags stand behind the beginning", f"write them first, or (?{flags[1]}:…)")
            self.ignore_case, self.any, captures = self.ignore_case or "i" in flags[1], self.any or "s" in flags[1], False
            self.at = flags.end()
        elif named := _NAMED.match(self.pattern, self.at):
            self.at = named.end()
        elif self.looking_at("(?:"):
            self.at, captures = self.at + 3, False
        elif lacking := next((what for start, what in _LACKING.items() if self.looking_at(start)), None):
            raise self.error(f"{lacking}, which not every engine has")
        else:
            self.at += 1
        self.groups += captures
        inner = self.choice()
        if not self.looking_at(")"):
            self.at = begun
            raise self.error("a ( is never closed", r"write \( for the sign")
        self.at += 1
        self.ignore_case, self.any = outer
        opened = "(" if captures else "(?:"
        return _Piece(f"{opened}{inner.rust})", f"{opened}{inner.java})", inner.empty)

    def escape(self) -> tuple[_Ranges, bool]:
        """Return the characters that an escape stands for, and whether it is a single one."""
        if code := _CODE.match(self.pattern, self.at):
            number = int(code[1] or code[2] or code[3], 16)
            if number > _LAST or 0xD800 <= number <= 0xDFFF:
                raise self.error(f"{number:X} is no character")
            self.at = code.end()
            return [(number, number)], True
        letter = self.take()
        if letter.lower() in _CLASSES:
            ranges = _CLASSES[letter.lower()]
            return (ranges if letter.islower() else _others(ranges)), False
        if letter in _CONTROLS:
            return [(ord(_CONTROLS[letter]),) * 2], True
        if letter.isascii() and letter.isalnum():
            self.at -= 2
            what = f"\\{letter} refers to a group" if letter.isdigit() else f"\\{letter} is not the same in every engine"
            raise self.error(what, _ADVICE.get(letter))
        return [(ord(letter), ord(letter))], True

    def of_class(self) -> _Piece:
        begun = self.at
        self.at += 1
        negated = self.looking_at("^")
        self.at += negated
        ranges: _Ranges = []
        while not self.looking_at("]") or not ranges:
            if self.at >= len(self.pattern):
                self.at = begun
                raise self.error("a [ is never closed", r"write \[ for the sign")
            ranges += self.member()
        self.at += 1
        return _class(_both_cases(ranges) if self.ignore_case else ranges, negated=negated)

    def member(self) -> _Ranges:
        """Return what one member of a class stands for: a character, a range, or a class of a letter, as that of digits."""
        if any(self.looking_at(two) for two in ("&&", "--", "~~", "[", "]")):
            raise self.error("a class in a class, which not every engine has", r"write a-zA-Z for [:alpha:], \[ or \] for the sign")
        first, single = self.single()
        begins_range = self.looking_at("-") and not self.looking_at("-]")
        if not begins_range:
            return first
        self.at += 1
        if any(self.looking_at(sign) for sign in ("-", "[", "&&", "~~")):
            raise self.error("a - ends no range", r"write \- for the sign")
        last, also_single = self.single()
        if not (single and also_single) or last[0][0] < first[0][0]:
            raise self.error("a range does not go from one character up to another", r"write \- for the sign")
        return [(first[0][0], last[0][0])]

    def single(self) -> tuple[_Ranges, bool]:
        letter = self.take()
        return self.escape() if letter == "\\" else ([(ord(letter), ord(letter))], True)


def _both_cases(ranges: _Ranges) -> Iterator[tuple[int, int]]:
    """Yield the ranges, and those of the ASCII letters in them in the other case."""
    yield from ranges
    for low, high, step in ((65, 90, 32), (97, 122, -32)):
        for first, last in ranges:
            if first <= high and last >= low:
                yield max(first, low) + step, min(last, high) + step


def _merged(ranges: Iterable[tuple[int, int]]) -> _Ranges:
    merged: _Ranges = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _others(ranges: _Ranges) -> _Ranges:
    """Return all characters that are in none of the ranges."""
    starts = [0, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), _LAST]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start <= end]


def _class(ranges: Iterable[tuple[int, int]], *, negated: bool) -> _Piece:
    said = ""
    for first, last in _merged(ranges):
        low, high = (_said(chr(end), _META_IN_CLASS) for end in (first, last))
        said += low if first == last else low + high if first + 1 == last else f"{low}-{high}"
    whole = f"[{'^' if negated else ''}{said}]"
    return _Piece(whole, whole)


def _said(letter: str, meta: frozenset[str]) -> str:
    """Return a character as both engines have it."""
    if letter in meta:
        return "\\" + letter
    if letter.isprintable():
        return letter
    return "\\n" if letter == "\n" else f"\\x{ord(letter):02X}" if letter < "\u0100" else f"\\x{{{ord(letter):X}}}"
