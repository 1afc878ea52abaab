package headrace.flink;

import java.util.TreeMap;

/**
 * {@code HR_DURATION(times ARRAY<BIGINT>, ARRAY<BIGINT> or ARRAY<BOOLEAN>) -> BIGINT}: the milliseconds with good quality, or for which a condition is true.
 */
public class HrDuration extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the milliseconds with good quality; NULL if there is no reading. */
    public Long eval(Long[] times, Long[] qualities) {
        TreeMap<Long, Long> readings = InTime.ordered(times, qualities, Long::compare);
        return readings.isEmpty() ? null : (Long) InTime.good(readings);
    }

    /** Returns the milliseconds for which the condition is true; NULL if there is no reading. */
    public Long eval(Long[] times, Boolean[] condition) {
        TreeMap<Long, Boolean> readings = InTime.ordered(times, condition, Boolean::compare);
        long[] sum = new long[1];
        InTime.between(readings, (value, next, milliseconds) -> sum[0] += Boolean.TRUE.equals(value) ? milliseconds : 0);
        return readings.isEmpty() ? null : (Long) sum[0];
    }
}
