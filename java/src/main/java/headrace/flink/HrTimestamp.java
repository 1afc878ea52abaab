package headrace.flink;

import headrace.reading.Text;
import headrace.reading.TimePattern;
import java.time.ZoneId;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;

/**
 * {@code HR_TIMESTAMP(text [, pattern [, zone]]) -> TIMESTAMP_LTZ(3)}: a time in ISO 8601, UTC unless it says otherwise, or in the pattern and the local
 * time of the zone; NULL where it is none.
 *
 * <p>Flink's own TO_TIMESTAMP_LTZ takes a text that does not fit its pattern for ISO 8601, and makes the 1st of March of the 30th of February.
 */
public class HrTimestamp extends Scalar {
    private static final long serialVersionUID = 1;

    private transient Text text;
    private transient TimePattern last;
    private transient ZoneId lastZone;

    /** Returns the time. */
    public @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData eval(
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class) StringData value) {
        if (text == null) {
            text = new Text();
        }
        Long ms = value == null ? null : text.asTime(value.toBytes());
        return ms == null ? null : TimestampData.fromEpochMillis(ms);
    }

    /** Returns the time. */
    public @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData eval(
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class) StringData value, String pattern) {
        if (value == null || pattern == null) {
            return null;
        }
        last = TimePattern.of(pattern, last);
        Long ms = last.read(value.toString());
        return ms == null ? null : TimestampData.fromEpochMillis(ms);
    }

    /** Returns the time. */
    public @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData eval(
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class) StringData value, String pattern, String zone) {
        if (value == null || pattern == null || zone == null) {
            return null;
        }
        last = TimePattern.of(pattern, last);
        lastZone = TimePattern.zone(zone, lastZone);
        Long ms = last.read(value.toString(), lastZone);
        return ms == null ? null : TimestampData.fromEpochMillis(ms);
    }
}
