"""A source as SQL: records read by the rule, what is wrong with the others, and the watermark before each."""

from __future__ import annotations

from datetime import UTC, datetime

from headrace.engines.spark.expression import loose
from headrace.engines.spark.words import name, text, type_name
from headrace.plan import operators
from headrace.plan.expression import columns_of
from headrace.plan.schema import BIGINT, BOOLEAN, LAST_MS, STRING, Field, Type

__all__ = ["MAX_AHEAD_MS", "Source"]

MAX_AHEAD_MS = 3_600_000
NEVER = -(2**62)
_SOUND = "malformed IS NULL AND future IS NULL"
_TEXT = "IF(IS_VALID_UTF8(CAST({0} AS STRING)), CAST({0} AS STRING), NULL)"
_METADATA = {
    "key": _TEXT.format("key"),
    "headers": (
        f"MAP_FROM_ENTRIES(ARRAY_SORT(MAP_ENTRIES(MAP_FROM_ENTRIES(TRANSFORM(headers, one -> STRUCT(one.key, {_TEXT.format('one.value')}))))))"
    ),
    "partition": "CAST(partition AS BIGINT)",
    "offset": "CAST(offset AS BIGINT)",
    "arrival_time": f"CASE WHEN arrived_ms BETWEEN 0 AND {LAST_MS} THEN TIMESTAMP_MILLIS(arrived_ms) END",
}
_EMPTY = "not JSON: it ends too early or holds a lone surrogate"


