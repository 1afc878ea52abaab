package headrace.reading;

import java.util.Map;

/** The forms that an engine has for values; BIGINT, DOUBLE and BOOLEAN are Java's own boxed ones everywhere. */
public interface Values {
    /** Returns the text of the UTF-8 bytes [from, to), which stay as they are. */
    Object text(byte[] utf8, int from, int to);

    /** Returns the time so many milliseconds after the epoch. */
    Object time(long ms);

    /** Returns the map of these entries, whose keys are texts of this engine. */
    Object map(Map<Object, Object> entries);

    /** Returns the array of these items. */
    Object array(Object[] items);

    /** Returns the row of these values. */
    Object row(Object[] values);
}
