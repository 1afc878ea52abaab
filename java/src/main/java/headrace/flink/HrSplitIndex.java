package headrace.flink;

import headrace.reading.Parts;

/** {@code HR_SPLIT_INDEX(text, delimiter, number) -> STRING}: one part of a text, from 0. Flink's own splits at spaces where the delimiter is empty. */
public class HrSplitIndex extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the part. */
    public String eval(String text, String delimiter, Long number) {
        return text == null || delimiter == null || number == null ? null : Parts.at(text, delimiter, number);
    }
}
