package headrace.flink;

import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.functions.AggregateFunction;

/**
 * {@code HR_BEFORE(time) OVER (… ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) -> TIMESTAMP_LTZ(3)}: the greatest time of the rows before
 * the current one; NULL if there is none.
 *
 * <p>Flink takes no window that ends before the current row, and of {@code MAX} up to it nobody can say whether that is the row's own time.
 */
@FunctionHint(
        accumulator = @DataTypeHint(bridgedTo = HrBefore.Greatest.class),
        output = @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class))
public class HrBefore extends AggregateFunction<TimestampData, HrBefore.Greatest> {
    private static final long serialVersionUID = 1;

    /** The greatest time in milliseconds since the epoch, with and without the last row. */
    public static class Greatest {
        public long with = Long.MIN_VALUE;
        public long without = Long.MIN_VALUE;
    }

    @Override
    public Greatest createAccumulator() {
        return new Greatest();
    }

    /** Takes a row. */
    public void accumulate(Greatest greatest, @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class) TimestampData time) {
        greatest.without = greatest.with;
        if (time != null) {
            greatest.with = Math.max(greatest.with, time.getMillisecond());
        }
    }

    @Override
    public TimestampData getValue(Greatest greatest) {
        return greatest.without == Long.MIN_VALUE ? null : TimestampData.fromEpochMillis(greatest.without);
    }
}