class Source:
    """One source of a plan, which has a number there."""

    def __init__(self, source: operators.Source, number: int) -> None:
        self._source, self._number = source, number
        self.view = f"source_{number}"

    @property
    def function(self) -> tuple[str, str]:
        """The Java function that reads its records, and the type of what that gives."""
        row = ", ".join(f"{name(field.name)}: {type_name(field.type)}" for field in self._source.schema().without(*self._metadata).fields)
        return f"headrace.spark.{'HrReadRest' if self._source.rest else 'HrRead'}", f"STRUCT<row: STRUCT<{row}>, malformed: STRING>"

    @property
    def _read(self) -> str:
        declared = text(", ".join(map(_declared, self._source.declared.fields)))
        rest = f", {text(self._source.rest)}" if self._source.rest else ""
        return f"hr_read_{self._number}(value, {declared}{rest})"

    @property
    def items(self) -> dict[str, str]:
        """The columns of its view's rows."""
        return {column: f"{'known' if column in self._metadata else 'row'}.{name(column)}" for column in self._source.schema().names}

    @property
    def _metadata(self) -> dict[str, str]:
        return {column: _METADATA[kind] for column, kind in self._source.metadata}

    @property
    def _known(self) -> str:
        pairs = ", ".join(f"{text(column)}, {value}" for column, value in self._metadata.items())
        return f", NAMED_STRUCT({pairs}) AS known" if pairs else ""

    @property
    def _believed(self) -> str:
        source, time = self._source, self._source.event_time
        row = {field.name: f"record.row.{name(field.name)}" for field in source.schema().fields} | self._metadata
        at = "CAST(NULL AS BIGINT)" if time is None else f"UNIX_MILLIS({loose(time, row)})"
        faults = [f"WHEN record IS NULL THEN {text(_EMPTY)}", "WHEN record.malformed IS NOT NULL THEN record.malformed"]
        ahead = "CAST(NULL AS STRING)"
        if time is not None:
            first, last = source.range_ms
            missing = ", ', ', ".join(f"{text(f'{one} is ')}, {_repr(row[one], source.schema()[one].type)}" for one in sorted(columns_of(time)))
            bounds = text(f" is outside {_shown(first)} to {_shown(last)}")
            shown = r"DATE_FORMAT(TIMESTAMP_MILLIS(time_ms), 'y-MM-dd\'T\'HH:mm:ss\'Z\'')"
            faults.append(f"WHEN time_ms IS NULL THEN CONCAT('no event time: '{f', {missing}' if missing else ''})")
            faults.append(f"WHEN time_ms < {first} OR time_ms >= {last} THEN CONCAT('event time ', {shown}, {bounds})")
            seconds = "CAST(BROUND((time_ms - arrived_ms) / 1000D, 0) AS BIGINT)"
            ahead = (
                f"CASE WHEN malformed IS NULL AND time_ms - arrived_ms > {MAX_AHEAD_MS}\n"
                f"    THEN CONCAT('event time is ', {seconds}, ' s past its arrival') END"
            )
        cases = "\n    ".join(faults)
        return f"""WITH read AS (
  SELECT *, {self._read} AS record FROM records_{self._number}
), timed AS (
  SELECT *, {at} AS time_ms FROM read
), judged AS (
  SELECT *, CASE
    {cases}
    END AS malformed FROM timed
), believed AS (
  SELECT *, {ahead} AS future FROM judged
)"""

    @property
    def query(self) -> str:
        """All records, with `row`, or else why it is `malformed` or lies in the `future`, and the watermark before each."""
        return f"""{self._believed}, shown AS (
  SELECT *, MAX(CASE WHEN {_SOUND} THEN time_ms END)
    OVER (PARTITION BY partition ORDER BY offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS greatest_ms FROM believed
)
SELECT
  partition AS _partition, offset AS _offset, arrived_ms, time_ms AS _time_ms,
  COALESCE(greatest_ms - {self._source.delay_ms}, {NEVER}) AS _watermark_ms, COALESCE(GREATEST(greatest_ms, time_ms), {NEVER}) AS _shown_ms,
  record.row AS row{self._known}, malformed, future, CASE WHEN NOT ({_SOUND}) THEN value END AS value
FROM shown"""

    @property
    def live_query(self) -> str:
        """The same without a watermark, which Spark keeps for the column `_time`: the end of the ms, so that what is late is older than the watermark."""
        return f"""{self._believed}
SELECT
  partition AS _partition, offset AS _offset, arrived_ms, time_ms AS _time_ms, CASE WHEN {_SOUND} THEN TIMESTAMP_MICROS(time_ms * 1000 + 999) END AS _time,
  record.row AS row{self._known}, malformed, future, CASE WHEN NOT ({_SOUND}) THEN value END AS value
FROM believed"""

    @property
    def intake(self) -> str:
        """Of a live source's records, what dead letters and ledger tell of."""
        return f"SELECT _partition, _offset, arrived_ms, malformed, future, value FROM {self.view}"

    def dead_letters(self, pipeline: str, view: str) -> str:
        """Return the records of a view that are set aside, as JSON."""
        common = (
            f"'pipeline', {text(pipeline)}, 'topic', {text(self._source.topic)}, 'partition', _partition, 'offset', _offset, "
            "'reason', IF(malformed IS NULL, 'future', 'malformed'),\n    'detail', COALESCE(malformed, future), 'arrived_ms', arrived_ms"
        )
        options = "MAP('ignoreNullFields', 'false')"
        return f"""SELECT _partition, _offset, CASE WHEN IS_VALID_UTF8(CAST(value AS STRING))
  THEN TO_JSON(NAMED_STRUCT({common}, 'raw', CAST(value AS STRING)), {options})
  ELSE TO_JSON(NAMED_STRUCT({common}, 'raw_base64', BASE64(value)), {options}) END AS json
FROM {view}
WHERE malformed IS NOT NULL OR future IS NOT NULL"""

    def entries(self, view: str) -> str:
        """Return what became of the records of a micro-batch, partition by partition, as far as this can be told of each alone."""
        counts = "'received', COUNT(*), 'malformed', COUNT(malformed), 'future', COUNT(future)"
        return f"""SELECT _partition, MIN(_offset) AS _offset, TO_JSON(NAMED_STRUCT(
    'topic', {text(self._source.topic)}, 'partition', _partition, 'first', MIN(_offset), 'last', MAX(_offset), {counts})) AS json
FROM {view}
GROUP BY _partition"""


def _declared(field: Field) -> str:
    return f"{name(field.name)} {field.type}{'' if field.nullable else ' NOT NULL'}"


def _repr(value: str, kind: Type) -> str:
    """Return a value as a dead letter shows it."""
    if kind == STRING:
        return f"hr_shown({value})"
    if kind == BOOLEAN:
        return f"COALESCE(INITCAP(CAST({value} AS STRING)), 'None')"
    return f"COALESCE(CAST({value} AS STRING), 'None')" if kind == BIGINT else f"COALESCE(TO_JSON(STRUCT({value} AS value)), 'None')"


def _shown(time: int) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
