import headrace.flink.Statements;
import headrace.reading.Cut;
import headrace.reading.DeadLetter;
import headrace.reading.Parts;
import headrace.reading.Reader;
import headrace.reading.Schema;
import headrace.reading.TimePattern;
import headrace.reading.Values;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.time.ZoneId;
import java.util.Map;
import java.util.StringJoiner;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * Answers lines of words in base64: "R record" with what became of the record, "D topic detail record" with a dead letter, "Q script" with its
 * statements, "X pattern text put" with what a regular expression finds in a text and makes of it, "T pattern text [zone]" with a time, "P text delimiter" with
 * the parts of a text, "N text delimiter number" with one of them, "C number decimals" with the number cut off. "S schema" is not answered: it puts a schema in force, with "rest" behind it one more column.
 */
class Probe implements Values {
    private static TimePattern pattern;
    private static ZoneId zone;

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        Reader reader = null;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ", -1);
            if (words[0].equals("S")) {
                reader = new Reader(Schema.parse(text(words, 1)), words.length > 2, new Probe());
                continue;
            }
            try {
                System.out.println(answer(words, reader));
            } catch (Throwable error) {
                System.out.println("[\"error\"," + quoted(error.toString()) + "]");
            }
        }
    }

    private static String answer(String[] words, Reader reader) {
        switch (words[0]) {
            case "R":
                Object[] row = reader.read(bytes(words, 1));
                return row != null ? "[\"row\"," + list(row) + "]" : reader.malformed() != null ? "[\"malformed\"," + quoted(reader.malformed()) + "]" : "[\"blank\"]";
            case "X":
                return matched(Pattern.compile(text(words, 1)).matcher(text(words, 2)), text(words, 3));
            case "T":
                pattern = TimePattern.of(text(words, 1), pattern);
                zone = words.length > 3 ? TimePattern.zone(text(words, 3), zone) : null;
                return String.valueOf(zone == null ? pattern.read(text(words, 2)) : pattern.read(text(words, 2), zone));
            case "P":
                return list(Stream.of(Parts.of(text(words, 1), text(words, 2))).map(Probe::quoted).toArray());
            case "N":
                String part = Parts.at(text(words, 1), text(words, 2), Long.parseLong(text(words, 3)));
                return part == null ? "null" : quoted(part);
            case "C":
                return shown(Cut.off(Double.parseDouble(text(words, 1)), Integer.parseInt(text(words, 2))));
            case "D":
                return quoted(DeadLetter.json("pipe", text(words, 1), 3L, null, "malformed", text(words, 2), 5L, bytes(words, 3)));
            default:
                return list(Statements.of(text(words, 1)).stream().map(Probe::quoted).toArray());
        }
    }

    private static String matched(Matcher match, String put) {
        List<String> groups = new ArrayList<>();
        if (match.find()) {
            for (int group = 0; group <= match.groupCount(); group++) {
                groups.add(match.group(group) == null ? "null" : quoted(match.group(group)));
            }
        }
        return "[" + list(groups.toArray()) + "," + quoted(match.replaceAll(Matcher.quoteReplacement(put))) + "]";
    }

    private static byte[] bytes(String[] words, int place) {
        return Base64.getDecoder().decode(words[place]);
    }

    private static String text(String[] words, int place) {
        return new String(bytes(words, place), StandardCharsets.UTF_8);
    }

    private static String quoted(String text) {
        return '"' + Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8)) + '"';
    }

    private static String list(Object[] items) {
        StringJoiner out = new StringJoiner(",", "[", "]");
        for (Object item : items) {
            out.add(shown(item));
        }
        return out.toString();
    }

    private static String shown(Object value) {
        if (value instanceof Double) {
            return "[\"d\",\"" + Long.toHexString(Double.doubleToRawLongBits((Double) value)) + "\"]";
        }
        return value instanceof Long ? "[\"i\"," + value + "]" : String.valueOf(value);
    }

    @Override
    public Object text(byte[] utf8, int from, int to) {
        return "[\"s\"," + quoted(new String(utf8, from, to - from, StandardCharsets.UTF_8)) + "]";
    }

    @Override
    public Object time(long ms) {
        return "[\"t\"," + ms + "]";
    }

    @Override
    public Object map(Map<Object, Object> entries) {
        StringJoiner out = new StringJoiner(",", "[\"m\",[", "]]");
        entries.forEach((key, value) -> out.add("[" + key + "," + shown(value) + "]"));
        return out.toString();
    }

    @Override
    public Object array(Object[] items) {
        return "[\"a\"," + list(items) + "]";
    }

    @Override
    public Object row(Object[] values) {
        return "[\"r\"," + list(values) + "]";
    }
}
