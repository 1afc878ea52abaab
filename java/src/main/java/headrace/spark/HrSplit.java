package headrace.spark;

import headrace.reading.Parts;
import org.apache.spark.sql.api.java.UDF2;

/** The parts of a text between occurrences of a delimiter. */
public class HrSplit implements UDF2<String, String, String[]> {
    private static final long serialVersionUID = 1;

    @Override
    public String[] call(String text, String delimiter) {
        return text == null || delimiter == null ? null : Parts.of(text, delimiter);
    }
}
