-- fingerprint, version 1, as Flink SQL
-- window_size_minutes = 1
-- watermark_seconds = 10
-- A path without a folder is that of the folder in which Flink runs: put in your own.
--
-- Otherwise than on headrace's own engine:
-- - Columns that are NULL, numbers and times may be written otherwise: 1.0E7 for 10000000.0, 10:31:57.92Z for 10:31:57.920Z.
-- - Overflow and some odd texts are answered otherwise, as the reference of functions says: TO_TIMESTAMP_LTZ, AVG, STDDEV_POP.

SET 'pipeline.name' = 'fingerprint 1';
SET 'execution.runtime-mode' = 'streaming';
SET 'table.local-time-zone' = 'UTC';
SET 'table.dml-sync' = 'false';
SET 'parallelism.default' = '1';
SET 'pipeline.auto-watermark-interval' = '0 ms';
SET 'execution.checkpointing.interval' = '2 s';
SET 'restart-strategy.type' = 'none';

CREATE TEMPORARY FUNCTION HR_READ AS 'headrace.flink.HrRead';
CREATE TEMPORARY FUNCTION HR_TIME AS 'headrace.flink.HrTime';
CREATE TEMPORARY FUNCTION HR_BEFORE AS 'headrace.flink.HrBefore';
CREATE TEMPORARY FUNCTION HR_FIRST AS 'headrace.flink.HrFirst';
CREATE TEMPORARY FUNCTION HR_DEAD_LETTER AS 'headrace.flink.HrDeadLetter';

-- #1 stream 'sensor-data' (equip_id STRING NOT NULL, timestamp BIGINT, data MAP<STRING, DOUBLE>)
CREATE TEMPORARY TABLE `sensor-data` (
  `record` BYTES,
  `read` AS HR_READ(`record`, '`equip_id` STRING NOT NULL, `timestamp` BIGINT, `data` MAP<STRING, DOUBLE>'),
  `event_time` AS HR_TIME(
    TO_TIMESTAMP_LTZ(HR_READ(`record`, '`equip_id` STRING NOT NULL, `timestamp` BIGINT, `data` MAP<STRING, DOUBLE>').`row`.`timestamp`, 3),
    '2000-01-01',
    '2100-01-01'
  ),
  WATERMARK FOR `event_time` AS `event_time` - INTERVAL '10' SECOND,
  `now` AS PROCTIME()
) WITH (
  'connector' = 'filesystem',
  'path' = 'sensor-data.ndjson',
  'format' = 'raw'
);

CREATE TEMPORARY TABLE `fingerprint-output` (
  `json` STRING
) WITH (
  'connector' = 'filesystem',
  'path' = 'fingerprint-output',
  'format' = 'raw'
);

CREATE TEMPORARY TABLE `sensor-data.dead-letter` (
  `json` STRING
) WITH (
  'connector' = 'filesystem',
  'path' = 'sensor-data.dead-letter',
  'format' = 'raw'
);

CREATE TEMPORARY TABLE `fingerprint.ledger` (
  `topic` STRING,
  `received` BIGINT,
  `malformed` BIGINT,
  `future` BIGINT,
  `reached` BIGINT,
  `accepted` BIGINT
) WITH (
  'connector' = 'headrace-ledger',
  'path' = 'fingerprint.ledger',
  'ledger.connector' = 'filesystem',
  'format' = 'json'
);

CREATE TEMPORARY VIEW `sensor-data read` AS
SELECT
  `read`.`row`.`equip_id` AS `equip_id`,
  `read`.`row`.`timestamp` AS `timestamp`,
  `read`.`row`.`data` AS `data`,
  CASE
      WHEN `read`.`malformed` IS NOT NULL THEN `read`.`malformed`
      WHEN TO_TIMESTAMP_LTZ(`read`.`row`.`timestamp`, 3) IS NULL THEN 'no event time: timestamp cannot be read as one'
      WHEN TO_TIMESTAMP_LTZ(`read`.`row`.`timestamp`, 3) < TO_TIMESTAMP_LTZ(946684800000, 3) OR TO_TIMESTAMP_LTZ(`read`.`row`.`timestamp`, 3) >= TO_TIMESTAMP_LTZ(4102444800000, 3) THEN 'event time is outside 2000-01-01 to 2100-01-01'
    END AS `fault`,
  `record`,
  CAST(0 AS INT) AS `partition`,
  `event_time`,
  `now`
FROM `sensor-data`
WHERE `read` IS NOT NULL;

-- the watermark that a record's own partition had before it: what it had passed is late
CREATE TEMPORARY VIEW `sensor-data judged` AS
SELECT
  `equip_id`,
  `timestamp`,
  `data`,
  `fault`,
  CASE WHEN `fault` IS NOT NULL THEN `record` END AS `record`,
  'sensor-data' AS `topic`,
  `partition`,
  COUNT(*) OVER `so_far` - 1 AS `offset`,
  COALESCE(HR_BEFORE(`event_time`) OVER `so_far`, TO_TIMESTAMP_LTZ(946684799999, 3)) - INTERVAL '10' SECOND AS `watermark`,
  `event_time`,
  `now`
FROM `sensor-data read`
WINDOW `so_far` AS (PARTITION BY `partition` ORDER BY `now` ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);

-- #2 unnest data as sensor, raw
-- #3 derive value
-- #4 where value IS NOT NULL
CREATE TEMPORARY VIEW `where_4` AS
SELECT
  `equip_id`,
  `timestamp`,
  `sensor`,
  `raw`,
  `raw` AS `value`,
  `event_time`,
  `watermark`,
  `partition`,
  `offset`
