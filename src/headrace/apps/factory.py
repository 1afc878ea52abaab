"""The factory's preprocessor: messages of controllers to validated readings, with their place in the range and their quality."""

from __future__ import annotations

import headrace as hr
from headrace.plant.quality import Quality

__all__ = ["RANGES", "factory"]

RANGES = {
    "motor_speed": (0.0, 3000.0, "RPM"),
    "power_output": (0.0, 500.0, "kW"),
    "system_pressure": (0.0, 10.0, "bar"),
    "oil_temperature": (20.0, 95.0, "°C"),
}
"""The range and the unit that each variable must have."""

_NO_VALUE = "LOWER(TRIM(raw)) IN ('', 'null', 'none', 'nan', 'bad', 'bad input', 'no data', 'n/a')"
_QUALITY = f"""CASE WHEN raw IS NULL OR {_NO_VALUE} THEN {int(Quality.BAD_NO_DATA)}
    WHEN number IS NULL THEN {int(Quality.BAD_TYPE_MISMATCH)}
    WHEN expected IS NULL OR unit IS NULL OR unit <> expected THEN {int(Quality.BAD_CONFIGURATION_ERROR)}
    WHEN number < low OR number > high THEN {int(Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED)}
    ELSE {int(Quality.GOOD)} END"""
_USABLE = f"quality < {int(Quality.BAD)}"


def _of_variable(place: int) -> str:
    """Return an expression for what `RANGES` says of a variable."""
    found = {name: row[place] for name, row in RANGES.items()}
    cases = (f"WHEN '{name}' THEN '{one}'" if isinstance(one, str) else f"WHEN '{name}' THEN {one}" for name, one in found.items())
    return f"CASE variable {' '.join(cases)} END"


@hr.pipeline("factory", version="1")
def factory(watermark_seconds: int = 5) -> dict[str, hr.Stream]:
    """Readings of the variables of controllers: value, unit, `(value - low) / (high - low)`, and OPC UA's quality."""
    messages = hr.stream(
        "plc_raw",
        schema={
            "plc_id": "STRING NOT NULL", "timestamp": "DOUBLE NOT NULL", "variables": "MAP<STRING, ROW<`value` STRING, unit STRING>> NOT NULL",
        },
        event_time="TO_TIMESTAMP_LTZ(CAST(timestamp * 1000 AS BIGINT), 3)",
        watermark=hr.seconds(watermark_seconds),
    )  # fmt: skip
    readings = (
        messages.unnest("variables", key="variable", value="given")
        .derive(raw="given.value", unit="given.unit", number="TRY_CAST(given.value AS DOUBLE)")
        .derive(low=_of_variable(0), high=_of_variable(1), expected=_of_variable(2))
        .derive(quality=_QUALITY)
        .derive(value=f"CASE WHEN {_USABLE} THEN number END", normalized=f"CASE WHEN {_USABLE} THEN (number - low) / (high - low) END")
    )
    return {"plc_data": readings.select("plc_id", "timestamp", "variable", "value", "unit", "normalized", "quality")}
