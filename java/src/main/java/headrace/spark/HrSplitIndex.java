package headrace.spark;

import headrace.reading.Parts;
import org.apache.spark.sql.api.java.UDF3;

/** The part of a text of that number, from 0. */
public class HrSplitIndex implements UDF3<String, String, Long, String> {
    private static final long serialVersionUID = 1;

    @Override
    public String call(String text, String delimiter, Long number) {
        return text == null || delimiter == null || number == null ? null : Parts.at(text, delimiter, number);
    }
}
