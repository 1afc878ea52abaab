package headrace.flink;

import headrace.reading.DeadLetter;

/** {@code HR_DEAD_LETTER(pipeline, topic, partition, offset, reason, detail, arrived_ms, raw) -> STRING}: a record set aside, as one line of JSON. */
public class HrDeadLetter extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the dead letter. */
    public String eval(String pipeline, String topic, Long partition, Long offset, String reason, String detail, Long arrivedMs, byte[] raw) {
        return DeadLetter.json(pipeline, topic, partition, offset, reason, detail, arrivedMs, raw);
    }
}
