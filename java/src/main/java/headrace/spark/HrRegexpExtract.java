package headrace.spark;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.spark.sql.api.java.UDF3;

/** What a group of a regular expression matches; null where it matches nothing. Spark's own has an empty text for both. */
public class HrRegexpExtract implements UDF3<String, String, Integer, String> {
    private static final long serialVersionUID = 1;

    private transient volatile Pattern last;

    @Override
    public String call(String text, String pattern, Integer group) {
        if (text == null || pattern == null || group == null) {
            return null;
        }
        Pattern known = last;
        if (known == null || !known.pattern().equals(pattern)) {
            known = Pattern.compile(pattern);
            last = known;
        }
        Matcher match = known.matcher(text);
        return group <= match.groupCount() && match.find() ? match.group(group) : null;
    }
}
