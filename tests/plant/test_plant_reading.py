"""The canonical reading."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.plant.quality import Quality, is_bad, is_good, is_uncertain, worst
from headrace.plant.reading import READING_SCHEMA, Reading, reading_of


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "null", " Bad Input ", "", "NaN", "#N/A"])
def test_what_is_no_value_is_of_bad_quality_and_never_zero(value: object) -> None:
    found = reading_of("a", value, 5)
    assert (found.value, found.quality) == (None, Quality.BAD_NO_DATA)
    assert is_bad(found.quality)


def test_a_quality_that_is_already_bad_stays() -> None:
    assert reading_of("a", None, 5, quality=Quality.BAD_SENSOR_FAILURE).quality == Quality.BAD_SENSOR_FAILURE
    assert reading_of("a", None, 5, quality=Quality.UNCERTAIN).quality == Quality.BAD_NO_DATA
    assert reading_of("a", 1.5, 5, quality=Quality.UNCERTAIN) == Reading("a", 5, 1.5, Quality.UNCERTAIN, None, None, 5)


def test_the_event_time_is_the_sources_if_it_gives_one() -> None:
    assert reading_of("a", 1, 5, source_time=3) == Reading("a", 3, 1, 0, None, 3, 5)
    assert reading_of("a", 1, 5, source_time=0).time == 0
    assert reading_of("a", True, 5) == Reading("a", 5, True, 0, None, None, 5)


def test_it_is_written_as_the_columns_of_its_schema() -> None:
    assert list(json.loads(reading_of("a", 1.5, 5, unit="CEL").encode())) == list(READING_SCHEMA)


def test_a_container_is_no_value() -> None:
    with pytest.raises(TypeError, match="list"):
        reading_of("a", [1], 5)


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_the_worst_is_the_first_of_the_worst_severity(qualities: list[int]) -> None:
    found = worst(*qualities)
    if any(map(is_bad, qualities)):
        assert found == next(one for one in qualities if is_bad(one))
    elif any(map(is_uncertain, qualities)):
        assert found == next(one for one in qualities if is_uncertain(one))
    else:
        assert is_good(found)
        assert found == (qualities[0] if qualities else Quality.GOOD)


def test_an_integer_beyond_64_bits_and_a_text_that_is_not_unicode_can_be_written() -> None:
    assert reading_of("a", 1 << 70, 5).value == float(1 << 70)
    assert reading_of("a", 10**400, 5).quality == Quality.BAD_NO_DATA
    assert reading_of("a", "\ud800", 5) == Reading("a", 5, None, Quality.BAD_TYPE_MISMATCH, None, None, 5)
    for value in (1 << 63, -(1 << 63), 10**400, "\ud800"):
        reading_of("a", value, 5).encode()
