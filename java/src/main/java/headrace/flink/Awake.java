package headrace.flink;

import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;

/**
 * Hands on what comes, but not that the input is idle: its last watermark goes on holding back whoever joins it with another input.
 *
 * <p>When all inputs of a job have been idle and records come again, Flink tells an operator of two inputs at one of them first. Until the
 * other is told too, that one's watermark alone would count, and what it has to say for that time would come too late.
 */
public class Awake<T> extends AbstractStreamOperator<T> implements OneInputStreamOperator<T, T> {
    private static final long serialVersionUID = 1;

    @Override
    public void processElement(StreamRecord<T> element) {
        output.collect(element);
    }

    @Override
    public void processWatermarkStatus(WatermarkStatus status) throws Exception {
        if (status.isActive()) {
            super.processWatermarkStatus(status);
        }
    }
}
