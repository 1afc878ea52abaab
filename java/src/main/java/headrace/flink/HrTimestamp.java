package headrace.flink;

import headrace.reading.Text;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.functions.ScalarFunction;

/** {@code HR_TIMESTAMP(text) -> TIMESTAMP_LTZ(3)}: a time in ISO 8601, UTC unless it says otherwise; NULL where it is none. */
public class HrTimestamp extends ScalarFunction {
    private static final long serialVersionUID = 1;

    private transient Text text;

    /** Returns the time. */
    public @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData eval(
            @DataTypeHint(value = "STRING", bridgedTo = StringData.class) StringData value) {
        if (text == null) {
            text = new Text();
        }
        Long ms = value == null ? null : text.asTime(value.toBytes());
        return ms == null ? null : TimestampData.fromEpochMillis(ms);
    }
}
