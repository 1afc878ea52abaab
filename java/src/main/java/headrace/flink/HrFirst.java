package headrace.flink;

import java.util.HashMap;
import java.util.Map;

/**
 * {@code HR_FIRST(partition INT, number BIGINT [, topic STRING]) -> BOOLEAN}: whether this row is the first of its record, when a record became several.
 *
 * <p>It is where the number differs from the last one of that partition. The rows that an operator makes of one record follow each
 * other, and no checkpoint barrier falls between them, so that there is nothing to keep in state. Not deterministic: Flink must
 * neither call it less often than there are rows, nor elsewhere than where it stands.
 */
public class HrFirst extends Scalar {
    private static final long serialVersionUID = 1;

    private transient Map<Object, Long> last;

    /** Returns whether the number is another than before in the partition. */
    public Boolean eval(Integer partition, Long number) {
        return isFirst(partition, number);
    }

    /** Returns whether the number is another than before in the partition of the topic. */
    public Boolean eval(Integer partition, Long number, String topic) {
        return isFirst(topic + "/" + partition, number);
    }

    private Boolean isFirst(Object partition, Long number) {
        if (last == null) {
            last = new HashMap<>();
        }
        return !number.equals(last.put(partition, number));
    }

    @Override
    public boolean isDeterministic() {
        return false;
    }
}
