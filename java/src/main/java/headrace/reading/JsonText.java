package headrace.reading;

/** Text as JSON. */
final class JsonText {
    private JsonText() {}

    /** Appends a text in quotes, nothing escaped that JSON lets stand. */
    static void quote(String text, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char one = text.charAt(i);
            int which = "\"\\\b\f\n\r\t".indexOf(one);
            if (which >= 0) {
                out.append('\\').append("\"\\bfnrt".charAt(which));
            } else if (one < ' ') {
                out.append(String.format("\\u%04x", (int) one));
            } else {
                out.append(one);
            }
        }
        out.append('"');
    }
}
