package headrace.flink;

import java.util.Arrays;

/**
 * {@code HR_PLACES(INT) -> ARRAY<INT>}: the places of so many elements, from 1 on. An ARRAY of ROWs is unnested by them: Flink's own
 * UNNEST makes a column of each field, and fails at a ROW that is NULL.
 */
public class HrPlaces extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the places, NULL for NULL. */
    public Integer[] eval(Integer count) {
        if (count == null) {
            return null;
        }
        Integer[] places = new Integer[count];
        Arrays.setAll(places, at -> at + 1);
        return places;
    }
}
