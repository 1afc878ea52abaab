-- fingerprint, version 1, as Flink SQL
-- window_size_minutes = 1
-- watermark_seconds = 10
-- A path without a folder is that of the folder in which Flink runs: put in your own.
--
-- Otherwise than on headrace's own engine:
-- - Flink's JSON format reads the records: 7.9 AS BIGINT is 7, 2.50 AS STRING is 2.50, what stands behind an object is passed over.
-- - A record that it cannot read stops the job. There are no dead letters, and no ledger.
-- - Event times of 'sensor-data' before 2000-01-01 or from 2100-01-01 on are believed.
-- - What is late is judged by the watermark of all that a task has read: of one partition the same, of several not.
-- - Overflow and some odd texts are answered otherwise, as the reference of functions says: TO_TIMESTAMP_LTZ, AVG, STDDEV_POP.

SET 'pipeline.name' = 'fingerprint 1';
SET 'execution.runtime-mode' = 'streaming';
SET 'table.local-time-zone' = 'UTC';
SET 'table.dml-sync' = 'true';
SET 'parallelism.default' = '1';
SET 'pipeline.auto-watermark-interval' = '0 ms';
SET 'execution.checkpointing.interval' = '10 s';
SET 'restart-strategy.type' = 'none';

-- #1 stream 'sensor-data' (equip_id STRING NOT NULL, timestamp BIGINT, data MAP<STRING, STRING>)
CREATE TEMPORARY TABLE `sensor-data` (
  `equip_id` STRING,
  `timestamp` BIGINT,
  `data` MAP<STRING, STRING>,
  `event_time` AS TO_TIMESTAMP_LTZ(`timestamp`, 3),
  WATERMARK FOR `event_time` AS `event_time` - INTERVAL '10' SECOND
) WITH (
  'connector' = 'filesystem',
  'path' = 'sensor-data.ndjson',
  'format' = 'json'
);

CREATE TEMPORARY TABLE `fingerprint-output` (
  `json` STRING
) WITH (
  'connector' = 'filesystem',
  'path' = 'fingerprint-output',
  'format' = 'raw'
);

-- #2 unnest data as sensor, raw
-- #3 derive value
CREATE TEMPORARY VIEW `derive_3` AS
SELECT
  `equip_id`,
  `timestamp`,
  `sensor`,
  `raw`,
  CASE WHEN REGEXP(`raw`, '^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$')
    AND ABS(TRY_CAST(`raw` AS DOUBLE)) <= 1.7976931348623157E308
    THEN TRY_CAST(`raw` AS DOUBLE) END AS `value`,
  `event_time`
FROM `sensor-data`
CROSS JOIN UNNEST(`data`) AS `entry` (`sensor`, `raw`)
WHERE `equip_id` IS NOT NULL;

-- #4 where value IS NOT NULL
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
FROM TABLE(TUMBLE(TABLE `derive_3`, DESCRIPTOR(`event_time`), INTERVAL '1' MINUTE))
WHERE `value` IS NOT NULL
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
