package headrace.flink;

import headrace.reading.Text;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.data.StringData;

/** {@code HR_BIGINT(text) -> BIGINT}: a text read by headrace's rule, NULL where it is no such number. Flink's own cast makes 7 of '7d' and 5 of '5.7'. */
public class HrBigint extends Scalar {
    private static final long serialVersionUID = 1;

    private transient Text text;

    /** Returns the number. */
    public Long eval(@DataTypeHint(value = "STRING", bridgedTo = StringData.class) StringData value) {
        if (text == null) {
            text = new Text();
        }
        return value == null ? null : text.asBigint(value.toBytes());
    }
}
