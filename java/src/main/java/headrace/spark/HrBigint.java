package headrace.spark;

import headrace.reading.Text;
import java.nio.charset.StandardCharsets;
import org.apache.spark.sql.api.java.UDF1;

/** A text read as a BIGINT by headrace's rule; null where it cannot be. */
public class HrBigint implements UDF1<String, Long> {
    private static final long serialVersionUID = 1;

    @Override
    public Long call(String value) {
        return value == null ? null : new Text().asBigint(value.getBytes(StandardCharsets.UTF_8));
    }
}
