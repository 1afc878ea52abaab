"""Arithmetic. BIGINT wraps around at 64 bits as in Java; a DOUBLE that would be NaN or infinite is NULL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headrace._lazy import lazy_import
from headrace.errors import PlanError
from headrace.plan.functions.base import Function, constant, elementwise, finite, signatures

if TYPE_CHECKING:
    import polars as pl
else:
    pl = lazy_import("polars")

__all__ = ["TABLE"]

_EITHER = "BIGINT, BIGINT -> BIGINT; DOUBLE, DOUBLE -> DOUBLE"
_ONE = "BIGINT -> BIGINT; DOUBLE -> DOUBLE"
_DECIMALS = "BIGINT -> BIGINT; DOUBLE -> DOUBLE; BIGINT, BIGINT -> BIGINT; DOUBLE, BIGINT -> DOUBLE"
_OVERFLOW = "NULL if any argument is NULL or the result is beyond DOUBLE"
_EXACT = 2.0**52
_CUT = "CASE WHEN ABS(ROUND({0}, {1})) <= ABS({0}) THEN ROUND({0}, {1}) ELSE ROUND(ROUND({0}, {1}) - SIGN({0}) * POWER(10, -({1})), {1}) END"


def _quotient(dividend: pl.Expr, divisor: pl.Expr) -> pl.Expr:
    def choose(dividend: pl.Expr, kind: pl.DataType) -> pl.Expr:
        if kind.is_integer():
            return dividend.truncdiv(divisor)
        return finite(pl.map_batches([dividend, divisor], _over, return_dtype=pl.Float64(), is_elementwise=True))

    return dividend.pipe_with_dtype(choose)


def _over(pair: Sequence[pl.Series]) -> pl.Series:
    """Divide as IEEE 754 says.

    By a single number Polars multiplies with its reciprocal, but not in a batch of one row: 7.0 / 5 would be 1.4 there and not elsewhere.
    """
    dividend, divisor = pair
    if len(divisor) == 1:
        divisor = divisor.new_from_index(0, len(dividend))
    quotient: pl.Series = dividend / divisor
    return quotient


def _remainder(dividend: pl.Expr, divisor: pl.Expr) -> pl.Expr:
    return dividend - dividend.truncdiv(divisor) * divisor


def _logarithm(base: float) -> Callable[[pl.Expr], pl.Expr]:
    def exact(values: pl.Series) -> pl.Series:
        approximate = values.log(base)
        whole = approximate.round()
        return whole.zip_with((base**whole == values).fill_null(value=False), approximate)

    return lambda value: finite(elementwise(value, exact))


def _check_decimals(decimals: int = 0) -> None:
    if not -18 <= decimals <= 18:
        raise PlanError(f"{decimals} decimals are asked for", fix="give a number from -18 to 18")


def _cut(value: pl.Expr, decimals: pl.Expr | None, part: float) -> pl.Expr:
    places = 0 if decimals is None else constant(decimals)
    return elementwise(value, lambda values: (_cut_whole if values.dtype.is_integer() else _cut_double)(values, places, part))


def _cut_whole(values: pl.Series, decimals: int, part: float) -> pl.Series:
    if decimals >= 0:
        return values
    step = 10**-decimals
    whole = pl.select(pl.lit(values).truncdiv(step)).to_series()
    rest = (values - whole * step).abs()
    cut: pl.Series = (whole + (rest * 2 >= step * int(2 * part)).cast(pl.Int64) * values.sign()) * step
    return cut


def _cut_double(values: pl.Series, decimals: int, part: float) -> pl.Series:
    """Keep so many decimals, going up where at least `part` of the next step is there, as if the shortest decimal text were cut.

    1.005 is a little less than it says, and 1.005 * 100 less than 100.5. But it is the DOUBLE nearest to 100.5 / 100: compare with that.
    """
    size, scale = values.abs(), pl.Series([10.0 ** abs(decimals)])
    scaled = size * scale if decimals >= 0 else _over((size, scale))

    def unscale(steps: pl.Series) -> pl.Series:
        return _over((steps, scale)) if decimals >= 0 else steps * scale

    whole = scaled.floor()
    whole = whole - (unscale(whole) > size).cast(pl.Float64)
    whole = whole + (unscale(whole + part) <= size).cast(pl.Float64)
    return values.zip_with((scaled >= _EXACT).fill_null(value=False), unscale(whole) * values.sign())


TABLE = (
    Function(
        "+", signatures(_EITHER),
        "The sum.",
        lambda a, b: finite(a + b), flink="({0} + {1})", nulls=_OVERFLOW, flink_gaps=("1e308 + 1e308",),
        spark=("({0} + {1})", "hr_finite({0} + {1})"),
        cases=(
            ("1 + 2", 3),
            ("1 + 0.5", 1.5),
            ("9223372036854775807 + 1", -9223372036854775808),
            ("1e308 + 1e308", None),
            ("NULL + 1", None),
        ),
    ),
    Function(
        "-", signatures(_EITHER),
        "The difference.",
        lambda a, b: finite(a - b), flink="({0} - {1})", nulls=_OVERFLOW, flink_gaps=("-1e308 - 1e308",),
        spark=("({0} - {1})", "hr_finite({0} - {1})"),
        cases=(
            ("1 - 2", -1),
            ("2.5 - 1", 1.5),
            ("-9223372036854775808 - 1", 9223372036854775807),
            ("-1e308 - 1e308", None),
            ("1 - NULL", None),
        ),
    ),
    Function(
        "*", signatures(_EITHER),
        "The product.",
        lambda a, b: finite(a * b), flink="({0} * {1})", nulls=_OVERFLOW, flink_gaps=("1e308 * 10",),
        spark=("({0} * {1})", "hr_finite({0} * {1})"),
        cases=(
            ("3 * 4", 12),
            ("0.5 * 4", 2.0),
            ("4611686018427387904 * 2", -9223372036854775808),
            ("1e308 * 10", None),
            ("NULL * 0", None),
        ),
    ),
    Function(
        "/", signatures(_EITHER),
        "The quotient, of two BIGINTs cut off towards zero.",
        _quotient, flink="({0} / NULLIF({1}, 0))",
        nulls="NULL if any argument is NULL, the divisor is zero, or the result is beyond DOUBLE", flink_gaps=("1e308 / 0.1",),
        spark=("({0} DIV {1})", "hr_finite({0} / {1})"),
        cases=(
            ("5 / 2", 2),
            ("-5 / 2", -2),
            ("5 / -2", -2),
            ("5 / 2.0", 2.5),
            ("5 / 0", None),
            ("5.0 / 0", None),
            ("5.0 / POWER(10, 3)", 0.005),
            ("5.0 / (1.5 - 1.5)", None),
            ("0.0 / 0.0", None),
            ("-9223372036854775808 / -1", -9223372036854775808),
            ("1e308 / 0.1", None),
            ("NULL / 2", None),
        ),
    ),
    Function(
        "%", signatures("BIGINT, BIGINT -> BIGINT"),
        "The remainder, with the sign of the first argument.",
        _remainder, flink="({0} % NULLIF({1}, 0))", nulls="NULL if any argument is NULL or the second is zero",
        spark="({0} % {1})",
        cases=(
            ("5 % 3", 2),
            ("-5 % 3", -2),
            ("5 % -3", 2),
            ("5 % 0", None),
            ("-9223372036854775808 % -1", 0),
            ("NULL % 3", None),
        ),
    ),
    Function(
        "MOD", signatures("BIGINT, BIGINT -> BIGINT"),
        "The remainder, with the sign of the first argument.",
        _remainder, flink="MOD({0}, NULLIF({1}, 0))", nulls="NULL if any argument is NULL or the second is zero",
        cases=(("MOD(7, 4)", 3), ("MOD(-7, 4)", -3), ("MOD(7, 0)", None), ("MOD(7, NULL)", None)),
    ),
    Function(
        "NEGATE", signatures(_ONE),
        "The number with its sign changed, written as a minus before it.",
        lambda a: -a, flink="(- {0})",
        spark="(- {0})",
        cases=(("-(5)", -5), ("-(-2.5)", 2.5), ("-(-9223372036854775808)", -9223372036854775808), ("-(NULL + 1)", None)),
    ),
    Function(
        "ABS", signatures(_ONE),
        "The number without its sign.",
        lambda a: a.abs(),
        cases=(("ABS(-5)", 5), ("ABS(-2.5)", 2.5), ("ABS(-9223372036854775808)", -9223372036854775808), ("ABS(NULL)", None)),
    ),
    Function(
        "SIGN", signatures(_ONE),
        "Minus one, zero or one, as the number is negative, zero or positive.",
        lambda a: a.sign(),
        spark=("CAST(SIGN({0}) AS BIGINT)", "SIGN({0})"),
        cases=(("SIGN(-3)", -1), ("SIGN(0)", 0), ("SIGN(2.5)", 1.0), ("SIGN(NULL)", None)),
    ),
    Function(
        "CEIL", signatures(_ONE),
        "The least whole number that is not less.",
        lambda a: a.ceil(),
        spark=("{0}", "hr_ceil({0})"),
        cases=(("CEIL(1.2)", 2.0), ("CEIL(-1.2)", -1.0), ("CEIL(3)", 3), ("CEIL(1e300)", 1e300), ("CEIL(NULL)", None)),
    ),
    Function(
        "FLOOR", signatures(_ONE),
        "The greatest whole number that is not greater.",
        lambda a: a.floor(),
        spark=("{0}", "hr_floor({0})"),
        cases=(("FLOOR(1.8)", 1.0), ("FLOOR(-1.2)", -2.0), ("FLOOR(3)", 3), ("FLOOR(NULL)", None)),
    ),
    Function(
        "ROUND", signatures(_DECIMALS),
        "The number rounded to so many decimals, halves away from zero; less than none counts from the point leftwards.",
        lambda a, decimals=None: _cut(a, decimals, 0.5), literal=(1,), check=_check_decimals,
        flink=("ROUND({0})", "ROUND({0})", "ROUND({0}, {1})", "ROUND({0}, {1})"),
        cases=(
            ("ROUND(2.5)", 3.0),
            ("ROUND(-2.5)", -3.0),
            ("ROUND(0.49999999999999994)", 0.0),
            ("ROUND(1.005, 2)", 1.01),
            ("ROUND(-2.675, 2)", -2.68),
            ("ROUND(1e300, 2)", 1e300),
            ("ROUND(1250.0, -2)", 1300.0),
            ("ROUND(250, -2)", 300),
            ("ROUND(-249, -2)", -200),
            ("ROUND(7, 2)", 7),
            ("ROUND(9223372036854775807, -1)", -9223372036854775806),
            ("ROUND(NULL, 2)", None),
        ),
    ),
    Function(
        "TRUNCATE", signatures(_DECIMALS),
        "The number cut off after so many decimals; less than none counts from the point leftwards.",
        lambda a, decimals=None: _cut(a, decimals, 1.0), literal=(1,), check=_check_decimals,
        flink=("TRUNCATE({0})", "HR_TRUNCATE({0}, 0)", "TRUNCATE({0}, {1})", "HR_TRUNCATE({0}, {1})"),
        spark=("{0}", _CUT.replace("{1}", "0"), "({0} - {0} % CAST(POWER(10, GREATEST(-({1}), 0)) AS BIGINT))", _CUT),
        cases=(
            ("TRUNCATE(-2.9)", -2.0),
            ("TRUNCATE(1.15, 2)", 1.15),
            ("TRUNCATE(-2.679, 2)", -2.67),
            ("TRUNCATE(259, -1)", 250),
            ("TRUNCATE(-259, -3)", 0),
            ("TRUNCATE(1e20)", 1e20),
            ("TRUNCATE(-1.5e300, 2)", -1.5e300),
            ("TRUNCATE(1.2345e21, -18)", 1.234e21),
            ("TRUNCATE(NULL)", None),
        ),
    ),
    Function(
        "SQRT", signatures("DOUBLE -> DOUBLE"),
        "The square root.",
        lambda a: finite(a.sqrt()), flink="CASE WHEN {0} >= 0 THEN SQRT({0}) END", nulls="NULL of NULL and of a negative number",
        spark="CASE WHEN {0} >= 0 THEN SQRT({0}) END",
        cases=(("SQRT(9)", 3.0), ("SQRT(0.0)", 0.0), ("SQRT(-1)", None), ("SQRT(NULL)", None)),
    ),
    Function(
        "POWER", signatures("DOUBLE, DOUBLE -> DOUBLE"),
        "The first argument raised to the power of the second.",
        lambda a, b: finite(a.pow(b)), nulls="NULL if any argument is NULL or the result is no finite number",
        flink_gaps=("POWER(10, 400)", "POWER(-8, 0.5)", "POWER(0, -1)"),
        spark="hr_finite(POWER({*}))",
        cases=(
            ("POWER(2, 10)", 1024.0),
            ("POWER(2, -1)", 0.5),
            ("POWER(0, 0)", 1.0),
            ("POWER(10, 400)", None),
            ("POWER(-8, 0.5)", None),
            ("POWER(0, -1)", None),
            ("POWER(NULL, 0)", None),
        ),
    ),
    Function(
        "EXP", signatures("DOUBLE -> DOUBLE"),
        "Euler's number raised to the power of the argument.",
        lambda a: finite(a.exp()), flink="CASE WHEN {0} < 709.782712893384E0 THEN EXP({0}) END",
        nulls="NULL of NULL and where the result is beyond DOUBLE",
        spark="hr_finite(EXP({0}))",
        cases=(("EXP(0)", 1.0), ("EXP(1)", 2.718281828459045), ("EXP(-1000)", 0.0), ("EXP(1000)", None), ("EXP(NULL)", None)),
    ),
    Function(
        "LN", signatures("DOUBLE -> DOUBLE"),
        "The natural logarithm.",
        lambda a: finite(a.log()), flink="CASE WHEN {0} > 0 THEN LN({0}) END", nulls="NULL of NULL and of what is not positive",
        cases=(("LN(1)", 0.0), ("LN(10)", 2.302585092994046), ("LN(0)", None), ("LN(-1)", None), ("LN(NULL)", None)),
    ),
    Function(
        "LOG10", signatures("DOUBLE -> DOUBLE"),
        "The logarithm to base ten, exact for powers of ten.",
        _logarithm(10.0), flink="CASE WHEN {0} > 0 THEN LOG10({0}) END", nulls="NULL of NULL and of what is not positive",
        cases=(("LOG10(1000)", 3.0), ("FLOOR(LOG10(1000))", 3.0), ("LOG10(0.00001)", -5.0), ("LOG10(0)", None), ("LOG10(NULL)", None)),
    ),
    Function(
        "LOG2", signatures("DOUBLE -> DOUBLE"),
        "The logarithm to base two, exact for powers of two.",
        _logarithm(2.0), flink="CASE WHEN {0} > 0 THEN LOG2({0}) END", nulls="NULL of NULL and of what is not positive",
        cases=(("LOG2(8)", 3.0), ("LOG2(536870912)", 29.0), ("LOG2(0.25)", -2.0), ("LOG2(-8)", None), ("LOG2(NULL)", None)),
    ),
)  # fmt: skip
