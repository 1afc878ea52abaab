package headrace.flink;

import headrace.reading.Values;
import java.util.Map;
import org.apache.flink.core.memory.MemorySegment;
import org.apache.flink.core.memory.MemorySegmentFactory;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericMapData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.data.binary.BinaryStringData;

/** Flink's own forms of values, so that it converts nothing. Texts share the record's bytes. */
final class FlinkValues implements Values {
    private byte[] bytes;
    private MemorySegment[] segments;

    @Override
    public Object text(byte[] utf8, int from, int to) {
        if (utf8 != bytes) {
            bytes = utf8;
            segments = new MemorySegment[] {MemorySegmentFactory.wrap(utf8)};
        }
        return new BinaryStringData(segments, from, to - from);
    }

    @Override
    public Object time(long ms) {
        return TimestampData.fromEpochMillis(ms);
    }

    @Override
    public Object map(Map<Object, Object> entries) {
        return new GenericMapData(entries);
    }

    @Override
    public Object array(Object[] items) {
        return new GenericArrayData(items);
    }

    @Override
    public Object row(Object[] values) {
        return GenericRowData.of(values);
    }
}
