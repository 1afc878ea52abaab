package headrace.reading;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads JSON records under a schema by headrace's rule, as headrace.kernels.reading does in Python. For one thread.
 *
 * <p>A value that is there and cannot be read as its type makes the record malformed; inside a MAP it is NULL. A field that
 * is absent is NULL, of a repeated one the last counts. Fields that no column asks for are checked and not kept.
 */
public final class Reader {
    private static final Object UNREADABLE = new Object();
    private static final byte[] TRUE = "true".getBytes(StandardCharsets.US_ASCII);
    private static final byte[] FALSE = "false".getBytes(StandardCharsets.US_ASCII);
    private static final Type TEXT = new Type(Type.Kind.STRING, null, null);

    private final Column[] columns;
    private final boolean rest;
    private final Values values;
    private final Scanner scanner = new Scanner();
    private final Decimal decimal = new Decimal();
    private final int[] froms;
    private final int[] tos;
    private String malformed;

    /** Makes a reader whose values have the forms {@code values}; with {@code rest} a last column maps the undeclared fields that are not null. */
    public Reader(Schema schema, boolean rest, Values values) {
        this.columns = schema.columns;
        this.rest = rest;
        this.values = values;
        this.froms = new int[columns.length];
        this.tos = new int[columns.length];
    }

    /** Returns the values of a record's columns, or null if it is blank, and so no record, or {@link #malformed}. */
    public Object[] read(byte[] raw) {
        malformed = null;
        if (blank(raw)) {
            return null;
        }
        scanner.over(raw, 0, raw.length);
        try {
            Object[] row = record();
            int bad = scanner.beyondAscii ? Utf8.firstBad(raw, 0, raw.length) : -1;
            malformed = bad >= 0 ? notUtf8(raw, bad) : row == null ? malformed : flaw(row);
            return malformed == null ? row : null;
        } catch (Malformed error) {
            int bad = Utf8.firstBad(raw, 0, raw.length);
            malformed = bad >= 0 ? notUtf8(raw, bad) : error.getMessage();
            return null;
        }
    }

    /** Why the last record is malformed, or null if it is not. */
    public String malformed() {
        return malformed;
    }

    private static boolean blank(byte[] raw) {
        int at = 0;
        while (at < raw.length && Utf8.white(raw[at])) {
            at++;
        }
        return at == raw.length;
    }

    private static String notUtf8(byte[] raw, int bad) {
        return String.format("not UTF-8: byte 0x%02x at %d", raw[bad], bad);
    }

    private Object[] record() {
        int first = scanner.peek();
        if (first != '{') {
            scanner.skip(0);
            end();
            malformed = "not a JSON object but " + kind(first);
            return null;
        }
        Object[] row = new Object[columns.length + (rest ? 1 : 0)];
        Map<Object, Object> others = rest ? new LinkedHashMap<>() : null;
        fields(columns, row, others, 0, true);
        end();
        if (rest) {
            others.values().removeIf(value -> value == null);
            others.replaceAll((key, value) -> value == UNREADABLE ? null : value);
            row[columns.length] = values.map(others);
        }
        return row;
    }

    private void end() {
        if (!scanner.finished()) {
            throw scanner.wrong("trailing characters");
        }
    }

    private static String kind(int first) {
        switch (first) {
            case 'n':
                return "null";
            case 't':
            case 'f':
                return "a boolean";
            case '"':
                return "a text";
            case '[':
                return "an array";
            default:
                return "a number";
        }
    }

    /** Returns what makes a record malformed that is JSON, or null. */
    private String flaw(Object[] row) {
        for (int i = 0; i < columns.length; i++) {
            if (row[i] == UNREADABLE) {
                return "field " + Tree.shown(columns[i].name) + " is not a " + columns[i].type.kind.sqlName() + ": "
                    + Tree.shown(scanner.in, froms[i], tos[i]);
            }
        }
        for (int i = 0; i < columns.length; i++) {
            if (row[i] == null && !columns[i].nullable) {
                return "NULL in NOT NULL column " + Tree.shown(columns[i].name);
            }
        }
        return null;
    }

    /** Reads an object's fields into {@code row}, and those that are not among them into {@code others}, if there is one. */
    private void fields(Column[] wanted, Object[] row, Map<Object, Object> others, int depth, boolean outermost) {
        if (!scanner.enter('}', depth)) {
            return;
        }
        int next = 0;
        do {
            scanner.key();
            byte[] key = scanner.in;
            int from = scanner.from;
            int to = scanner.to;
            if (scanner.escaped) {
                key = scanner.unescaped();
                from = 0;
                to = key.length;
            }
            int place = place(wanted, key, from, to, next);
            if (place >= 0) {
                next = place + 1;
                scanner.peek();
                int start = scanner.at;
                row[place] = value(wanted[place].type, depth + 1);
                if (outermost) {
                    froms[place] = start;
                    tos[place] = scanner.at;
                }
            } else if (others != null) {
                Object name = values.text(key, from, to);
                others.put(name, value(TEXT, depth + 1));
            } else {
                scanner.skip(depth + 1);
            }
        } while (scanner.another('}'));
    }

