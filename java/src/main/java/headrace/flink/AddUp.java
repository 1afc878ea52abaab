package headrace.flink;

import java.util.HashMap;
import java.util.Map;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;

/**
 * Adds up rows of a topic's name and counts by topic, and hands the sums on before each checkpoint and at the end of the input.
 *
 * <p>Nothing is left in it at a checkpoint, so there is no state to keep. A sum is NULL if all that it is of are.
 */
public class AddUp extends AbstractStreamOperator<RowData> implements OneInputStreamOperator<RowData, RowData> {
    private static final long serialVersionUID = 1;

    private transient Map<StringData, Long[]> sums;

    @Override
    public void open() throws Exception {
        super.open();
        sums = new HashMap<>();
    }

    @Override
    public void processElement(StreamRecord<RowData> element) {
        RowData row = element.getValue();
        Long[] counts = sums.get(row.getString(0));
        if (counts == null) {
            counts = new Long[row.getArity() - 1];
            sums.put(StringData.fromBytes(row.getString(0).toBytes()), counts); // the row's memory may be used again
        }
        for (int place = 0; place < counts.length; place++) {
            if (!row.isNullAt(place + 1)) {
                counts[place] = (counts[place] == null ? 0 : counts[place]) + row.getLong(place + 1);
            }
        }
    }

    @Override
    public void prepareSnapshotPreBarrier(long checkpoint) {
        handOn();
    }

    @Override
    public void finish() throws Exception {
        handOn();
        super.finish();
    }

    private void handOn() {
        sums.forEach((topic, counts) -> {
            GenericRowData row = new GenericRowData(counts.length + 1);
            row.setField(0, topic);
            for (int place = 0; place < counts.length; place++) {
                row.setField(place + 1, counts[place]);
            }
            output.collect(new StreamRecord<>(row));
        });
        sums.clear();
    }
}
