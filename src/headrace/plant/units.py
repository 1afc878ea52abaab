"""Units of measurement: common codes of UNECE Recommendation 20, which OPC UA uses too, with their symbols."""

from __future__ import annotations

import difflib
import re
import unicodedata
from functools import lru_cache

__all__ = ["UNITS", "code_of_unit_id", "is_unit", "unit_code", "unit_hint", "unit_symbol"]

UNITS: dict[str, str] = {
    # temperature
    "CEL": "°C", "FAH": "°F", "KEL": "K", "H12": "°C/h", "H13": "°C/min", "H14": "°C/s", "F10": "K/h", "F11": "K/min", "F12": "K/s",
    # pressure
    "BAR": "bar", "MBR": "mbar", "PAL": "Pa", "A97": "hPa", "KPA": "kPa", "MPA": "MPa", "ATM": "atm", "PS": "psi", "HN": "mmHg",
    "HP": "mmH₂O", "F78": "inH₂O", "F79": "inHg", "UA": "Torr", "74": "mPa", "E42": "kgf/cm²",
    # length, area, volume
    "MTR": "m", "DMT": "dm", "CMT": "cm", "MMT": "mm", "4H": "µm", "C45": "nm", "KMT": "km", "INH": "in", "FOT": "ft", "YRD": "yd", "SMI": "mi",
    "MTK": "m²", "CMK": "cm²", "MMK": "mm²", "KMK": "km²", "HAR": "ha", "FTK": "ft²", "INK": "in²",
    "MTQ": "m³", "DMQ": "dm³", "CMQ": "cm³", "MMQ": "mm³", "LTR": "l", "HLT": "hl", "DLT": "dl", "CLT": "cl", "MLT": "ml", "K6": "kl",
    "FTQ": "ft³", "INQ": "in³", "GLL": "gal", "GLI": "gal (UK)", "NM3": "Nm³", "SM3": "Sm³",
    # mass
    "KGM": "kg", "GRM": "g", "MGM": "mg", "MC": "µg", "TNE": "t", "LBR": "lb", "ONZ": "oz", "STN": "ton (US)", "LTN": "ton (UK)",
    # time and frequency
    "SEC": "s", "C26": "ms", "B98": "µs", "C47": "ns", "MIN": "min", "HUR": "h", "DAY": "d", "WEE": "wk", "MON": "mo", "ANN": "y",
    "HTZ": "Hz", "KHZ": "kHz", "MHZ": "MHz", "A86": "GHz", "C97": "1/s", "C94": "1/min", "H10": "1/h",
    # speed, rotation, angle, acceleration
    "MTS": "m/s", "KMH": "km/h", "2X": "m/min", "M60": "m/h", "2M": "cm/s", "C16": "mm/s", "H81": "mm/min", "H67": "mm/h", "FS": "ft/s",
    "FR": "ft/min", "HM": "mi/h", "KNT": "kn", "RPM": "r/min", "RPS": "r/s", "2A": "rad/s", "E96": "°/s", "OPM": "o/min",
    "C81": "rad", "DD": "°", "MSK": "m/s²", "2B": "rad/s²", "K40": "gₙ",
    # flow of volume and of mass
    "MQS": "m³/s", "MQH": "m³/h", "G53": "m³/min", "G52": "m³/d", "G51": "l/s", "L2": "l/min", "E92": "l/h", "LD": "l/d", "40": "ml/s",
    "41": "ml/min", "G55": "ml/h", "G2": "gal/min", "G50": "gal/h", "2K": "ft³/h", "2L": "ft³/min", "J62": "bbl/h", "Q40": "Nm³/h",
    "Q38": "Sm³/h", "KGS": "kg/s", "F31": "kg/min", "E93": "kg/h", "F30": "kg/d", "F29": "g/s", "F28": "g/min", "F27": "g/h", "E18": "t/h",
    "L71": "t/d", "4U": "lb/h", "K78": "lb/min", "K81": "lb/s", "4W": "ton (US)/h",
    # share, number, concentration, density
    "P1": "%", "59": "ppm", "61": "ppb", "C62": "1", "H87": "pcs", "Q30": "pH", "M1": "mg/l", "H29": "µg/l", "GL": "g/l", "GP": "mg/m³",
    "GQ": "µg/m³", "A93": "g/m³", "NA": "mg/kg", "KMQ": "kg/m³", "23": "g/cm³", "D41": "t/m³", "B35": "kg/l", "87": "lb/ft³", "C34": "mol",
    "C18": "mmol", "B45": "kmol", "C38": "mol/l", "M33": "mmol/l", "C36": "mol/m³", "GM": "g/m²", "28": "kg/m²", "KL": "kg/m", "GF": "g/m",
    # viscosity
    "C65": "Pa·s", "C24": "mPa·s", "C7": "cP", "4C": "cSt", "C17": "mm²/s", "S4": "m²/s",
    # force, torque
    "NEW": "N", "C20": "mN", "B47": "kN", "B73": "MN", "C78": "lbf", "NU": "N·m", "B48": "kN·m", "D83": "mN·m", "M92": "lbf·ft", "4P": "N/m",
    # energy, power, heat
    "JOU": "J", "KJO": "kJ", "3B": "MJ", "GV": "GJ", "WHR": "W·h", "KWH": "kW·h", "MWH": "MW·h", "GWH": "GW·h", "BTU": "Btu", "2I": "Btu/h",
    "WTT": "W", "C31": "mW", "KWT": "kW", "MAW": "MW", "A90": "GW", "BHP": "hp", "HJ": "hp (metric)", "B42": "kJ/kg", "JK": "MJ/kg",
    "JM": "MJ/m³", "D54": "W/m²", "D55": "W/(m²·K)", "D53": "W/(m·K)", "B43": "kJ/(kg·K)",
    # electricity
    "VLT": "V", "KVT": "kV", "2Z": "mV", "D82": "µV", "AMP": "A", "B22": "kA", "4K": "mA", "B84": "µA", "OHM": "Ω", "B49": "kΩ", "B75": "MΩ",
    "E45": "mΩ", "FAR": "F", "4O": "µF", "C41": "nF", "4T": "pF", "81": "H", "C14": "mH", "COU": "C", "AMH": "A·h", "E09": "mA·h",
    "D46": "V·A", "KVA": "kV·A", "MVA": "MV·A", "D44": "var", "KVR": "kvar", "MAR": "Mvar", "D33": "T", "C29": "mT", "D50": "V/m",
    "SIE": "S", "C27": "mS", "B99": "µS", "D10": "S/m", "H61": "mS/cm", "G42": "µS/cm",
    # light, sound, radiation
    "CDL": "cd", "LUM": "lm", "LUX": "lx", "2N": "dB", "BQL": "Bq", "D13": "Sv", "C28": "mSv", "P72": "µSv/h",
}  # fmt: skip
"""The symbol of each code."""

