"""Points in time, in UTC, to the millisecond, from the year 1 to 9999."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.errors import PlanError
from headrace.plan.functions.base import Function, constant, elementwise, signatures
from headrace.plan.schema import FIRST_MS, LAST_MS
from headrace.plan.zone import check_zone, offsets_of

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["TABLE"]

_MILLISECONDS = {0: 1000, 3: 1}
_MOMENT = datetime(2024, 1, 24, 19, 10, 1, 567000, tzinfo=UTC)
_PART = "TIMESTAMP_LTZ(3) -> BIGINT"
_EPOCH_MS = "(EXTRACT(EPOCH FROM {0}) * 1000 + EXTRACT(MILLISECOND FROM {0}))"
# Flink counts the parts of times before 1970 towards 0: 2,000 years later they are the same, the day of the week too.
_LATER = "{0} + INTERVAL '2000' YEAR(4)"
_PATTERN_PIECE = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z'\[\]{}#]")
# What a run of letters in a pattern is to chrono, which writes it, and as a regular expression, which reads it.
_LETTERS = {
    "yyyy": ("%Y", "[0-9]{4}"), "yy": ("%y", "[0-9]{2}"),
    "MM": ("%m", "[0-9]{2}"), "M": ("%-m", "[0-9]{1,2}"),
    "dd": ("%d", "[0-9]{2}"), "d": ("%-d", "[0-9]{1,2}"),
    "HH": ("%H", "[0-9]{2}"), "H": ("%-H", "[0-9]{1,2}"),
    "mm": ("%M", "[0-9]{2}"), "m": ("%-M", "[0-9]{1,2}"),
    "ss": ("%S", "[0-5][0-9]"), "s": ("%-S", "[0-5]?[0-9]"),
    "SSS": ("%3f", "[0-9]{3}"), "SSSSSS": ("%6f", "[0-9]{6}"),
}  # fmt: skip
_MISSING = {"y": "1970", "M": "1", "d": "1", "H": "0", "m": "0", "s": "0", "S": "0"}


def _pieces(pattern: str) -> list[tuple[str, str]]:
    """Split a Java pattern into its pieces: a run of letters and no text, or no letters and a text that stands for itself.

    Raises
    ------
    PlanError
        If there is a letter that is not known here, or a quote is left open.
    """
    pieces, position = [], 0
    while position < len(pattern):
        piece = _PATTERN_PIECE.match(pattern, position)
        if not piece:
            raise PlanError(f"pattern {pattern!r} goes wrong at {pattern[position:]!r}", fix="put plain text between quotes")
        letters, quoted = piece[0] if piece[2] else "", piece[1]
        if letters and letters not in _LETTERS:
            raise PlanError(f"{letters!r} in pattern {pattern!r} is not known here", fix=f"there is {', '.join(_LETTERS)}")
        text = piece[0] if quoted is None else quoted.replace("''", "'") or "'"
        pieces.append((letters, "" if letters else text))
        position = piece.end()
    return pieces


def _check_written(pattern: str) -> None:
    _pieces(pattern)


def _check_read(how: int | str | None = None, zone: str | None = None) -> None:
    if isinstance(how, int) and how not in _MILLISECONDS:
        raise PlanError(f"TO_TIMESTAMP_LTZ(…, {how})", fix="give 0 for seconds or 3 for milliseconds since the epoch")
    if isinstance(how, str):
        named = [letters[0] for letters, _ in _pieces(how) if letters]
        if len(named) != len(set(named)):
            raise PlanError(f"pattern {how!r} names the same part twice")
    if zone is not None:
        check_zone(zone)


def _written(time: pl.Expr, pattern: pl.Expr) -> pl.Expr:
    pieces = _pieces(constant(pattern))
    return time.dt.strftime("".join(_LETTERS[letters][0] if letters else literal.replace("%", "%%") for letters, literal in pieces))


def _from_ms(ms: pl.Expr) -> pl.Expr:
    return pl.when(ms.is_between(FIRST_MS, LAST_MS)).then(ms).cast(pl.Datetime("ms", "UTC"))


def _read(value: pl.Expr, how: pl.Expr, zone: pl.Expr | None = None) -> pl.Expr:
    form = constant(how)
    if isinstance(form, str):
        local = _read_pattern(value, form)
        if zone is None:
            return _from_ms(local)
        name = constant(zone)
        return _from_ms(elementwise(local, lambda times: _in_zone(times, name)))
    scale = _MILLISECONDS[form]
    return _from_ms(value if scale == 1 else pl.when(value.is_between(FIRST_MS // scale, LAST_MS // scale)).then(value * scale))


def _read_pattern(text: pl.Expr, pattern: str) -> pl.Expr:
    """Read the text by the pattern as ms since the epoch, and that strictly: rewritten in one form first, since chrono alone lets too much pass."""
    pieces = _pieces(pattern)
    groups = (f"(?<{letters[0]}>{_LETTERS[letters][1]})" if letters else pl.escape_regex(literal) for letters, literal in pieces)
    expected = f"^{''.join(groups)}$"
    parts = _MISSING | {letters[0]: f"${{{letters[0]}}}" for letters, _ in pieces if letters}
    if ("yy", "") in pieces:
        parts["y"] = "20${y}"
    canonical = "{y}-{M}-{d} {H}:{m}:{s}.{S}".format_map(parts)
    rewritten = pl.when(text.str.contains(expected)).then(text.str.replace(expected, canonical))
    return rewritten.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="ms").dt.epoch("ms")


def _in_zone(local: pl.Series, zone: str) -> pl.Series:
    """Return the instants of local times in ms."""
    known = local.drop_nulls()
    known = known.filter(known.is_between(FIRST_MS, LAST_MS))
    if known.is_empty():
        return local
    begins, offsets = offsets_of(zone, int(known.min()), int(known.max()))  # type: ignore[arg-type]
    places = pl.Series(begins).search_sorted(local.fill_null(0), side="right").cast(pl.Int64) - 1
    return local - pl.Series(offsets).gather(places)


_LOCAL = (
    ("2024-01-24 20:10", "Europe/Berlin", "2024-01-24 19:10"),
    ("2024-07-24 20:10", "Europe/Berlin", "2024-07-24 18:10"),
    ("2024-03-31 01:59", "Europe/Berlin", "2024-03-31 00:59"),
    ("2024-03-31 02:00", "Europe/Berlin", "2024-03-31 01:00"),  # skipped: it is 03:00
    ("2024-03-31 02:30", "Europe/Berlin", "2024-03-31 01:30"),  # skipped: it is 03:30
    ("2024-03-31 03:00", "Europe/Berlin", "2024-03-31 01:00"),
    ("2024-10-27 02:30", "Europe/Berlin", "2024-10-27 00:30"),  # shown twice
    ("2024-10-27 03:00", "Europe/Berlin", "2024-10-27 02:00"),
    ("2010-11-06 23:30", "America/St_Johns", "2010-11-07 02:00"),  # shown twice, around midnight
    ("2010-11-07 00:01", "America/St_Johns", "2010-11-07 03:31"),
    ("2024-04-07 01:45", "Australia/Lord_Howe", "2024-04-06 14:45"),  # half an hour is shown twice
    ("2024-10-06 02:15", "Australia/Lord_Howe", "2024-10-05 15:45"),  # half an hour is skipped
    ("2011-12-30 12:00", "Pacific/Apia", "2011-12-30 22:00"),  # the whole day is skipped
    ("2024-07-24 20:10", "Asia/Kolkata", "2024-07-24 14:40"),
    ("2024-07-24 20:10", "UTC", "2024-07-24 20:10"),
    ("2090-07-24 20:10", "Europe/Berlin", "2090-07-24 18:10"),
    ("1900-01-01 12:00", "Europe/Berlin", "1900-01-01 11:00"),
    ("2024-02-30 20:10", "Europe/Berlin", None),
    ("24.1.2024", "Europe/Berlin", None),
)

TABLE = (
    Function(
        "TO_TIMESTAMP_LTZ",
        signatures(
            "BIGINT, BIGINT -> TIMESTAMP_LTZ(3); STRING -> TIMESTAMP_LTZ(3); STRING, STRING -> TIMESTAMP_LTZ(3);"
            "STRING, STRING, STRING -> TIMESTAMP_LTZ(3)"
        ),
        "The time so many seconds (0) or milliseconds (3) after the epoch, or that a text says in ISO 8601 or in the pattern given: in UTC, or in the "
        "local time of the zone given, where a time that the clocks skip is as much later as they skip and one that they show twice is the first.",
        _read, literal=(1, 2), check=_check_read,
        flink=("TO_TIMESTAMP_LTZ({0}, {1})", "HR_TIMESTAMP({0})", "HR_TIMESTAMP({0}, {1})", "HR_TIMESTAMP({0}, {1}, {2})"),
        flink_gaps=("TO_TIMESTAMP_LTZ(-62135596800001, 3)",),
        nulls="NULL of NULL, of text that cannot be read so, and beyond the years 1 to 9999",
        spark=("hr_timestamp_{1}({0})", "hr_timestamp({0})", "hr_timestamp_as({0}, {1})", "hr_timestamp_in({0}, {1}, {2})"),
        cases=(
            ("TO_TIMESTAMP_LTZ(1706123401567, 3)", _MOMENT),
            ("TO_TIMESTAMP_LTZ(1706123401, 0)", _MOMENT.replace(microsecond=0)),
            ("TO_TIMESTAMP_LTZ(-1, 3)", datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
            ("TO_TIMESTAMP_LTZ(253402300799999, 3)", datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
            ("TO_TIMESTAMP_LTZ(253402300800, 0)", None),
            ("TO_TIMESTAMP_LTZ(9223372036854775807, 0)", None),
            ("TO_TIMESTAMP_LTZ(-62135596800001, 3)", None),
            ("TO_TIMESTAMP_LTZ(NULL, 3)", None),
            ("TO_TIMESTAMP_LTZ('2024-01-24 19:10:01')", _MOMENT.replace(microsecond=0)),
            ("TO_TIMESTAMP_LTZ('2024-01-24T19:10:01.567Z')", _MOMENT),
            ("TO_TIMESTAMP_LTZ('2024-01-24T20:10:01+01:00')", _MOMENT.replace(microsecond=0)),
            ("TO_TIMESTAMP_LTZ('yesterday')", None),
            ("TO_TIMESTAMP_LTZ('24.01.2024 19:10', 'dd.MM.yyyy HH:mm')", _MOMENT.replace(second=0, microsecond=0)),
            ("TO_TIMESTAMP_LTZ('24/1/24 9:05', 'd/M/yy H:mm')", datetime(2024, 1, 24, 9, 5, tzinfo=UTC)),
            ("TO_TIMESTAMP_LTZ('20240124T191001567', 'yyyyMMdd''T''HHmmssSSS')", _MOMENT),
            ("TO_TIMESTAMP_LTZ('19:10', 'HH:mm')", datetime(1970, 1, 1, 19, 10, tzinfo=UTC)),
            ("TO_TIMESTAMP_LTZ('1/2/2024', 'dd/MM/yyyy')", None),
            ("TO_TIMESTAMP_LTZ('30/02/2024', 'dd/MM/yyyy')", None),
            ("TO_TIMESTAMP_LTZ('2024-01-24 24:00', 'yyyy-MM-dd HH:mm')", None),
            ("TO_TIMESTAMP_LTZ('2024-01-24 23:59:60', 'yyyy-MM-dd HH:mm:ss')", None),
            ("TO_TIMESTAMP_LTZ(' 2024', 'yyyy')", None),
            ("TO_TIMESTAMP_LTZ('0000', 'yyyy')", None),
            ("TO_TIMESTAMP_LTZ('٢٠٢٤', 'yyyy')", None),
            ("TO_TIMESTAMP_LTZ(NULL, 'yyyy')", None),
            ("TO_TIMESTAMP_LTZ('2024-02-30', 'yyyy-MM-dd')", None),
            ("TO_TIMESTAMP_LTZ('2024-01-24', 'dd/MM/yyyy')", None),
            ("TO_TIMESTAMP_LTZ('2024-01-24 19:10:01.567', 'yyyy-MM-dd HH:mm:ss.SSS')", _MOMENT),
            ("TO_TIMESTAMP_LTZ('2024-01-24 19:10:01.56', 'yyyy-MM-dd HH:mm:ss.SSS')", None),
            ("TO_TIMESTAMP_LTZ('2024-01-24 19:10:01.5678', 'yyyy-MM-dd HH:mm:ss.SSS')", None),
            ("TO_TIMESTAMP_LTZ('2024-01-24T19:10:01.567899Z', 'yyyy-MM-dd''T''HH:mm:ss.SSSSSS''Z''')", _MOMENT),
            ("TO_TIMESTAMP_LTZ('2023-02-29', 'yyyy-MM-dd')", None),
            ("TO_TIMESTAMP_LTZ('2024-02-29\n', 'yyyy-MM-dd')", None),
            *(
                (f"TO_TIMESTAMP_LTZ('{text}', 'yyyy-MM-dd HH:mm', '{zone}')", None if utc is None else datetime.fromisoformat(f"{utc}:00+00:00"))
                for text, zone, utc in _LOCAL
            ),
            ("TO_TIMESTAMP_LTZ('24.1.2024 20:10:01.567', 'd.M.yyyy HH:mm:ss.SSS', 'Europe/Berlin')", _MOMENT),
            ("TO_TIMESTAMP_LTZ(NULL, 'yyyy', 'Europe/Berlin')", None),
            ("TO_TIMESTAMP_LTZ('0001', 'yyyy', 'Asia/Tokyo')", None),
            ("TO_TIMESTAMP_LTZ('31.12.9999 23', 'dd.MM.yyyy HH', 'America/New_York')", None),
        ),
    ),
    Function(
        "DATE_FORMAT", signatures("TIMESTAMP_LTZ(3), STRING -> STRING"),
        "The time written in the pattern given, a constant.",
        _written, literal=(1,), check=_check_written,
        cases=(
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(1706123401567, 3), 'yyyy-MM-dd HH:mm:ss.SSS')", "2024-01-24 19:10:01.567"),
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(1706123401567, 3), 'd/M/yy H:m:s')", "24/1/24 19:10:1"),
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(1706123401567, 3), 'ss.SSSSSS')", "01.567000"),
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(1706123401567, 3), 'yyyy-MM-dd''T''HH:mm''Z''')", "2024-01-24T19:10Z"),
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(1706123401567, 3), '''it''''s'' yyyy, 100% é')", "it's 2024, 100% é"),
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(-62135596800, 0), 'yyyy-MM-dd')", "0001-01-01"),
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(-1500, 3), 'yyyy-MM-dd HH:mm:ss.SSS')", "1969-12-31 23:59:58.500"),
            ("DATE_FORMAT(TO_TIMESTAMP_LTZ(-1000, 3), 'HH:mm:ss.SSS')", "23:59:59.000"),
            ("DATE_FORMAT(NULL, 'yyyy')", None),
        ),
    ),
    Function(
        "EPOCH_MS", signatures(_PART),
        "The milliseconds since the epoch.",
        lambda time: time.dt.epoch("ms"), flink=_EPOCH_MS,
        spark="UNIX_MILLIS({0})",
        cases=(
            ("EPOCH_MS(TO_TIMESTAMP_LTZ(1706123401567, 3))", 1706123401567),
            ("EPOCH_MS(TO_TIMESTAMP_LTZ(-1500, 3))", -1500),
            ("EPOCH_MS(TO_TIMESTAMP_LTZ(-62135596800001 + 2, 3))", -62135596799999),
            ("EPOCH_MS(TO_TIMESTAMP_LTZ(253402300799, 0))", 253402300799000),
            ("EPOCH_MS(NULL)", None),
        ),
    ),
    Function(
        "ADD_MS", signatures("TIMESTAMP_LTZ(3), BIGINT -> TIMESTAMP_LTZ(3)"),
        "The time so many milliseconds later.",
        lambda time, ms: _from_ms(time.dt.epoch("ms") + ms), flink=f"TO_TIMESTAMP_LTZ({_EPOCH_MS} + {{1}}, 3)",
        nulls="NULL if any argument is NULL, and beyond the years 1 to 9999",
        spark="hr_timestamp_3(UNIX_MILLIS({0}) + {1})",
        cases=(
            ("ADD_MS(TO_TIMESTAMP_LTZ(1706123401, 0), 567)", _MOMENT),
            ("EPOCH_MS(ADD_MS(TO_TIMESTAMP_LTZ(-1500, 3), -750))", -2250),
            ("ADD_MS(TO_TIMESTAMP_LTZ(1708715401, 0), -2592000000)", _MOMENT.replace(microsecond=0)),
            ("ADD_MS(TO_TIMESTAMP_LTZ(1706123401, 0), 9223372036854775807)", None),
            ("ADD_MS(TO_TIMESTAMP_LTZ(253402300799, 0), 1000)", None),
            ("ADD_MS(NULL, 1)", None),
        ),
    ),
    Function(
        "YEAR", signatures(_PART),
        "The year.",
        lambda time: time.dt.year().cast(pl.Int64), flink=f"YEAR({_LATER}) - 2000",
        spark="CAST(YEAR({0}) AS BIGINT)",
        cases=(
            ("YEAR(TO_TIMESTAMP_LTZ(1706123401, 0))", 2024),
            ("YEAR(TO_TIMESTAMP_LTZ(-1, 3))", 1969),
            ("YEAR(TO_TIMESTAMP_LTZ(253402300799, 0))", 9999),
            ("YEAR(TO_TIMESTAMP_LTZ(-1500, 3))", 1969),
            ("YEAR(TO_TIMESTAMP_LTZ(-62135596800000, 3))", 1),
            ("YEAR(NULL)", None),
        ),
    ),
    Function(
        "MONTH", signatures(_PART),
        "The month, from 1.",
        lambda time: time.dt.month().cast(pl.Int64),
        flink=f"MONTH({_LATER})", spark="CAST(MONTH({0}) AS BIGINT)",
        cases=(
            ("MONTH(TO_TIMESTAMP_LTZ(1706123401, 0))", 1),
            ("MONTH(TO_TIMESTAMP_LTZ(253402300799, 0))", 12),
            ("MONTH(TO_TIMESTAMP_LTZ(-1500, 3))", 12),
            ("MONTH(TO_TIMESTAMP_LTZ(-62135596800000, 3))", 1),
            ("MONTH(NULL)", None),
        ),
    ),
    Function(
        "DAYOFMONTH", signatures(_PART),
        "The day of the month, from 1.",
        lambda time: time.dt.day().cast(pl.Int64),
        flink=f"DAYOFMONTH({_LATER})", spark="CAST(DAYOFMONTH({0}) AS BIGINT)",
        cases=(
            ("DAYOFMONTH(TO_TIMESTAMP_LTZ(1706123401, 0))", 24),
            ("DAYOFMONTH(TO_TIMESTAMP_LTZ(0, 0))", 1),
            ("DAYOFMONTH(TO_TIMESTAMP_LTZ(-1500, 3))", 31),
            ("DAYOFMONTH(TO_TIMESTAMP_LTZ(-62135596800000, 3))", 1),
            ("DAYOFMONTH(NULL)", None),
        ),
    ),
    Function(
        "DAYOFWEEK", signatures(_PART),
        "The day of the week, 1 being Sunday.",
        lambda time: (time.dt.weekday() % 7 + 1).cast(pl.Int64),
        flink=f"DAYOFWEEK({_LATER})", spark="CAST(DAYOFWEEK({0}) AS BIGINT)",
        cases=(
            ("DAYOFWEEK(TO_TIMESTAMP_LTZ('2024-01-24 00:00:00'))", 4),
            ("DAYOFWEEK(TO_TIMESTAMP_LTZ('2024-01-27 23:59:59'))", 7),
            ("DAYOFWEEK(TO_TIMESTAMP_LTZ('2024-01-28 00:00:00'))", 1),
            ("DAYOFWEEK(TO_TIMESTAMP_LTZ(-1500, 3))", 4),
            ("DAYOFWEEK(TO_TIMESTAMP_LTZ(-62135596800000, 3))", 2),
            ("DAYOFWEEK(NULL)", None),
        ),
    ),
    Function(
        "HOUR", signatures(_PART),
        "The hour, from 0 to 23.",
        lambda time: time.dt.hour().cast(pl.Int64),
        flink=f"HOUR({_LATER})", spark="CAST(HOUR({0}) AS BIGINT)",
        cases=(
            ("HOUR(TO_TIMESTAMP_LTZ(1706123401, 0))", 19),
            ("HOUR(TO_TIMESTAMP_LTZ(0, 0))", 0),
            ("HOUR(TO_TIMESTAMP_LTZ(-1500, 3))", 23),
            ("HOUR(TO_TIMESTAMP_LTZ(-62135596800000, 3))", 0),
            ("HOUR(NULL)", None),
        ),
    ),
    Function(
        "MINUTE", signatures(_PART),
        "The minute, from 0 to 59.",
        lambda time: time.dt.minute().cast(pl.Int64),
        flink=f"MINUTE({_LATER})", spark="CAST(MINUTE({0}) AS BIGINT)",
        cases=(
            ("MINUTE(TO_TIMESTAMP_LTZ(1706123401, 0))", 10),
            ("MINUTE(TO_TIMESTAMP_LTZ(3599, 0))", 59),
            ("MINUTE(TO_TIMESTAMP_LTZ(-1500, 3))", 59),
            ("MINUTE(TO_TIMESTAMP_LTZ(-62135596800000, 3))", 0),
            ("MINUTE(NULL)", None),
        ),
    ),
    Function(
        "SECOND", signatures(_PART),
        "The second, from 0 to 59, without its fraction.",
        lambda time: time.dt.second().cast(pl.Int64),
        flink=f"SECOND({_LATER})", spark="CAST(SECOND({0}) AS BIGINT)",
        cases=(
            ("SECOND(TO_TIMESTAMP_LTZ(1706123401, 0))", 1),
            ("SECOND(TO_TIMESTAMP_LTZ(59999, 3))", 59),
            ("SECOND(TO_TIMESTAMP_LTZ(-1500, 3))", 58),
            ("SECOND(TO_TIMESTAMP_LTZ(-62135596800000, 3))", 0),
            ("SECOND(NULL)", None),
        ),
    ),
)  # fmt: skip
