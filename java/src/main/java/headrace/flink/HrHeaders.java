package headrace.flink;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;

/** {@code HR_HEADERS(MAP<STRING, BYTES>) -> MAP<STRING, STRING>}: a record's headers, by name; NULL where a value is not UTF-8. */
public class HrHeaders extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the headers. */
    public Map<String, String> eval(Map<String, byte[]> headers) {
        if (headers == null) {
            return null;
        }
        Map<String, String> texts = new LinkedHashMap<>();
        new TreeMap<>(headers).forEach((name, value) -> texts.put(name, HrUtf8.textOf(value)));
        return texts;
    }
}
