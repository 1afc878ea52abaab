package headrace.spark;

import headrace.reading.TimePattern;
import java.time.Instant;
import java.time.ZoneId;
import org.apache.spark.sql.api.java.UDF3;

/** A text read by a pattern as a local time of a zone; null where it is none. */
public class HrTimestampIn implements UDF3<String, String, String, Instant> {
    private static final long serialVersionUID = 1;

    private transient volatile TimePattern last;
    private transient volatile ZoneId lastZone;

    @Override
    public Instant call(String value, String pattern, String zone) {
        if (value == null || pattern == null || zone == null) {
            return null;
        }
        TimePattern read = TimePattern.of(pattern, last);
        ZoneId in = TimePattern.zone(zone, lastZone);
        last = read;
        lastZone = in;
        Long ms = read.read(value, in);
        return ms == null ? null : Instant.ofEpochMilli(ms);
    }
}
