package headrace.reading;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A value that is known to be JSON, as a tree: for what is written again, as compact JSON or in an error. */
final class Tree {
    private static final int LONGEST = 80;

    /** A number's text. */
    private static final class Figures {
        final Decimal decimal = new Decimal();
        final boolean whole;

        Figures(Scanner scanner) {
            whole = scanner.whole;
            decimal.read(scanner.in, scanner.from, scanner.to);
        }

        /** Its digits if it is an integer. */
        String text() {
            String text = decimal.text();
            return whole && text.equals("-0") ? "0" : text;
        }
    }

    private Tree() {}

    private static Object of(byte[] bytes, int from, int to) {
        Scanner scanner = new Scanner();
        scanner.over(bytes, from, to);
        return value(scanner);
    }

    private static Object value(Scanner scanner) {
        switch (scanner.peek()) {
            case '"':
                scanner.string();
                return text(scanner);
            case '{':
                Map<String, Object> object = new LinkedHashMap<>();
                if (scanner.enter('}', 0)) {
                    do {
                        scanner.key();
                        String key = text(scanner);
                        object.put(key, value(scanner));
                    } while (scanner.another('}'));
                }
                return object;
            case '[':
                List<Object> array = new ArrayList<>();
                if (scanner.enter(']', 0)) {
                    do {
                        array.add(value(scanner));
                    } while (scanner.another(']'));
                }
                return array;
            case 't':
                scanner.word("true");
                return true;
            case 'f':
                scanner.word("false");
                return false;
            case 'n':
                scanner.word("null");
                return null;
            default:
                scanner.number();
                return new Figures(scanner);
        }
    }

    private static String text(Scanner scanner) {
        return scanner.escaped
            ? new String(scanner.unescaped(), StandardCharsets.UTF_8)
            : new String(scanner.in, scanner.from, scanner.to - scanner.from, StandardCharsets.UTF_8);
    }

    /** Returns a value's JSON with no white space, its numbers as STRING would have them. */
    static String compact(byte[] bytes, int from, int to) {
        StringBuilder out = new StringBuilder(to - from);
        compact(of(bytes, from, to), out);
        return out.toString();
    }

    private static void compact(Object value, StringBuilder out) {
        if (value instanceof Map) {
            out.append('{');
            for (Iterator<? extends Map.Entry<?, ?>> entries = ((Map<?, ?>) value).entrySet().iterator(); entries.hasNext(); ) {
                Map.Entry<?, ?> entry = entries.next();
                JsonText.quote((String) entry.getKey(), out);
                compact(entry.getValue(), out.append(':'));
                out.append(entries.hasNext() ? "," : "");
            }
            out.append('}');
        } else if (value instanceof List) {
            out.append('[');
            for (Iterator<?> items = ((List<?>) value).iterator(); items.hasNext(); ) {
                compact(items.next(), out);
                out.append(items.hasNext() ? "," : "");
            }
            out.append(']');
        } else if (value instanceof String) {
            JsonText.quote((String) value, out);
        } else if (value instanceof Figures) {
            Figures number = (Figures) value;
            String shortest = number.whole ? null : number.decimal.shortest();
            out.append(shortest == null ? number.text() : shortest);
        } else {
            out.append(value);
        }
    }

    /** Returns a value as an error shows it: as Python writes it, cut short if it is long. */
    static String shown(byte[] bytes, int from, int to) {
        StringBuilder out = new StringBuilder();
        Object value = of(bytes, from, to);
        if (value instanceof Figures) {
            out.append(((Figures) value).text());
        } else {
            show(value, out);
        }
        return out.codePointCount(0, out.length()) <= LONGEST ? out.toString() : out.substring(0, out.offsetByCodePoints(0, LONGEST - 3)) + "…";
    }

    private static void show(Object value, StringBuilder out) {
        if (value instanceof Map) {
            out.append('{');
            for (Iterator<? extends Map.Entry<?, ?>> entries = ((Map<?, ?>) value).entrySet().iterator(); entries.hasNext(); ) {
                Map.Entry<?, ?> entry = entries.next();
                show(entry.getKey(), out);
                show(entry.getValue(), out.append(": "));
                out.append(entries.hasNext() ? ", " : "");
            }
            out.append('}');
        } else if (value instanceof List) {
            out.append('[');
            for (Iterator<?> items = ((List<?>) value).iterator(); items.hasNext(); ) {
                show(items.next(), out);
                out.append(items.hasNext() ? ", " : "");
            }
            out.append(']');
        } else if (value instanceof String) {
            show((String) value, out);
        } else if (value instanceof Figures) {
            Figures number = (Figures) value;
            out.append(number.whole ? number.text() : "'" + number.text() + "'");
        } else {
            out.append(value == null ? "None" : value.equals(true) ? "True" : "False");
        }
    }

    /** Returns a name as an error shows it. */
    static String shown(String name) {
        StringBuilder out = new StringBuilder();
        show(name, out);
        return out.toString();
    }

    private static void show(String text, StringBuilder out) {
        char quote = text.indexOf('\'') >= 0 && text.indexOf('"') < 0 ? '"' : '\'';
        out.append(quote);
        text.codePoints().forEach(point -> {
            int which = "\n\r\t".indexOf(point);
            if (which >= 0) {
                out.append('\\').append("nrt".charAt(which));
            } else if (point == quote || point == '\\') {
                out.append('\\').append((char) point);
            } else if (printable(point)) {
                out.appendCodePoint(point);
            } else {
                out.append(String.format(point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x", point));
            }
        });
        out.append(quote);
    }

    private static boolean printable(int point) {
        switch (Character.getType(point)) {
            case Character.CONTROL:
            case Character.FORMAT:
            case Character.SURROGATE:
            case Character.PRIVATE_USE:
            case Character.UNASSIGNED:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
                return false;
            case Character.SPACE_SEPARATOR:
                return point == ' ';
            default:
                return true;
        }
    }
}
