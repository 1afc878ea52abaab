package headrace.spark;

import headrace.reading.TimePattern;
import java.time.Instant;
import org.apache.spark.sql.api.java.UDF2;

/** A text read as a time by a pattern; null where it is none. Spark's own reading knows fractions of one length or of any. */
public class HrTimestampAs implements UDF2<String, String, Instant> {
    private static final long serialVersionUID = 1;

    private transient volatile TimePattern last;

    @Override
    public Instant call(String value, String pattern) {
        if (value == null || pattern == null) {
            return null;
        }
        TimePattern read = TimePattern.of(pattern, last);
        last = read;
        Long ms = read.read(value);
        return ms == null ? null : Instant.ofEpochMilli(ms);
    }
}
