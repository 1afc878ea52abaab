package headrace.spark;

import org.apache.spark.sql.Row;
import org.apache.spark.sql.api.java.UDF2;

/**
 * {@code hr_read(raw BINARY, schema STRING) -> STRUCT<row STRUCT<…>, malformed STRING>}: a JSON record by headrace's rule.
 *
 * <p>The result is NULL for a blank line, which is no record; {@code row} is NULL and {@code malformed} says why where the
 * record cannot be read.
 */
public class HrRead implements UDF2<byte[], String, Row> {
    private static final long serialVersionUID = 1;

    private final HrReadRest reading = new HrReadRest();

    @Override
    public Row call(byte[] raw, String schema) {
        return reading.call(raw, schema, null);
    }
}