    /** Returns which of the columns has the key, looked for from {@code next} on, where it mostly is; or -1. */
    private static int place(Column[] wanted, byte[] key, int from, int to, int next) {
        for (int i = 0; i < wanted.length; i++) {
            int place = next + i < wanted.length ? next + i : next + i - wanted.length;
            byte[] name = wanted[place].key;
            if (name.length == to - from && Arrays.equals(name, 0, name.length, key, from, to)) {
                return place;
            }
        }
        return -1;
    }

    private Object value(Type type, int depth) {
        Type.Kind kind = type.kind;
        int first = scanner.peek();
        switch (first) {
            case '"':
                scanner.string();
                return scanner.escaped ? unescaped(kind) : text(kind, scanner.in, scanner.from, scanner.to);
            case '{':
                return kind == Type.Kind.MAP ? map(type.element, depth) : kind == Type.Kind.ROW ? row(type.fields, depth) : container(kind, depth);
            case '[':
                return kind == Type.Kind.ARRAY ? array(type.element, depth) : container(kind, depth);
            case 't':
                scanner.word("true");
                return kind == Type.Kind.BOOLEAN ? Boolean.TRUE : kind == Type.Kind.STRING ? values.text(TRUE, 0, TRUE.length) : UNREADABLE;
            case 'f':
                scanner.word("false");
                return kind == Type.Kind.BOOLEAN ? Boolean.FALSE : kind == Type.Kind.STRING ? values.text(FALSE, 0, FALSE.length) : UNREADABLE;
            case 'n':
                scanner.word("null");
                return null;
            default:
                scanner.number();
                return number(kind);
        }
    }

    private Object unescaped(Type.Kind kind) {
        byte[] text = scanner.unescaped();
        return text(kind, text, 0, text.length);
    }

    private Object text(Type.Kind kind, byte[] bytes, int from, int to) {
        switch (kind) {
            case STRING:
                return values.text(bytes, from, to);
            case DOUBLE:
                return decimal.read(bytes, from, to) ? finite(decimal.toDouble()) : UNREADABLE;
            case BIGINT:
                return orUnreadable(decimal.read(bytes, from, to) ? decimal.toBigint() : null);
            case BOOLEAN:
                return orUnreadable(Scalars.bool(bytes, from, to));
            case TIMESTAMP:
                Long time = Scalars.time(bytes, from, to);
                return time == null ? UNREADABLE : values.time(time);
            default:
                return UNREADABLE;
        }
    }

    private Object number(Type.Kind kind) {
        int from = scanner.from;
        int to = scanner.to;
        boolean negativeZero = scanner.whole && to - from == 2 && scanner.in[from] == '-' && scanner.in[from + 1] == '0';
        if (negativeZero) {
            from++; // an integer, and of those there is one zero
        }
        switch (kind) {
            case STRING:
                if (scanner.whole) {
                    return values.text(scanner.in, from, to);
                }
                decimal.read(scanner.in, from, to);
                return ofString(decimal.shortest());
            case DOUBLE:
                decimal.read(scanner.in, from, to);
                return finite(decimal.toDouble());
            case BIGINT:
                decimal.read(scanner.in, from, to);
                return orUnreadable(decimal.toBigint());
            default:
                return UNREADABLE;
        }
    }

    private static Object finite(double value) {
        return Double.isInfinite(value) ? UNREADABLE : (Object) value;
    }

    private static Object orUnreadable(Object value) {
        return value == null ? UNREADABLE : value;
    }

    private Object ofString(String text) {
        if (text == null) {
            return UNREADABLE;
        }
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        return values.text(bytes, 0, bytes.length);
    }

    private Object container(Type.Kind kind, int depth) {
        int start = scanner.at;
        scanner.skip(depth);
        if (kind != Type.Kind.STRING) {
            return UNREADABLE;
        }
        if (scanner.beyondAscii && Utf8.firstBad(scanner.in, start, scanner.at) >= 0) {
            return UNREADABLE; // the record will be found to be no UTF-8
        }
        return ofString(Tree.compact(scanner.in, start, scanner.at));
    }

    private Object map(Type element, int depth) {
        Map<Object, Object> entries = new LinkedHashMap<>();
        if (scanner.enter('}', depth)) {
            do {
                scanner.key();
                Object key;
                if (scanner.escaped) {
                    byte[] text = scanner.unescaped();
                    key = values.text(text, 0, text.length);
                } else {
                    key = values.text(scanner.in, scanner.from, scanner.to);
                }
                Object value = value(element, depth + 1);
                entries.put(key, value == UNREADABLE ? null : value);
            } while (scanner.another('}'));
        }
        return values.map(entries);
    }

    private Object array(Type element, int depth) {
        List<Object> items = new ArrayList<>();
        boolean readable = true;
        if (scanner.enter(']', depth)) {
            do {
                Object item = value(element, depth + 1);
                readable &= item != UNREADABLE;
                items.add(item);
            } while (scanner.another(']'));
        }
        return readable ? values.array(items.toArray()) : UNREADABLE;
    }

    private Object row(Column[] wanted, int depth) {
        Object[] row = new Object[wanted.length];
        fields(wanted, row, null, depth, false);
        for (Object value : row) {
            if (value == UNREADABLE) {
                return UNREADABLE;
            }
        }
        return values.row(row);
    }
}
