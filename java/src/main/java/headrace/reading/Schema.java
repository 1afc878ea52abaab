package headrace.reading;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/** The columns of a stream, in order. */
public final class Schema {
    public final Column[] columns;

    private Schema(Column[] columns) {
        this.columns = columns;
    }

    /**
     * Reads a text such as {@code `equip_id` STRING NOT NULL, `data` MAP<STRING, STRING>}; names may stand in backticks.
     *
     * @throws IllegalArgumentException if it is none; it says where it goes wrong
     */
    public static Schema parse(String text) {
        Words words = new Words(text);
        List<Column> columns = new ArrayList<>();
        if (words.more()) {
            do {
                columns.add(words.column(true));
            } while (words.took(","));
        }
        if (words.more()) {
            throw words.wrong("',' or the end");
        }
        return new Schema(columns.toArray(new Column[0]));
    }

    /** A schema's text, read word by word. */
    private static final class Words {
        private final String text;
        private int at;

        Words(String text) {
            this.text = text;
        }

        boolean more() {
            while (at < text.length() && Character.isWhitespace(text.charAt(at))) {
                at++;
            }
            return at < text.length();
        }

        Column column(boolean mayBeNotNull) {
            String name = name();
            Type type = type();
            boolean notNull = mayBeNotNull && took("NOT");
            if (notNull) {
                take("NULL");
            }
            return new Column(name, type, !notNull);
        }

        private Type type() {
            String word = word("a type").toUpperCase(Locale.ROOT);
            switch (word) {
                case "BOOLEAN":
                case "BIGINT":
                case "DOUBLE":
                case "STRING":
                    return new Type(Type.Kind.valueOf(word), null, null);
                case "TIMESTAMP_LTZ":
                    take("(");
                    take("3");
                    take(")");
                    return new Type(Type.Kind.TIMESTAMP, null, null);
                case "MAP":
                    take("<");
                    take("STRING");
                    take(",");
                    return closed(new Type(Type.Kind.MAP, type(), null));
                case "ARRAY":
                    take("<");
                    return closed(new Type(Type.Kind.ARRAY, type(), null));
                case "ROW":
                    take("<");
                    List<Column> fields = new ArrayList<>();
                    do {
                        fields.add(column(false));
                    } while (took(","));
                    return closed(new Type(Type.Kind.ROW, null, fields.toArray(new Column[0])));
                default:
                    at -= word.length();
                    throw wrong("a type");
            }
        }

        private Type closed(Type type) {
            take(">");
            return type;
        }

        private String name() {
            if (!more() || text.charAt(at) != '`') {
                return word("a name");
            }
            StringBuilder name = new StringBuilder();
            for (at++; at < text.length(); at++) {
                if (text.charAt(at) != '`') {
                    name.append(text.charAt(at));
                } else if (text.startsWith("``", at)) {
                    name.append(text.charAt(at++));
                } else {
                    at++;
                    return name.toString();
                }
            }
            throw wrong("'`'");
        }

        private String word(String what) {
            int from = more() ? at : text.length();
            int to = from;
            while (to < text.length() && (Character.isLetterOrDigit(text.charAt(to)) || text.charAt(to) == '_')) {
                to++;
            }
            if (to == from) {
                throw wrong(what);
            }
            at = to;
            return text.substring(from, to);
        }

        boolean took(String word) {
            if (!more() || !text.regionMatches(true, at, word, 0, word.length())) {
                return false;
            }
            at += word.length();
            return true;
        }

        private void take(String word) {
            if (!took(word)) {
                throw wrong("'" + word + "'");
            }
        }

        IllegalArgumentException wrong(String expected) {
            return new IllegalArgumentException("schema '" + text + "' lacks " + expected + " at character " + at);
        }
    }
}
