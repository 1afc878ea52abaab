package headrace.flink;

import headrace.reading.Cut;

/** {@code HR_TRUNCATE(x DOUBLE, decimals INT) -> DOUBLE}: a number cut off. Flink's own TRUNCATE ends the job at one of 21 digits. */
public class HrTruncate extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the number cut off. */
    public Double eval(Double x, Integer decimals) {
        return x == null || decimals == null ? null : Double.valueOf(Cut.off(x, decimals));
    }
}
