"""The function table: every function that an expression may call, with its types, nulls, errors and cases.

A value of type DOUBLE is always finite. A function that would give NaN or infinity gives NULL, on every engine.
"""

from __future__ import annotations

from headrace.plan.functions import aggregate, logic, math, nested, readings, text, time
from headrace.plan.functions.base import Aggregate, Function, Signature, sql_call

__all__ = ["AGGREGATES", "FUNCTIONS", "Aggregate", "Function", "Signature", "sql_call"]

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for module in (logic, math, text, time, nested, readings)
    for function in module.TABLE
}  # fmt: skip
AGGREGATES: dict[str, Aggregate] = {function.name: function for function in (*aggregate.TABLE, *readings.AGGREGATES)}