FROM `sensor-data judged`
CROSS JOIN UNNEST(`data`) AS `entry` (`sensor`, `raw`)
WHERE `fault` IS NULL
  AND `raw` IS NOT NULL;

-- #5 window tumbling 0:01:00 by equip_id, sensor: min, max, median, mean, std_dev
CREATE TEMPORARY VIEW `window_5` AS
SELECT
  `equip_id`,
  `sensor`,
  MIN(`value`) AS `min`,
  MAX(`value`) AS `max`,
  PERCENTILE(`value`, 0.5) AS `median`,
  AVG(`value`) AS `mean`,
  STDDEV_POP(`value`) AS `std_dev`,
  `window_start`,
  `window_end`
FROM TABLE(TUMBLE(TABLE `where_4`, DESCRIPTOR(`event_time`), INTERVAL '1' MINUTE))
WHERE `window_time` > `watermark`
GROUP BY `equip_id`, `sensor`, `window_start`, `window_end`;

-- #6 aggregate by equip_id: data
CREATE TEMPORARY VIEW `aggregate_6` AS
SELECT
  `equip_id`,
  JSON_OBJECTAGG(KEY `sensor` VALUE JSON_OBJECT(
    KEY 'min' VALUE `min`,
    KEY 'max' VALUE `max`,
    KEY 'median' VALUE `median`,
    KEY 'mean' VALUE `mean`,
    KEY 'std_dev' VALUE `std_dev`
  )) AS `data`,
  CAST(`window_start` AS TIMESTAMP_LTZ(3)) AS `window_start`,
  CAST(`window_end` AS TIMESTAMP_LTZ(3)) AS `window_end`
FROM `window_5`
GROUP BY `equip_id`, `window_start`, `window_end`;

CREATE TEMPORARY VIEW `sensor-data reached` AS
SELECT
  `partition`,
  `offset`,
  HR_FIRST(`partition`, `offset`) AS `first`,
  (EXTRACT(EPOCH FROM `event_time`) * 1000 + EXTRACT(MILLISECOND FROM `event_time`)) / 60000 * 60000 + 59999 > (EXTRACT(EPOCH FROM `watermark`) * 1000 + EXTRACT(MILLISECOND FROM `watermark`)) AS `taken`,
  `event_time`
FROM `sensor-data judged`
CROSS JOIN UNNEST(`data`) AS `entry` (`sensor`, `raw`)
WHERE `fault` IS NULL
  AND `raw` IS NOT NULL;

EXECUTE STATEMENT SET
BEGIN

-- #7 select fingerprint
-- #8 sink 'fingerprint-output'
INSERT INTO `fingerprint-output`
SELECT
  JSON_OBJECT(
    KEY 'fingerprint' VALUE JSON_OBJECT(
      KEY 'uuid' VALUE CONCAT(SUBSTRING(`sha1`, 1, 8), '-', SUBSTRING(`sha1`, 9, 4), '-5', SUBSTRING(`sha1`, 14, 3), '-',
        TRANSLATE(SUBSTRING(`sha1`, 17, 1), '0123456789abcdef', '89ab89ab89ab89ab'), SUBSTRING(`sha1`, 18, 3), '-', SUBSTRING(`sha1`, 21, 12)),
      KEY 'equip_id' VALUE `equip_id`,
      KEY 'type' VALUE 'kiln',
      KEY 'start_ms' VALUE EXTRACT(EPOCH FROM `window_start`) * 1000 + EXTRACT(MILLISECOND FROM `window_start`),
      KEY 'end_ms' VALUE EXTRACT(EPOCH FROM `window_end`) * 1000 + EXTRACT(MILLISECOND FROM `window_end`),
      KEY 'data' VALUE JSON(`data`)
    )
  )
FROM (
  SELECT
    `equip_id`,
    `data`,
    `window_start`,
    `window_end`,
    SHA1(CONCAT('headrace.uuid.v5', 'fingerprint/1', U&'\001F', `equip_id`, U&'\001F', CAST((EXTRACT(EPOCH FROM `window_start`) * 1000 + EXTRACT(MILLISECOND FROM `window_start`)) AS STRING))) AS `sha1`
  FROM `aggregate_6`
) AS `hashed`;

INSERT INTO `sensor-data.dead-letter`
SELECT HR_DEAD_LETTER(
  'fingerprint',
  'sensor-data',
  `partition`,
  `offset`,
  'malformed',
  `fault`,
  CAST(NULL AS BIGINT),
  `record`
) AS `json`
FROM `sensor-data judged`
WHERE `fault` IS NOT NULL;

INSERT INTO `fingerprint.ledger`
SELECT
  'sensor-data',
  CAST(1 AS BIGINT),
  CAST(CASE WHEN `fault` IS NOT NULL THEN 1 ELSE 0 END AS BIGINT),
  CAST(0 AS BIGINT),
  CAST(0 AS BIGINT),
  CAST(0 AS BIGINT)
FROM `sensor-data judged`
UNION ALL
SELECT
  'sensor-data',
  CAST(NULL AS BIGINT),
  CAST(NULL AS BIGINT),
  CAST(NULL AS BIGINT),
  CAST(1 AS BIGINT),
  CAST(CASE WHEN `taken` THEN 1 ELSE 0 END AS BIGINT)
FROM `sensor-data reached`
WHERE `first`;

END;
