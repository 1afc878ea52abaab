package headrace.flink;

import java.util.TreeMap;

/** {@code HR_PERCENT_GOOD(times ARRAY<BIGINT>, qualities ARRAY<BIGINT>) -> DOUBLE}: the percentage of time with good quality. */
public class HrPercentGood extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the percentage; NULL if there is no reading. */
    public Double eval(Long[] times, Long[] qualities) {
        TreeMap<Long, Long> readings = InTime.ordered(times, qualities, Long::compare);
        if (readings.size() < 2) {
            return readings.isEmpty() ? null : InTime.isGood(readings.firstEntry().getValue()) ? 100.0 : 0.0;
        }
        return InTime.good(readings) * 100.0 / (readings.lastKey() - readings.firstKey());
    }
}
