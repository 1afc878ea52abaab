package headrace.reading;

import java.math.BigDecimal;
import java.math.MathContext;
import java.math.RoundingMode;
import java.nio.charset.StandardCharsets;

/** A decimal number as a text has it: {@code [+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?}, with ASCII white space around it. */
final class Decimal {
    private static final int MOST = 18; // digits that a long holds whatever they are
    private static final long EXACT = 1L << 53;
    private static final long FAR = 1_000_000_000_000L;
    // Next to a power of two the nearest decimal may be another DOUBLE where the one on the other side is the same.
    private static final RoundingMode[] NEAREST_FIRST = {RoundingMode.HALF_EVEN, RoundingMode.DOWN, RoundingMode.UP};
    private static final double[] TENS = new double[23];
    private static final long[] WHOLE_TENS = new long[MOST + 1];

    static {
        for (int i = 0; i < TENS.length; i++) {
            TENS[i] = Double.parseDouble("1e" + i);
        }
        for (int i = 0; i < WHOLE_TENS.length; i++) {
            WHOLE_TENS[i] = i == 0 ? 1 : 10 * WHOLE_TENS[i - 1];
        }
    }

    private byte[] in;
    private int from;
    private int to;
    private boolean negative;
    /** The first digits, from the first that is not 0 on, as an integer. */
    private long mantissa;
    /** How many digits there are from the first that is not 0 on. */
    private int digits;
    /** The power of ten of the last digit. */
    private long power;

    /** Reads the text [from, to), and returns whether it is a number. */
    boolean read(byte[] bytes, int first, int behind) {
        int i = first;
        int stop = behind;
        while (i < stop && Utf8.white(bytes[i])) {
            i++;
        }
        while (i < stop && Utf8.white(bytes[stop - 1])) {
            stop--;
        }
        in = bytes;
        from = i;
        to = stop;
        negative = i < stop && bytes[i] == '-';
        if (negative || i < stop && bytes[i] == '+') {
            i++;
        }
        mantissa = 0;
        digits = 0;
        power = 0;
        int start = i;
        i = digits(i);
        int seen = i - start;
        if (i < stop && bytes[i] == '.') {
            int point = ++i;
            i = digits(i);
            seen += i - point;
            power = point - i;
        }
        if (seen == 0) {
            return false;
        }
        if (i < stop && (bytes[i] | 0x20) == 'e') {
            i++;
            boolean below = i < stop && bytes[i] == '-';
            if (below || i < stop && bytes[i] == '+') {
                i++;
            }
            int exponentFrom = i;
            long exponent = 0;
            for (; i < stop && bytes[i] >= '0' && bytes[i] <= '9'; i++) {
                exponent = Math.min(FAR, exponent * 10 + bytes[i] - '0');
            }
            if (i == exponentFrom) {
                return false;
            }
            power += below ? -exponent : exponent;
        }
        return i == stop;
    }

    private int digits(int first) {
        int i = first;
        for (; i < to; i++) {
            int digit = in[i] - '0';
            if (digit < 0 || digit > 9) {
                break;
            }
            if (digits > 0 || digit > 0) {
                if (++digits <= MOST) {
                    mantissa = mantissa * 10 + digit;
                }
            }
        }
        return i;
    }

    /** Returns the nearest DOUBLE, infinite if there is none. */
    double toDouble() {
        if (digits == 0) {
            return negative ? -0.0 : 0.0;
        }
        if (digits <= MOST && mantissa <= EXACT && power >= -22 && power <= 22) {
            double value = power < 0 ? mantissa / TENS[(int) -power] : mantissa * TENS[(int) power];
            return negative ? -value : value;
        }
        return Double.parseDouble(text());
    }

    /** Returns the BIGINT that it is, or null if it has a fraction or is beyond 64 bits. */
    Long toBigint() {
        if (digits == 0) {
            return 0L;
        }
        if (digits <= MOST && power == 0) {
            return negative ? -mantissa : mantissa;
        }
        if (digits + power <= 0 || digits + power > 19) {
            return null;
        }
        byte[] figures = figures();
        int last = figures.length;
        while (figures[last - 1] == '0') {
            last--;
        }
        long zeros = power + figures.length - last;
        if (zeros < 0) {
            return null;
        }
        // At most 19 digits, which are less than 2^64 and so at most a negative long.
        long value = Long.parseUnsignedLong(new String(figures, 0, last, StandardCharsets.ISO_8859_1));
        value *= WHOLE_TENS[(int) zeros];
        boolean fits = value >= 0 || negative && value == Long.MIN_VALUE;
        return fits ? Long.valueOf(negative ? -value : value) : null;
    }

    /** Returns the digits from the first that is not 0 on. */
    private byte[] figures() {
        byte[] figures = new byte[digits];
        int found = 0;
        for (int i = from; found < digits; i++) {
            if (in[i] >= '0' && in[i] <= '9' && (found > 0 || in[i] != '0')) {
                figures[found++] = in[i];
            }
        }
        return figures;
    }

    /** Returns the text less the white space. */
    String text() {
        return new String(in, from, to - from, StandardCharsets.ISO_8859_1);
    }

    /** Returns the shortest text that reads back the same DOUBLE, as Python's repr writes it, or null if it is not finite. */
    String shortest() {
        double value = toDouble();
        if (Double.isInfinite(value)) {
            return null;
        }
        // No two numbers of up to 15 digits are the same DOUBLE, so that these are the shortest.
        if (digits > 0 && digits <= 15 && Math.abs(digits + power) < 290) {
            return written(negative, Long.toString(mantissa), digits + (int) power);
        }
        return repr(value);
    }

    /** Returns a finite DOUBLE's shortest text, as Python's repr writes it. */
    static String repr(double value) {
        boolean negative = Double.doubleToRawLongBits(value) < 0;
        double size = Math.abs(value);
        if (size == 0) {
            return negative ? "-0.0" : "0.0";
        }
        BigDecimal exact = new BigDecimal(size);
        for (int length = size < Double.MIN_NORMAL ? 1 : 15; length < 17; length++) {
            for (RoundingMode mode : NEAREST_FIRST) {
                BigDecimal candidate = exact.round(new MathContext(length, mode));
                if (candidate.doubleValue() == size) {
                    return written(negative, candidate);
                }
            }
        }
        return written(negative, exact.round(new MathContext(17, RoundingMode.HALF_EVEN)));
    }

    private static String written(boolean negative, BigDecimal number) {
        String figures = number.unscaledValue().toString();
        return written(negative, figures, figures.length() - number.scale());
    }

    /** Returns the number 0.figures × 10^point as Python writes it. */
    private static String written(boolean negative, String figures, int point) {
        int length = figures.length();
        while (length > 1 && figures.charAt(length - 1) == '0') {
            length--;
        }
        StringBuilder out = new StringBuilder(24);
        if (negative) {
            out.append('-');
        }
        if (point > 16 || point < -3) {
            out.append(figures.charAt(0));
            if (length > 1) {
                out.append('.').append(figures, 1, length);
            }
            int exponent = point - 1;
            out.append('e').append(exponent < 0 ? '-' : '+');
            return out.append(Math.abs(exponent) < 10 ? "0" : "").append(Math.abs(exponent)).toString();
        }
        if (point <= 0) {
            return out.append("0.").append("0".repeat(-point)).append(figures, 0, length).toString();
        }
        if (length <= point) {
            return out.append(figures, 0, length).append("0".repeat(point - length)).append(".0").toString();
        }
        return out.append(figures, 0, point).append('.').append(figures, point, length).toString();
    }
}
