package headrace.spark;

import headrace.reading.Memo;
import headrace.reading.Reader;
import headrace.reading.Schema;
import java.util.HashMap;
import java.util.Map;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.RowFactory;
import org.apache.spark.sql.api.java.UDF3;

/** {@link HrRead} with one more column, named by its third argument: a map of the undeclared fields that are not null. */
public class HrReadRest implements UDF3<byte[], String, String, Row> {
    private static final long serialVersionUID = 1;
    private static final ThreadLocal<Map<String, Memo<Row>>> MEMOS = ThreadLocal.withInitial(HashMap::new);

    @Override
    public Row call(byte[] raw, String schema, String rest) {
        if (raw == null) {
            return null;
        }
        String key = rest == null ? schema : schema + "\n" + rest;
        return MEMOS.get().computeIfAbsent(key, any -> memo(schema, rest != null)).read(raw);
    }

    private static Memo<Row> memo(String schema, boolean rest) {
        Reader reader = new Reader(Schema.parse(schema), rest, new SparkValues());
        return new Memo<>(raw -> {
            Object[] row = reader.read(raw);
            if (row != null) {
                return RowFactory.create(RowFactory.create(row), null);
            }
            return reader.malformed() == null ? null : RowFactory.create(null, reader.malformed());
        });
    }
}
