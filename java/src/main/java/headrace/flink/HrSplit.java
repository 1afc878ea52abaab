package headrace.flink;

import headrace.reading.Parts;

/** {@code HR_SPLIT(text, delimiter) -> ARRAY<STRING>}: the parts of a text. Flink's own SPLIT cuts a character beyond 16 bits in two. */
public class HrSplit extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the parts. */
    public String[] eval(String text, String delimiter) {
        return text == null || delimiter == null ? null : Parts.of(text, delimiter);
    }
}
