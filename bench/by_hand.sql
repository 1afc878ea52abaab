-- Fingerprints as one would write them by hand, with the same guards: one rule of reading, lateness by partition, dead letters, a ledger.
SET 'pipeline.name' = 'by hand';
SET 'execution.runtime-mode' = 'streaming';
SET 'table.local-time-zone' = 'UTC';
SET 'parallelism.default' = '{parallelism}';
SET 'execution.checkpointing.interval' = '10 s';
SET 'state.backend.type' = 'rocksdb';
SET 'execution.checkpointing.incremental' = 'true';
SET 'execution.checkpointing.dir' = 'file://{folder}/checkpoints';
SET 'pipeline.object-reuse' = 'true';

CREATE TEMPORARY FUNCTION HR_READ AS 'headrace.flink.HrRead';
CREATE TEMPORARY FUNCTION HR_DEAD_LETTER AS 'headrace.flink.HrDeadLetter';

CREATE TEMPORARY TABLE sensor_data (
  record BYTES,
  part INT METADATA FROM 'partition' VIRTUAL,
  pos BIGINT METADATA FROM 'offset' VIRTUAL,
  arrived TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  r AS HR_READ(record, 'equip_id STRING NOT NULL, `timestamp` BIGINT, `data` MAP<STRING, DOUBLE>'),
  t AS COALESCE(TO_TIMESTAMP_LTZ(HR_READ(record, 'equip_id STRING NOT NULL, `timestamp` BIGINT, `data` MAP<STRING, DOUBLE>').`row`.`timestamp`, 3), TO_TIMESTAMP_LTZ(0, 3)),
  p AS PROCTIME(),
  WATERMARK FOR t AS t - INTERVAL '10' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = 'sensor-data', 'properties.bootstrap.servers' = '{servers}', 'properties.group.id' = 'by-hand',
  'properties.isolation.level' = 'read_committed', 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
  'scan.watermark.emit.strategy' = 'on-event', 'format' = 'raw'
);

CREATE TEMPORARY TABLE fingerprints (json STRING) WITH (
  'connector' = 'kafka', 'topic' = 'fingerprint-output', 'properties.bootstrap.servers' = '{servers}', 'format' = 'raw',
  'properties.transaction.timeout.ms' = '600000', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'by-hand-{run}'
);
CREATE TEMPORARY TABLE dead (json STRING) WITH (
  'connector' = 'kafka', 'topic' = 'by-hand.dead', 'properties.bootstrap.servers' = '{servers}', 'format' = 'raw',
  'properties.transaction.timeout.ms' = '600000', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'by-hand-dead-{run}'
);
CREATE TEMPORARY TABLE counts (what STRING, n BIGINT, m BIGINT) WITH (
  'connector' = 'kafka', 'topic' = 'by-hand.counts', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json',
  'properties.transaction.timeout.ms' = '600000', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = 'by-hand-counts-{run}'
);

CREATE TEMPORARY VIEW received AS
SELECT r.`row`.equip_id AS equip_id, r.`row`.`data` AS `data`, r.malformed AS fault, CASE WHEN r.malformed IS NOT NULL THEN record END AS record,
  part, pos, arrived, t, MAX(t) OVER (PARTITION BY part ORDER BY p ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS tmax
FROM sensor_data;

CREATE TEMPORARY VIEW numbers AS
SELECT equip_id, sensor, v, t, tmax
FROM received CROSS JOIN UNNEST(`data`) AS e (sensor, v)
WHERE fault IS NULL;

CREATE TEMPORARY VIEW per_sensor AS
SELECT equip_id, sensor, MIN(v) AS mi, MAX(v) AS ma, PERCENTILE(v, 0.5) AS med, AVG(v) AS me, STDDEV_POP(v) AS sd, window_start, window_end
FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(t), INTERVAL '1' MINUTE))
WHERE v IS NOT NULL AND (t >= tmax OR window_time > tmax - INTERVAL '10' SECOND)
GROUP BY equip_id, sensor, window_start, window_end;

CREATE TEMPORARY VIEW per_equipment AS
SELECT equip_id, JSON_OBJECTAGG(KEY sensor VALUE JSON_OBJECT(KEY 'min' VALUE mi, KEY 'max' VALUE ma, KEY 'median' VALUE med, KEY 'mean' VALUE me, KEY 'std_dev' VALUE sd)) AS `data`,
  EXTRACT(EPOCH FROM window_start) * 1000 AS start_ms, EXTRACT(EPOCH FROM window_end) * 1000 AS end_ms
FROM per_sensor
GROUP BY equip_id, window_start, window_end;

EXECUTE STATEMENT SET
BEGIN
INSERT INTO fingerprints
SELECT JSON_OBJECT(KEY 'fingerprint' VALUE JSON_OBJECT(
  KEY 'uuid' VALUE CONCAT(SUBSTRING(h, 1, 8), '-', SUBSTRING(h, 9, 4), '-5', SUBSTRING(h, 14, 3), '-',
    TRANSLATE(SUBSTRING(h, 17, 1), '0123456789abcdef', '89ab89ab89ab89ab'), SUBSTRING(h, 18, 3), '-', SUBSTRING(h, 21, 12)),
  KEY 'equip_id' VALUE equip_id, KEY 'type' VALUE 'kiln', KEY 'start_ms' VALUE start_ms, KEY 'end_ms' VALUE end_ms, KEY 'data' VALUE JSON(`data`)))
FROM (SELECT *, SHA1(CONCAT('headrace.uuid.v5', 'fingerprint/1', U&'\001F', equip_id, U&'\001F', CAST(start_ms AS STRING))) AS h FROM per_equipment);
INSERT INTO dead
SELECT HR_DEAD_LETTER('sensor-data', part, pos, 'malformed', fault, EXTRACT(EPOCH FROM arrived) * 1000, record) FROM received WHERE fault IS NOT NULL;
INSERT INTO counts
SELECT 'received, malformed', COUNT(*), COUNT(fault)
FROM TABLE(TUMBLE(TABLE received, DESCRIPTOR(t), INTERVAL '73000' DAY(5))) GROUP BY window_start, window_end;
END;