_CODES = {symbol.casefold(): code for code, symbol in reversed(UNITS.items())}
_ALIASES = {
    "c": "CEL", "degc": "CEL", "f": "FAH", "degf": "FAH", "percent": "P1", "pct": "P1", "rpm": "RPM", "kwh": "KWH", "mwh": "MWH", "wh": "WHR",
    "m3": "MTQ", "m3/h": "MQH", "m3/s": "MQS", "m2": "MTK", "nm": "NU", "ohm": "OHM", "lpm": "L2", "kph": "KMH", "psig": "PS", "bara": "BAR",
    "barg": "BAR", "us/cm": "G42", "um": "4H", "degree": "DD", "deg": "DD", "kva": "KVA", "gpm": "G2", "cfm": "2L", "sec": "SEC", "hour": "HUR",
}  # fmt: skip

_WORDS = {"c": "CEL", "degc": "CEL", "celsius": "CEL", "f": "FAH", "degf": "FAH", "fahrenheit": "FAH", "kelvin": "KEL", "percent": "P1", "rpm": "RPM"}


def unit_symbol(code: str) -> str:
    """Return the symbol of a unit; the code itself if it is not in the table."""
    return UNITS.get(code, code)


def _key(text: str) -> str:
    """Return a text without what is no difference between units: m³/h and m^3 / h, N·m and Nm, mg/L and mg/l."""
    return re.sub(r"[\s·.*^]", "", unicodedata.normalize("NFKC", text)).replace("L", "l")


_SYMBOLS = {_key(symbol): code for code, symbol in UNITS.items()}


@lru_cache(4096)
def _codes(text: str) -> frozenset[str]:
    """Return the units that a text may mean. Upper and lower case differ: mW is not MW."""
    if text in UNITS:
        return frozenset({text})
    key = _key(text)
    return frozenset(filter(None, (_SYMBOLS.get(key), _WORDS.get(key.casefold()))))


def is_unit(text: str, code: str) -> bool:
    """Return whether a text is the code of a unit, its symbol, or another common way to write it."""
    return text == code or code in _codes(text)


def unit_code(text: str) -> str:
    """Return the code of a unit by its code or symbol; the text itself if it is none, or may mean several, as C does."""
    codes = _codes(text)
    return next(iter(codes)) if len(codes) == 1 else text


def unit_hint(text: str) -> str:
    """Return what an unknown code may have been meant to be."""
    wanted = text.strip().casefold()
    code = next((found[wanted] for found in (_ALIASES, _CODES) if wanted in found), None)
    if code is None:
        upper = text.strip().upper()
        match = [upper] if upper in UNITS else difflib.get_close_matches(upper, UNITS, n=1, cutoff=0.6)
        code = match[0] if match else None
    return f"did you mean {code!r} ({UNITS[code]})?" if code else "write a code of UNECE Recommendation 20, such as CEL (°C), BAR or P1 (%)"


def code_of_unit_id(unit_id: int) -> str | None:
    """Return the UNECE code of the `unitId` of an OPC UA `EUInformation`; None if it is none."""
    if not 0 < unit_id < 1 << 24:
        return None
    text = unit_id.to_bytes(3, "big").lstrip(b"\0")
    return text.decode() if text.isalnum() else None
