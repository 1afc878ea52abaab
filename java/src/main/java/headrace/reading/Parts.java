package headrace.reading;

import java.util.ArrayList;
import java.util.List;

/** The parts of a text between occurrences of a delimiter. */
public final class Parts {
    private Parts() {}

    /** Returns the parts, those at the ends too if they are empty; none of an empty text, and the characters where the delimiter is empty. */
    public static String[] of(String text, String delimiter) {
        List<String> parts = new ArrayList<>();
        if (delimiter.isEmpty()) {
            text.codePoints().forEach(letter -> parts.add(Character.toString(letter)));
        } else if (!text.isEmpty()) {
            int start = 0;
            for (int end = text.indexOf(delimiter); end >= 0; end = text.indexOf(delimiter, start)) {
                parts.add(text.substring(start, end));
                start = end + delimiter.length();
            }
            parts.add(text.substring(start));
        }
        return parts.toArray(new String[0]);
    }

    /** Returns the part of that number, from 0; null if there is none, and where text or delimiter is empty. */
    public static String at(String text, String delimiter, long number) {
        if (text.isEmpty() || delimiter.isEmpty() || number < 0) {
            return null;
        }
        int start = 0;
        int end = text.indexOf(delimiter);
        for (long passed = 0; passed < number; passed++) {
            if (end < 0) {
                return null;
            }
            start = end + delimiter.length();
            end = text.indexOf(delimiter, start);
        }
        return end < 0 ? text.substring(start) : text.substring(start, end);
    }
}
