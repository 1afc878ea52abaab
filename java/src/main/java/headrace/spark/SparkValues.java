package headrace.spark;

import headrace.reading.Values;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Map;
import org.apache.spark.sql.RowFactory;

/** The forms of values that Spark converts to its own. */
final class SparkValues implements Values {
    @Override
    public Object text(byte[] utf8, int from, int to) {
        return new String(utf8, from, to - from, StandardCharsets.UTF_8);
    }

    @Override
    public Object time(long ms) {
        return Instant.ofEpochMilli(ms);
    }

    @Override
    public Object map(Map<Object, Object> entries) {
        return entries;
    }

    @Override
    public Object array(Object[] items) {
        return items;
    }

    @Override
    public Object row(Object[] values) {
        return RowFactory.create(values);
    }
}
