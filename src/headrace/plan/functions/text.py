"""Text. Lengths and positions count characters (Unicode code points), positions from 1."""

from __future__ import annotations

import uuid
from hashlib import sha1
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.errors import PlanError
from headrace.plan.functions.base import Function, constant, elementwise, signatures
from headrace.plan.functions.regex import regex

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["TABLE"]

_LONGEST = 10_000
_NAMESPACE = uuid.UUID(bytes=b"headrace.uuid.v5")


def _like(text: pl.Expr, pattern: pl.Expr) -> pl.Expr:
    wild = {"%": ".*", "_": "."}
    return text.str.contains("(?s)^" + "".join(wild.get(letter) or pl.escape_regex(letter) for letter in constant(pattern)) + "$")


def _rust(pattern: pl.Expr) -> str:
    return regex(constant(pattern)).rust


def _check_regex(pattern: str, *_others: object) -> None:
    try:
        pl.select(pl.lit("").str.contains(regex(pattern).rust))
    except pl.exceptions.ComputeError as error:
        reason = str(error).split("error: ")[-1].splitlines()[0]
        raise PlanError(f"pattern {pattern!r} cannot be used: {reason}") from None


def _check_replaced(pattern: str, *_others: object) -> None:
    _check_regex(pattern)
    if regex(pattern).empty:
        raise PlanError(f"pattern {pattern!r} also matches an empty text, which engines find at different places", fix="write + for *, say")


def _check_group(pattern: str, group: int = 0) -> None:
    _check_regex(pattern)
    if group < 0:
        raise PlanError(f"group {group} is asked for", fix="groups count from 1, and 0 is the whole match")


def _check_search(search: str) -> None:
    if not search:
        raise PlanError("the text to look for is empty")


def _check_sign(sign: str) -> None:
    if sign not in {",", "."}:
        raise PlanError(f"a decimal sign is not {sign!r}", fix="write ',' or '.'")


def _with_point(text: pl.Expr, sign: pl.Expr) -> pl.Expr:
    """Return a text of a number with a point where the sign is; one that has a point of its own becomes one that is no number."""
    other, sign = ({",": ".", ".": ","}[constant(sign)], constant(sign))
    return text.str.replace_all(other, "x", literal=True).str.replace_all(sign, ".", literal=True)


def _check_pad(length: int, pad: str) -> None:
    _check_count(length)
    if not pad:
        raise PlanError("the text to pad with is empty")


def _check_count(count: int) -> None:
    if not 0 <= count <= _LONGEST:
        raise PlanError(f"{count} characters or times are asked for", fix=f"give a number from 0 to {_LONGEST}")


def _substring(text: pl.Expr, start: pl.Expr, length: pl.Expr | None = None) -> pl.Expr:
    skipped = pl.when(start > 0).then(start - 1).when(start < 0).then(text.str.len_chars().cast(pl.Int64) + start).when(start == 0).then(0)
    if length is None:
        return pl.when(skipped >= 0).then(text.str.slice(skipped)).when(skipped < 0).then(text.str.head(0))
    found = text.str.slice(skipped, length.clip(0))
    return pl.when((skipped >= 0) & (length >= 0)).then(found).when((skipped < 0) & (length >= 0)).then(text.str.head(0))


def _replace(text: pl.Expr, search: pl.Expr, replacement: pl.Expr) -> pl.Expr:
    # The condition also gives a constant text as many rows as the replacement has, which a join of lists needs.
    return pl.when(replacement.is_not_null()).then(text).str.split(constant(search)).list.join(replacement)


def _parts(text: pl.Expr, delimiter: pl.Expr) -> pl.Expr:
    """Split the text; NULL is as empty, since Polars (2.1) does not broadcast what a NULL constant is split into."""
    return text.fill_null("").str.split(delimiter.fill_null(""))


def _locate(needle: pl.Expr, haystack: pl.Expr) -> pl.Expr:
    parts = _parts(haystack, needle)
    found = pl.when(needle == "").then(1).when(parts.list.len() > 1).then(parts.list.first().str.len_chars() + 1).otherwise(0)
    return pl.when(needle.is_not_null() & haystack.is_not_null()).then(found.cast(pl.Int64))


