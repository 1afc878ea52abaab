package headrace.reading;

import java.time.LocalDate;
import java.time.YearMonth;

/** Texts read as BOOLEAN and TIMESTAMP_LTZ(3); null where they cannot be. */
final class Scalars {
    private static final long FIRST_MS = -62_135_596_800_000L; // year 1
    private static final long BEHIND_MS = 253_402_300_800_000L; // year 10000

    private Scalars() {}

    static Boolean bool(byte[] bytes, int first, int behind) {
        int from = first;
        int to = behind;
        while (from < to && Utf8.white(bytes[from])) {
            from++;
        }
        while (from < to && Utf8.white(bytes[to - 1])) {
            to--;
        }
        return is("true", bytes, from, to) ? Boolean.TRUE : is("false", bytes, from, to) ? Boolean.FALSE : null;
    }

    private static boolean is(String word, byte[] bytes, int from, int to) {
        if (to - from != word.length()) {
            return false;
        }
        for (int i = from; i < to; i++) {
            int one = bytes[i] >= 'A' && bytes[i] <= 'Z' ? bytes[i] | 0x20 : bytes[i];
            if (one != word.charAt(i - from)) {
                return false;
            }
        }
        return true;
    }

    /** Returns the milliseconds since the epoch of {@code 2024-01-15T12:00:00.123+02:00} and its like. */
    static Long time(byte[] bytes, int first, int behind) {
        int from = first;
        int to = behind;
        while (from < to && Utf8.white(bytes[from])) {
            from++;
        }
        while (from < to && Utf8.white(bytes[to - 1])) {
            to--;
        }
        if (to - from < 19 || bytes[from + 4] != '-' || bytes[from + 7] != '-' || bytes[from + 10] != 'T' && bytes[from + 10] != ' ') {
            return null;
        }
        int century = pair(bytes, from);
        int year = pair(bytes, from + 2);
        int month = pair(bytes, from + 5);
        int day = pair(bytes, from + 8);
        long minutes = clock(bytes, from + 11);
        int seconds = pair(bytes, from + 17);
        if (bytes[from + 16] != ':' || century < 0 || year < 0 || day < 1 || minutes < 0 || seconds < 0 || seconds > 59) {
            return null;
        }
        year += 100 * century;
        if (year < 1 || month < 1 || month > 12 || day > YearMonth.of(year, month).lengthOfMonth()) {
            return null;
        }
        int i = from + 19;
        int thousandths = 0;
        if (i < to && bytes[i] == '.') {
            int point = i++;
            for (; i < to && bytes[i] >= '0' && bytes[i] <= '9'; i++) {
                thousandths = i - point > 3 ? thousandths : thousandths * 10 + bytes[i] - '0';
            }
            if (i - point < 2 || i - point > 10) {
                return null;
            }
            for (int missing = 4 - (i - point); missing > 0; missing--) {
                thousandths *= 10;
            }
        }
        if (i < to && bytes[i] == 'Z') {
            i++;
        } else if (i < to) {
            long offset = to - i == 6 ? clock(bytes, i + 1) : -1;
            if (offset < 0 || bytes[i] != '+' && bytes[i] != '-') {
                return null;
            }
            minutes += bytes[i] == '+' ? -offset : offset;
            i = to;
        }
        long ms = ((LocalDate.of(year, month, day).toEpochDay() * 1440 + minutes) * 60 + seconds) * 1000 + thousandths;
        return i == to && ms >= FIRST_MS && ms < BEHIND_MS ? Long.valueOf(ms) : null;
    }

    /** Returns the minutes of {@code 12:00}, or -1. */
    private static int clock(byte[] bytes, int at) {
        int hours = pair(bytes, at);
        int minutes = pair(bytes, at + 3);
        return hours < 0 || hours > 23 || minutes < 0 || minutes > 59 || bytes[at + 2] != ':' ? -1 : hours * 60 + minutes;
    }

    private static int pair(byte[] bytes, int at) {
        int tens = bytes[at] - '0';
        int ones = bytes[at + 1] - '0';
        return tens < 0 || tens > 9 || ones < 0 || ones > 9 ? -1000 : tens * 10 + ones;
    }
}
