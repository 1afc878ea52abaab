package headrace.reading;

import java.time.LocalDateTime;
import java.time.YearMonth;
import java.time.ZoneId;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A pattern such as {@code dd/MM/yyyy HH:mm}, which reads times of UTC or of a zone to the millisecond; strictly, and what it leaves out is that of the epoch. */
public final class TimePattern {
    private static final Pattern PIECE = Pattern.compile("'((?:[^']|'')*)'|([A-Za-z])\\2*|[^A-Za-z]");
    private static final long DAY = 86_400_000;
    private static final String FIELDS = "yMdHmsS";
    private static final long FIRST = -62_135_596_800_000L;
    private static final long LAST = 253_402_300_799_999L;

    private final String pattern;
    private final Pattern expected;
    private final List<String> letters = new ArrayList<>();

    private TimePattern(String pattern) {
        this.pattern = pattern;
        StringBuilder groups = new StringBuilder();
        Matcher piece = PIECE.matcher(pattern);
        while (piece.find()) {
            if (piece.group(2) != null) {
                letters.add(piece.group());
                groups.append('(').append(digits(piece.group())).append(')');
            } else {
                String quoted = piece.group(1);
                String text = quoted == null ? piece.group() : quoted.isEmpty() ? "'" : quoted.replace("''", "'");
                groups.append(Pattern.quote(text));
            }
        }
        expected = Pattern.compile(groups.toString());
    }

    /** Returns {@code last} if it is of this pattern, else a new one: most callers have one pattern for all their texts. */
    public static TimePattern of(String pattern, TimePattern last) {
        return last != null && last.pattern.equals(pattern) ? last : new TimePattern(pattern);
    }

    /** Returns a zone by the name of the IANA database; it has some that are no more than an abbreviation. */
    public static ZoneId zone(String name, ZoneId last) {
        return last != null && last.getId().equals(name) ? last : ZoneId.of(name, ZoneId.SHORT_IDS);
    }

    /**
     * Returns the milliseconds since the epoch of a local time of the zone, or null where the text is no time of this pattern.
     *
     * <p>A time that the clocks of the zone skip is as much later as they skip; of one that they show twice it is the first.
     */
    public Long read(String text, ZoneId zone) {
        Long local = read(text);
        if (local == null) {
            return null;
        }
        int nanos = (int) Math.floorMod(local, 1000L) * 1_000_000;
        LocalDateTime time = LocalDateTime.ofEpochSecond(Math.floorDiv(local, 1000L), nanos, ZoneOffset.UTC);
        long ms = time.atZone(zone).toInstant().toEpochMilli();
        return ms < FIRST || ms > LAST ? null : ms;
    }

    private static String digits(String run) {
        switch (run) {
            case "yyyy":
                return "[0-9]{4}";
            case "ss":
                return "[0-5][0-9]";
            case "s":
                return "[0-5]?[0-9]";
            default:
                return run.length() == 1 ? "[0-9]{1,2}" : "[0-9]{" + run.length() + "}";
        }
    }

    /** Returns the milliseconds since the epoch, or null where the text is no time of this pattern. */
    public Long read(String text) {
        Matcher match = expected.matcher(text);
        if (!match.matches()) {
            return null;
        }
        int[] parts = {1970, 1, 1, 0, 0, 0, 0};
        for (int place = 0; place < letters.size(); place++) {
            String run = letters.get(place);
            int value = Integer.parseInt(match.group(place + 1));
            parts[FIELDS.indexOf(run.charAt(0))] = run.equals("yy") ? 2000 + value : run.length() == 6 ? value / 1000 : value;
        }
        boolean sound = parts[0] >= 1 && parts[1] >= 1 && parts[1] <= 12 && parts[3] < 24 && parts[4] < 60;
        if (!sound || parts[2] < 1 || parts[2] > YearMonth.of(parts[0], parts[1]).lengthOfMonth()) {
            return null;
        }
        long days = YearMonth.of(parts[0], parts[1]).atDay(parts[2]).toEpochDay();
        return days * DAY + parts[3] * 3_600_000L + parts[4] * 60_000L + parts[5] * 1000L + parts[6];
    }
}
