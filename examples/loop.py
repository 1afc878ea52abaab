import headrace as hr

@hr.pipeline("loop", version="1")
def loop(minutes: int = 1):
    readings = hr.stream("loop", schema={"datetime": "STRING NOT NULL"}, rest="sensors",
                         event_time="TO_TIMESTAMP_LTZ(datetime, 'yyyy-MM-dd HH:mm:ss')", watermark=hr.seconds(10))
    values = readings.unnest("sensors", key="sensor", value="raw").derive(value="TRY_CAST(raw AS DOUBLE)").where("value IS NOT NULL")
    return {"loop-statistics": values.window(hr.tumbling(hr.minutes(minutes)), by=["sensor"]).aggregate(
        count="COUNT(*)", min="MIN(value)", max="MAX(value)", mean="AVG(value)", std_dev="STDDEV_POP(value)")}
