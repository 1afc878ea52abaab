package headrace.flink;

import java.util.Objects;
import org.apache.flink.table.functions.ScalarFunction;

/**
 * {@code HR_FIRST(partition INT, number BIGINT) -> BOOLEAN}: whether this row is the first of its record, when a record became several.
 *
 * <p>It is where the pair differs from that of the call before. The rows that an operator makes of one record follow each
 * other, and no checkpoint barrier falls between them, so that there is nothing to keep in state. Not deterministic: Flink must
 * neither call it less often than there are rows, nor elsewhere than where it stands.
 */
public class HrFirst extends ScalarFunction {
    private static final long serialVersionUID = 1;

    private transient boolean called;
    private transient Integer partition;
    private transient Long number;

    /** Returns whether the pair is another than before. */
    public Boolean eval(Integer partition, Long number) {
        boolean first = !called || !Objects.equals(partition, this.partition) || !Objects.equals(number, this.number);
        called = true;
        this.partition = partition;
        this.number = number;
        return first;
    }

    @Override
    public boolean isDeterministic() {
        return false;
    }
}