def _pad(text: pl.Expr, length: pl.Expr, pad: pl.Expr, *, before: bool) -> pl.Expr:
    size, pattern = constant(length), constant(pad)
    missing = size - text.str.len_chars().cast(pl.Int64)
    fill = pl.lit((pattern * size)[:size]).str.head(missing)
    padded = pl.concat_str(fill, text) if before else pl.concat_str(text, fill)
    return pl.when(missing > 0).then(padded).otherwise(text.str.head(size))


def _split_index(text: pl.Expr, delimiter: pl.Expr, index: pl.Expr) -> pl.Expr:
    known = (text != "") & (delimiter != "") & (index >= 0)
    return pl.when(known).then(_parts(text, delimiter).list.get(index, null_on_oob=True))


def _uuids(names: pl.Series) -> pl.Series:
    return pl.Series([None if name is None else _uuid5(name) for name in names.to_list()], dtype=pl.String)


def _uuid5(name: str) -> str:
    """Return what `uuid.uuid5` does, in a third of its time."""
    digits = sha1(_NAMESPACE.bytes + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


TABLE = (
    Function(
        "CONCAT", signatures("STRING… -> STRING"),
        "The texts joined, also written with `||` between them.",
        lambda *texts: pl.concat_str(texts),
        cases=(("CONCAT('a', 'b', 'c')", "abc"), ("'é' || '😀'", "é😀"), ("CONCAT('a')", "a"), ("'a' || NULL", None)),
    ),
    Function(
        "CONCAT_WS", signatures("STRING, STRING… -> STRING"),
        "The other texts joined, with the first, a constant, between them.",
        lambda separator, *texts: pl.concat_str(texts, separator=constant(separator), ignore_nulls=True), literal=(0,),
        nulls="NULL arguments are left out; never NULL",
        cases=(
            ("CONCAT_WS('-', 'a', 'b')", "a-b"),
            ("CONCAT_WS(', ', 'a', NULL, 'b')", "a, b"),
            ("CONCAT_WS('-', 'a', '')", "a-"),
            ("CONCAT_WS('-', NULL)", ""),
        ),
    ),
    Function(
        "UPPER", signatures("STRING -> STRING"),
        "The text in upper case.",
        lambda text: text.str.to_uppercase(),
        cases=(("UPPER('turbine')", "TURBINE"), ("UPPER('straße é')", "STRASSE É"), ("UPPER('')", ""), ("UPPER(NULL)", None)),
        flink_gaps=("UPPER('straße é')",),  # a constant of so many letters has no more of them
    ),
    Function(
        "LOWER", signatures("STRING -> STRING"),
        "The text in lower case.",
        lambda text: text.str.to_lowercase(),
        cases=(("LOWER('TURBINE')", "turbine"), ("LOWER('ÉΑΣ')", "éας"), ("LOWER('1')", "1"), ("LOWER(NULL)", None)),
    ),
    Function(
        "TRIM", signatures("STRING -> STRING"),
        "The text without the spaces at both ends.",
        lambda text: text.str.strip_chars(" "),
        cases=(("TRIM('  a b ')", "a b"), ("TRIM('\ta ')", "\ta"), ("TRIM('   ')", ""), ("TRIM(NULL)", None)),
    ),
    Function(
        "LTRIM", signatures("STRING -> STRING"),
        "The text without the spaces before it.",
        lambda text: text.str.strip_chars_start(" "),
        cases=(("LTRIM('  a ')", "a "), ("LTRIM('\u00a0a')", "\u00a0a"), ("LTRIM(NULL)", None)),
    ),
    Function(
        "RTRIM", signatures("STRING -> STRING"),
        "The text without the spaces after it.",
        lambda text: text.str.strip_chars_end(" "),
        cases=(("RTRIM(' a  ')", " a"), ("RTRIM('a\n')", "a\n"), ("RTRIM(NULL)", None)),
    ),
    Function(
        "CHAR_LENGTH", signatures("STRING -> BIGINT"),
        "The number of characters.",
        lambda text: text.str.len_chars().cast(pl.Int64), flink="CAST(CHAR_LENGTH({0}) AS BIGINT)",
        spark="CAST(CHAR_LENGTH({0}) AS BIGINT)",
        cases=(("CHAR_LENGTH('turbine')", 7), ("CHAR_LENGTH('😀é')", 2), ("CHAR_LENGTH('')", 0), ("CHAR_LENGTH(NULL)", None)),
    ),
    Function(
        "SUBSTRING", signatures("STRING, BIGINT -> STRING; STRING, BIGINT, BIGINT -> STRING"),
        "The part from a position, at most so long; 0 is as 1, a negative one counts from the end, and before the start there is nothing.",
        _substring, flink=("SUBSTRING({0}, {1i})", "SUBSTRING({0}, {1i}, {2i})"),
        nulls="NULL if any argument is NULL or the length is negative",
        spark=("hr_substring({0}, {1})", "hr_substring_of({0}, {1}, {2})"),
        cases=(
            ("SUBSTRING('turbine', 4)", "bine"),
            ("SUBSTRING('turbine', 4, 2)", "bi"),
            ("SUBSTRING('turbine', 0, 3)", "tur"),
            ("SUBSTRING('turbine', -3)", "ine"),
            ("SUBSTRING('turbine', -3, 2)", "in"),
            ("SUBSTRING('turbine', -10, 5)", ""),
            ("SUBSTRING('turbine', 10)", ""),
            ("SUBSTRING('turbine', 2, 0)", ""),
            ("SUBSTRING('turbine', 2, -1)", None),
            ("SUBSTRING('turbine', 4294967298)", ""),
            ("SUBSTRING('turbine', -4294967298, 3)", ""),
            ("SUBSTRING('turbine', 2, 4294967297)", "urbine"),
            ("SUBSTRING('turbine', -2, 9223372036854775807)", "ne"),
            ("SUBSTRING('turbine', 9223372036854775807, 9223372036854775807)", ""),
            ("SUBSTRING('turbine', -9223372036854775808, 1)", ""),
            ("SUBSTRING('a😀b', 2, 1)", "😀"),
            ("SUBSTRING('turbine', NULL)", None),
            ("SUBSTRING('turbine', 1, NULL)", None),
            ("SUBSTRING(NULL, -9, 1)", None),
        ),
    ),
    Function(
        "LEFT", signatures("STRING, BIGINT -> STRING"),
        "The first so many characters.",
        lambda text, length: pl.when(length.is_not_null()).then(text.str.head(length.clip(0))), flink="LEFT({0}, {1i})",
        spark="LEFT({0}, {1i})",
        cases=(
            ("LEFT('turbine', 3)", "tur"),
            ("LEFT('turbine', 4294967297)", "turbine"),
            ("LEFT('turbine', -4294967295)", ""),
            ("LEFT('é', 9)", "é"),
            ("LEFT('a', -1)", ""),
            ("LEFT('a', NULL)", None),
            ("LEFT(NULL, 0)", None),
        ),
    ),
    Function(
        "RIGHT", signatures("STRING, BIGINT -> STRING"),
        "The last so many characters.",
        lambda text, length: pl.when(length.is_not_null()).then(text.str.tail(length.clip(0))), flink="RIGHT({0}, {1i})",
        spark="RIGHT({0}, {1i})",
        cases=(
            ("RIGHT('turbine', 3)", "ine"),
            ("RIGHT('turbine', 4294967297)", "turbine"),
            ("RIGHT('turbine', -9223372036854775808)", ""),
            ("RIGHT('a😀', 1)", "😀"),
            ("RIGHT('a', -1)", ""),
            ("RIGHT('a', 0)", ""),
            ("RIGHT('a', NULL)", None),
        ),
    ),
    Function(
        "REPLACE", signatures("STRING, STRING, STRING -> STRING"),
        "The text with each occurrence of the second, a constant, replaced by the third.",
        _replace, literal=(1,), check=_check_search,
        cases=(
            ("REPLACE('1,5', ',', '.')", "1.5"),
            ("REPLACE('abcabc', 'bc', '')", "aa"),
            ("REPLACE('a.c', '.', '$1')", "a$1c"),
            ("REPLACE('', 'a', 'b')", ""),
            ("REPLACE('abc', 'b', NULL)", None),
            ("REPLACE(NULL, 'b', 'c')", None),
        ),
    ),
    Function(
        "TO_DOUBLE", signatures("STRING, STRING -> DOUBLE"),
        "The number that a text says with the decimal sign given, a comma or a point, read as TRY_CAST reads the one with a point.",
        _with_point, literal=(1,), check=_check_sign,
        flink="REPLACE(REPLACE({0}, CASE WHEN {1} = ',' THEN '.' ELSE ',' END, 'x'), {1}, '.')",
        spark="REPLACE(REPLACE({0}, IF({1} = ',', '.', ','), 'x'), {1}, '.')",
        nulls="NULL of NULL, and of text that is no number with that sign",
        cases=(
            ("TO_DOUBLE('1,5', ',')", 1.5),
            ("TO_DOUBLE(' -12,25e1 ', ',')", -122.5),
            ("TO_DOUBLE(',5', ',')", 0.5),
            ("TO_DOUBLE('7', ',')", 7.0),
            ("TO_DOUBLE('1.5', ',')", None),
            ("TO_DOUBLE('1.234,5', ',')", None),
            ("TO_DOUBLE('1,2,3', ',')", None),
            ("TO_DOUBLE('1e999', ',')", None),
            ("TO_DOUBLE('x', ',')", None),
            ("TO_DOUBLE('', ',')", None),
            ("TO_DOUBLE(NULL, ',')", None),
            ("TO_DOUBLE('1.5', '.')", 1.5),
            ("TO_DOUBLE('1,5', '.')", None),
        ),
    ),
    Function(
        "REVERSE", signatures("STRING -> STRING"),
        "The characters in reverse order.",
        lambda text: text.str.split("").list.reverse().list.join(""),
        cases=(("REVERSE('abc')", "cba"), ("REVERSE('a😀é')", "é😀a"), ("REVERSE('')", ""), ("REVERSE(NULL)", None)),
    ),
    Function(
        "STARTSWITH", signatures("STRING, STRING -> BOOLEAN"),
        "Whether the first text starts with the second.",
        lambda text, start: text.str.starts_with(start),
        cases=(
            ("STARTSWITH('turbine', 'tur')", True),
            ("STARTSWITH('turbine', '.')", False),
            ("STARTSWITH('a', '')", True),
            ("STARTSWITH('a', NULL)", None),
        ),
    ),
    Function(
        "ENDSWITH", signatures("STRING, STRING -> BOOLEAN"),
        "Whether the first text ends with the second.",
        lambda text, end: text.str.ends_with(end),
        cases=(
            ("ENDSWITH('turbine', 'ine')", True),
            ("ENDSWITH('a', 'aa')", False),
            ("ENDSWITH('é', 'é')", True),
            ("ENDSWITH(NULL, 'a')", None),
        ),
    ),
    Function(
        "LOCATE", signatures("STRING, STRING -> BIGINT"),
        "The position of the first text in the second, 0 if it is not there, also written `POSITION(a IN b)`.",
        _locate, flink="CAST(LOCATE({0}, {1}) AS BIGINT)",
        spark="CAST(LOCATE({0}, {1}) AS BIGINT)",
        cases=(
            ("LOCATE('b', 'turbine')", 4),
            ("LOCATE('b', '😀b')", 2),
            ("LOCATE('.', 'turbine')", 0),
            ("LOCATE('', 'turbine')", 1),
            ("LOCATE('a', '')", 0),
            ("LOCATE('', NULL)", None),
            ("POSITION('b' IN 'tur' || 'bine')", 4),
            ("LOCATE(NULL, 'a')", None),
        ),
    ),
    Function(
        "LPAD", signatures("STRING, BIGINT, STRING -> STRING"),
        "The text cut or, with the third put before it, filled up to so many characters.",
        lambda text, length, pad: _pad(text, length, pad, before=True), flink="LPAD({0}, {1}, {2})",
        flink_gaps=("LPAD('😀', 3, 'é')",), literal=(1, 2), check=_check_pad,
        cases=(
            ("LPAD('7', 3, '0')", "007"),
            ("LPAD('hi', 7, 'ab')", "ababahi"),
            ("LPAD('turbine', 3, '0')", "tur"),
            ("LPAD('hi', 0, '0')", ""),
            ("LPAD('😀', 3, 'é')", "éé😀"),
            ("LPAD(NULL, 3, '0')", None),
        ),
    ),
    Function(
        "RPAD", signatures("STRING, BIGINT, STRING -> STRING"),
        "The text cut or, with the third put after it, filled up to so many characters.",
        lambda text, length, pad: _pad(text, length, pad, before=False), flink="RPAD({0}, {1}, {2})",
        flink_gaps=("RPAD('😀', 2, '.')",), literal=(1, 2), check=_check_pad,
        cases=(("RPAD('7', 3, '0')", "700"), ("RPAD('hi', 7, 'ab')", "hiababa"), ("RPAD('😀', 2, '.')", "😀."), ("RPAD(NULL, 3, '0')", None)),
    ),
    Function(
        "REPEAT", signatures("STRING, BIGINT -> STRING"),
        "The text so many times, a constant.",
        lambda text, count: pl.when(text.is_not_null()).then(text.repeat_by(count).list.join("")), flink="REPEAT({0}, {1})",
        literal=(1,), check=_check_count,
        cases=(("REPEAT('ab', 3)", "ababab"), ("REPEAT('é', 0)", ""), ("REPEAT('', 5)", ""), ("REPEAT(NULL, 2)", None)),
    ),
    Function(
        "SPLIT_INDEX", signatures("STRING, STRING, BIGINT -> STRING"),
        "The part of the text, split at the second, that has the number given, from 0.",
        _split_index, flink="HR_SPLIT_INDEX({0}, {1}, {2})",
        nulls="NULL if any argument is NULL or empty, or there is no such part",
        spark="hr_split_index({0}, {1}, {2})",
        cases=(
            ("SPLIT_INDEX('plant/line/pump', '/', 1)", "line"),
            ("SPLIT_INDEX('a,,b', ',', 1)", ""),
            ("SPLIT_INDEX('é::😀', '::', 1)", "😀"),
            ("SPLIT_INDEX('a,b', ',', 2)", None),
            ("SPLIT_INDEX('a,b', ',', -1)", None),
            ("SPLIT_INDEX('', ',', 0)", None),
            ("SPLIT_INDEX('abc', '', 1)", None),
            ("SPLIT_INDEX('a b', '', 1)", None),
            ("SPLIT_INDEX('a,b', ',', 4294967297)", None),
            ("SPLIT_INDEX('a\\Eb\\Ec', '\\E', 1)", "b"),
            ("SPLIT_INDEX('a,b', NULL, 0)", None),
        ),
    ),
    Function(
        "LIKE", signatures("STRING, STRING -> BOOLEAN"),
        "Whether the whole text is as the pattern: `%` is any characters, `_` any one.",
        _like, flink="({0} LIKE {1})", literal=(1,),
        spark="({0} LIKE {1})",
        cases=(
            ("'turbine' LIKE 'tur%'", True),
            ("'turbine' LIKE 'tur'", False),
            ("'😀' LIKE '_'", True),
            ("'\n' LIKE '_'", True),
            ("'a\u2028b\r\n' LIKE 'a_b__'", True),
            ("'ab\n' LIKE '_b'", False),
            ("'a.c$' LIKE '_.c$'", True),
            ("'x\\E.' LIKE '_\\E.'", True),
            ("'a\nb' LIKE 'a%b'", True),
            ("'ab\n' LIKE 'ab'", False),
            ("'a.c' LIKE 'a.c'", True),
            ("'abc' LIKE 'a.c'", False),
            ("'a\\xb' LIKE 'a\\_b'", True),
            ("'A' NOT LIKE 'a'", True),
            ("NULL LIKE 'a'", None),
        ),
    ),
    Function(
        "REGEXP", signatures("STRING, STRING -> BOOLEAN"),
        "Whether the regular expression, a constant, is found in the text.",
        lambda text, pattern: text.str.contains(_rust(pattern)), literal=(1,), check=_check_regex, pattern=1,
        spark="({0} RLIKE {1})",
        cases=(
            ("REGEXP('pump-17', '[0-9]+')", True),
            ("REGEXP('pump-17', '^[0-9]+$')", False),
            ("REGEXP('٣', '\\d')", False),
            ("REGEXP('é', '^[\\w.]$')", False),
            ("REGEXP('', '^$')", True),
            ("REGEXP('ab\n', 'b$')", False),
            ("REGEXP('a\u2028b', 'a.b')", True),
            ("REGEXP('a\nb', 'a.b')", False),
            ("REGEXP('a\nb', '(?s)a.b')", True),
            ("REGEXP('PUMP', '(?i)[n-q]UmP')", True),
            ("REGEXP('\u212aÉ', '(?i)ké')", False),
            ("REGEXP('éa', '\\ba')", True),
            ("REGEXP('\x0b', '\\s')", True),
            ("REGEXP('\xa0', '\\s')", False),
            ("REGEXP('a😀b', '^a[^x]b$')", True),
            ("REGEXP(NULL, 'a')", None),
        ),
    ),
    Function(
        "REGEXP_REPLACE", signatures("STRING, STRING, STRING -> STRING"),
        "The text with each match of the regular expression replaced by the third, word for word; both are constants.",
        lambda text, pattern, put: text.str.replace_all(_rust(pattern), constant(put).replace("$", "$$")), literal=(1, 2),
        check=_check_replaced, pattern=1,
        cases=(
            ("REGEXP_REPLACE('a1b22', '[0-9]+', '#')", "a#b#"),
            ("REGEXP_REPLACE('a1', '([0-9])', '<$1>')", "a<$1>"),
            ("REGEXP_REPLACE('é', '\\W', '')", ""),
            ("REGEXP_REPLACE('abc', 'x', 'y')", "abc"),
            ("REGEXP_REPLACE('a1', '[0-9]', '\\1$0')", "a\\1$0"),
            ("REGEXP_REPLACE('a.b', '[^a-z]+?', '\\')", "a\\b"),
            ("REGEXP_REPLACE(NULL, 'a', 'b')", None),
        ),
    ),
    Function(
        "REGEXP_EXTRACT", signatures("STRING, STRING -> STRING; STRING, STRING, BIGINT -> STRING"),
        "What a group of the regular expression matches, or all of it without one; pattern and group are constants.",
        lambda text, pattern, group=None: text.str.extract(_rust(pattern), 0 if group is None else constant(group)),
        flink=("REGEXP_EXTRACT({0}, {1})", "REGEXP_EXTRACT({0}, {1}, {2})"), literal=(1, 2), check=_check_group, pattern=1, group=2,
        nulls="NULL of NULL and where the group matches nothing",
        spark=("CASE WHEN {0} RLIKE {1} THEN REGEXP_EXTRACT({0}, {1}, 0) END", "hr_regexp_extract({0}, {1}, {2})"),
        cases=(
            ("REGEXP_EXTRACT('pump-17', '([a-z]+)-([0-9]+)', 2)", "17"),
            ("REGEXP_EXTRACT('pump-17', '[0-9]+')", "17"),
            ("REGEXP_EXTRACT('pump', '[0-9]+')", None),
            ("REGEXP_EXTRACT('pump', '(x)?pump', 1)", None),
            ("REGEXP_EXTRACT('pump', 'pump', 3)", None),
            ("REGEXP_EXTRACT('ab', 'a(x*)b', 1)", ""),
            ("REGEXP_EXTRACT('ab', '(?<first>a)(x)?b', 2)", None),
            ("REGEXP_EXTRACT('1,2,x', '(?:([0-9]),)*[0-9],x', 1)", "1"),
            ("REGEXP_EXTRACT('abc', 'x*')", ""),
            ("REGEXP_EXTRACT('a😀b', 'a(.)b', 1)", "😀"),
            ("REGEXP_EXTRACT(NULL, 'a')", None),
        ),
    ),
    Function(
        "UUID_V5", signatures("STRING, TEXT… -> STRING"),
        "A UUID made of the pipeline's name and version, which are put before the arguments, and the arguments.",
        lambda *parts: elementwise(pl.concat_str(parts, separator="\x1f"), _uuids, pl.String()), flink=None, spark=None,
        cases=(
            ("UUID_V5('EQ001', 1706123400000)", str(uuid.uuid5(_NAMESPACE, "pipeline/0\x1fEQ001\x1f1706123400000"))),
            ("UUID_V5('é')", str(uuid.uuid5(_NAMESPACE, "pipeline/0\x1fé"))),
            ("UUID_V5('a', '') = UUID_V5('a')", False),
            ("UUID_V5('EQ001', NULL)", None),
        ),
    ),
)  # fmt: skip
