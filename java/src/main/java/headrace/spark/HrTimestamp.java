package headrace.spark;

import headrace.reading.Text;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import org.apache.spark.sql.api.java.UDF1;

/** A text read as a time in ISO 8601, UTC unless it says otherwise; null where it is none. */
public class HrTimestamp implements UDF1<String, Instant> {
    private static final long serialVersionUID = 1;

    @Override
    public Instant call(String value) {
        Long ms = value == null ? null : new Text().asTime(value.getBytes(StandardCharsets.UTF_8));
        return ms == null ? null : Instant.ofEpochMilli(ms);
    }
}
