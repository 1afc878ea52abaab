package headrace.flink;

import java.util.TreeMap;

/**
 * {@code HR_TIME_AVERAGE(times ARRAY<BIGINT>, values ARRAY<DOUBLE>, interpolation STRING) -> DOUBLE}: values weighted by the time for which they last.
 */
public class HrTimeAverage extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the average; NULL if no time counts. */
    public Double eval(Long[] times, Double[] values, String interpolation) {
        TreeMap<Long, Double> readings = InTime.ordered(times, values, Double::compare);
        if (readings.size() < 2) {
            return readings.isEmpty() ? null : readings.firstEntry().getValue();
        }
        boolean stepped = interpolation.equals("stepped");
        double[] area = new double[1];
        long[] counted = new long[1];
        InTime.between(readings, (value, next, milliseconds) -> {
            if (value != null && (stepped || next != null)) {
                area[0] += (stepped ? value : value / 2 + next / 2) * milliseconds;
                counted[0] += milliseconds;
            }
        });
        double average = area[0] / counted[0];
        return counted[0] > 0 && Double.isFinite(average) ? average : null;
    }
}
