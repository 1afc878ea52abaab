package headrace.spark;

import headrace.reading.Text;
import java.nio.charset.StandardCharsets;
import org.apache.spark.sql.api.java.UDF1;

/** A text read as a DOUBLE by headrace's rule; null where it cannot be. */
public class HrDouble implements UDF1<String, Double> {
    private static final long serialVersionUID = 1;

    @Override
    public Double call(String value) {
        return value == null ? null : new Text().asDouble(value.getBytes(StandardCharsets.UTF_8));
    }
}
