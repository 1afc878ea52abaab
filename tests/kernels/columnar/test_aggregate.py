"""Folding: each group to the same last digit, whatever else is folded with it."""

from __future__ import annotations

import random

import polars as pl
import pytest

import headrace as hr
from headrace.kernels.columnar.aggregate import Folding
from headrace.kernels.columnar.coding import Coding
from headrace.kernels.columnar.compile import compile_expression
from headrace.plan.operators import Aggregate

ROWS = 4_000
chance = random.Random(1)
FRAME = pl.DataFrame(
    {
        "slice": [place * 5 // ROWS for place in range(ROWS)],
        "k": [chance.choice(["a", "b", None]) for _ in range(ROWS)],
        "x": [None if chance.random() < 0.01 else chance.random() * 10 ** chance.randint(-8, 8) for _ in range(ROWS)],
    }
)
MEANS = {"mean": "AVG(x)"}  # by itself, Polars may take it in parts
MORE = {"total": "SUM(x)", "spread": "STDDEV_POP(x)", "spread_of": "VAR_SAMP(x)", "mid": "MEDIAN(x)", "squares": "SUM(x * x)", "all": "ARRAY_AGG(x)"}


def folding_of(aggregates: dict[str, str]) -> Folding:
    rows = hr.stream("rows", schema={"t": "BIGINT", "x": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")
    operator = rows.window(hr.tumbling(hr.seconds(1))).aggregate(**aggregates).operator
    assert isinstance(operator, Aggregate)
    return Folding(operator.calls)


CONSTANTS = [f"CAST(NULL AS {kind})" for kind in ("BIGINT", "DOUBLE", "STRING")] + [
    "1",
    "0.5",
    "'x'",
    "TRUE",
    "CONCAT('a', 'b')",
    "TRY_CAST('5' AS BIGINT)",
    ":setting",
]


@pytest.mark.parametrize("text", CONSTANTS)
def test_a_constant_folds_as_a_column_that_holds_it(text: str) -> None:
    rows = hr.stream("rows", schema={"t": "BIGINT", "x": "DOUBLE"}, event_time="TO_TIMESTAMP_LTZ(t, 3)")

    def build(setting: int = 7) -> dict[str, hr.Stream]:  # noqa: ARG001
        held = rows.derive(constant=text).window(hr.tumbling(hr.seconds(1)))
        built.update({of: held.aggregate(**{name: call.format(of) for name, call in calls.items()}).node for of in (text, "constant")})
        return {"out": rows}

    built: dict[str, object] = {}
    calls = {"n": "COUNT({})", "different": "COUNT(DISTINCT {})", "all": "ARRAY_AGG({})", "last": "LAST_VALUE({})", "map": "MAP_AGG('k', {})"}
    if "x" not in text and "S" not in text and "TRUE" not in text and "CONCAT" not in text:
        calls |= {"sum": "SUM({})", "mean": "AVG({})", "spread": "VAR_SAMP({})", "mid": "MEDIAN({})", "share": "PERCENTILE({}, 0.5)"}
    hr.pipeline("constants", version="1")(build).plan()
    constant, column = (Folding(built[of].operator.calls) for of in (text, "constant"))  # type: ignore[attr-defined]
    plain = FRAME.head(7).with_columns(_value_of(built["constant"]).alias("constant"))
    got, expected = (folding.result(folding.merge(folding.fold(plain, ["slice", "k"]), ["k"])) for folding in (constant, column))
    assert got.equals(expected)
    assert got["@call0"].sum() == (0 if "NULL" in text else 7)


def _value_of(node: object) -> pl.Expr:
    return compile_expression(dict(node.input.operator.columns)["constant"])  # type: ignore[attr-defined]


def in_pieces(frame: pl.DataFrame, size: int) -> pl.DataFrame:
    return pl.concat([frame[start : start + size] for start in range(0, len(frame), size)], rechunk=False)


@pytest.mark.parametrize("aggregates", [MEANS, MORE], ids=["means", "more"])
@pytest.mark.parametrize("by", [["slice"], ["k"], ["slice", "k"], ["k", "slice"]], ids=" ".join)
def test_the_last_digits_do_not_depend_on_pieces_nor_on_what_is_known_to_be_sorted(by: list[str], aggregates: dict[str, str]) -> None:
    folding = folding_of(aggregates)
    expected = folding.fold(FRAME, by)
    known = FRAME.with_columns(pl.col("slice").set_sorted())
    for frame in (
        in_pieces(FRAME, 1),
        in_pieces(FRAME, 1_117),
        in_pieces(FRAME, 1).rechunk(),
        known,
        Coding().of(FRAME, "k"),
        Coding().of(known, "k"),
    ):
        assert folding.fold(frame, by).equals(expected)


@pytest.mark.parametrize(
    "other",
    [pl.col("x") > 1, pl.col("slice") * 2**61, pl.lit(None, pl.Int64), pl.lit(None, pl.String), pl.col("slice") - 2**63, pl.lit("one")],
    ids=["of another type", "far apart", "NULL", "a NULL text", "least", "one"],
)
def test_coded_keys_fold_as_texts_whatever_other_key_there_is(other: pl.Expr) -> None:
    folding, frame, by = folding_of(MORE), FRAME.with_columns(other.alias("other")), ["slice", "k", "other"]
    for rows in (frame, frame.clear(), frame.head(1)):
        assert folding.fold(Coding().of(rows, ("k", "other")), by).equals(folding.fold(rows, by))


@pytest.mark.parametrize("aggregates", [MEANS, MORE], ids=["means", "more"])
@pytest.mark.parametrize("by", [["slice"], ["k"], ["slice", "k"], ["k", "slice"]], ids=" ".join)
def test_the_last_digits_do_not_depend_on_the_other_groups_folded_at_once(by: list[str], aggregates: dict[str, str]) -> None:
    folding = folding_of(aggregates)
    alone = [folding.fold(in_pieces(group, 1), by) for _, group in FRAME.group_by(by, maintain_order=True)]
    assert pl.concat(alone).equals(folding.fold(FRAME, by))


def test_states_merge_to_the_same_last_digits_whatever_is_merged_at_once() -> None:
    folding = folding_of(MEANS)
    states = folding.fold(FRAME.with_columns(pl.int_range(pl.len()).alias("part")), ["slice", "part"])
    alone = [folding.merge(in_pieces(group, 1), ["slice"]) for _, group in states.group_by("slice", maintain_order=True)]
    assert pl.concat(alone).equals(folding.merge(states, ["slice"]))


def test_nothing_folds_to_nothing() -> None:
    assert folding_of(MEANS).fold(FRAME.clear(), ["slice", "k"]).shape == (0, 4)
