package headrace.flink;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Arrays;
import java.util.Comparator;

/** {@code HR_TRANSITIONS(times ARRAY<BIGINT>, values) -> BIGINT}: how often a value differs from that of the reading before. */
public class HrTransitions extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the number of changes of whole numbers. */
    public Long eval(Long[] times, Long[] values) {
        return changes(times, values, Comparator.naturalOrder());
    }

    /** Returns the number of changes of numbers. */
    public Long eval(Long[] times, Double[] values) {
        return changes(times, values, (one, other) -> one < other ? -1 : one > other ? 1 : 0);
    }

    /** Returns the number of changes of truth values. */
    public Long eval(Long[] times, Boolean[] values) {
        return changes(times, values, Comparator.naturalOrder());
    }

    /** Returns the number of changes of texts, which are ordered by their bytes in UTF-8. */
    public Long eval(Long[] times, String[] values) {
        return changes(times, values, (one, other) -> Arrays.compareUnsigned(one.getBytes(StandardCharsets.UTF_8), other.getBytes(StandardCharsets.UTF_8)));
    }

    /** Returns the number of changes of timestamps. */
    public Long eval(Long[] times, Instant[] values) {
        return changes(times, values, Comparator.naturalOrder());
    }

    private static <T> Long changes(Long[] times, T[] values, Comparator<T> order) {
        long changes = 0;
        T before = null;
        for (T value : InTime.ordered(times, values, order).values()) {
            if (value != null) {
                changes += before != null && order.compare(before, value) != 0 ? 1 : 0;
                before = value;
            }
        }
        return before == null ? null : (Long) changes;
    }
}
