"""A tag: a measured or set value of a plant, with its unit, range and limits, and the readings made of its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.plant.quality import Quality, is_bad, is_good
from headrace.plant.reading import Reading, reading_of
from headrace.plant.units import is_unit, unit_code, unit_symbol

__all__ = ["Tag"]


@dataclass(frozen=True, slots=True)
class Tag:
    """A measured or set value of a plant.

    Attributes
    ----------
    path
        Its place in the asset tree after ISA-95: site/area/line/unit/tag, or fewer levels.
    name
        What people call it; the last part of the path if there is no other name.
    tag_class
        The class of the sensor or signal, such as temperature; empty if it is unknown. It is never guessed from a name.
    unit
        The code of its unit by UNECE Recommendation 20, such as CEL; None if it has none.
    low, high
        The range of measurement, in its unit. A value outside has uncertain quality.
    ll, l, h, hh
        The limits low-low, low, high and high-high, in its unit.
    deadband
        A change that is smaller is no change, in its unit.
    interpolation
        How values go from one reading to the next: `stepped` if they stay until it, `sloped` if they change evenly.
    source
        Its address in the source: an MQTT topic or `topic#$.json.path`, an OPC UA NodeId, a Modbus register. None if it has none.
    spellings
        Other names under which it comes.
    """

    path: str
    name: str = ""
    tag_class: str = ""
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    ll: float | None = None
    l: float | None = None  # noqa: E741  (so the limit is called)
    h: float | None = None
    hh: float | None = None
    deadband: float | None = None
    interpolation: Literal["stepped", "sloped"] = "sloped"
    source: str | None = None
    spellings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Give it a name."""
        if not self.name:
            object.__setattr__(self, "name", self.path.rpartition("/")[2])

    @property
    def symbol(self) -> str:
        """The symbol of its unit, such as °C; empty if it has none."""
        return "" if self.unit is None else unit_symbol(self.unit)

    def reading(
        self, value: object, arrival_time: int, *, source_time: int | None = None, quality: int = Quality.GOOD, unit: str | None = None
    ) -> Reading:
        """Return a reading of a value as it came, with a quality that the tag list has judged.

        A number outside the range has uncertain quality. A value in another unit than the tag's has bad quality, and no value.

        Parameters
        ----------
        unit
            The unit in which the source measures, if the source says so: its code, or its symbol.

        Raises
        ------
        TypeError
            If the value is none of number, text, truth value and None.
        """
        if unit is not None and self.unit is not None and not is_unit(unit, self.unit):
            quality = quality if is_bad(quality) else Quality.BAD_CONFIGURATION_ERROR
            return reading_of(self.path, None, arrival_time, source_time=source_time, quality=quality, unit=unit_code(unit))
        if is_good(quality) and isinstance(value, (int, float)) and not isinstance(value, bool) and self._is_outside(value):
            quality = Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED
        return reading_of(self.path, value, arrival_time, source_time=source_time, quality=quality, unit=self.unit or unit)

    def _is_outside(self, value: float) -> bool:
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)
