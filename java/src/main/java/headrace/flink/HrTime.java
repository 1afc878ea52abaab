package headrace.flink;

import java.time.Instant;
import java.time.LocalDate;
import java.time.ZoneOffset;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.data.TimestampData;

/**
 * {@code HR_TIME(time, first STRING, last STRING [, latest]) -> TIMESTAMP_LTZ(3) NOT NULL}: a record's event time, to make watermarks of.
 *
 * <p>A record without one, or with one before {@code first}, not before {@code last} or after {@code latest}, has the millisecond before
 * {@code first}, which moves no watermark past any record.
 */
public class HrTime extends Scalar {
    private static final long serialVersionUID = 1;
    private transient String firstText;
    private transient String lastText;
    private transient long first;
    private transient long last;

    /** Returns the time, or one that moves no watermark. */
    public @DataTypeHint(value = "TIMESTAMP_LTZ(3) NOT NULL", bridgedTo = TimestampData.class) TimestampData eval(
            @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData time, String first, String last) {
        if (!first.equals(firstText) || !last.equals(lastText)) {
            this.first = milliseconds(first);
            this.last = milliseconds(last);
            firstText = first;
            lastText = last;
        }
        boolean within = time != null && time.getMillisecond() >= this.first && time.getMillisecond() < this.last;
        return within ? time : TimestampData.fromEpochMillis(this.first - 1);
    }

    /** Returns the time, or one that moves no watermark. */
    public @DataTypeHint(value = "TIMESTAMP_LTZ(3) NOT NULL", bridgedTo = TimestampData.class) TimestampData eval(
            @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData time,
            String first,
            String last,
            @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData latest) {
        return eval(time != null && latest != null && time.compareTo(latest) > 0 ? null : time, first, last);
    }

    private static long milliseconds(String date) {
        return date.length() == 10
                ? LocalDate.parse(date).atStartOfDay(ZoneOffset.UTC).toInstant().toEpochMilli()
                : Instant.parse(date).toEpochMilli();
    }
}
