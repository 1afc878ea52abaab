package headrace.reading;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;

/** JSON as RFC 8259 has it, walked over byte by byte; what is not JSON throws {@link Malformed}. */
final class Scanner {
    static final int DEEPEST = 500;
    private static final int LONGEST_INTEGER = 4300; // characters, as in Python

    byte[] in;
    int at;
    int end;
    /** Whether a string held a byte beyond ASCII: only then is there anything to check of its UTF-8. */
    boolean beyondAscii;
    /** Where the text of the last string or number stands. */
    int from;
    int to;
    /** Whether the last string has escapes. */
    boolean escaped;
    /** Whether the last number has neither fraction nor exponent. */
    boolean whole;

    void over(byte[] in, int at, int end) {
        this.in = in;
        this.at = at;
        this.end = end;
        this.beyondAscii = false;
    }

    /** Returns the next byte that is no white space, and stays on it. */
    int peek() {
        while (at < end) {
            byte one = in[at];
            if (one > ' ' || one != ' ' && one != '\n' && one != '\r' && one != '\t') {
                return one;
            }
            at++;
        }
        throw new Malformed(Malformed.TOO_EARLY);
    }

    /** Whether nothing but white space follows. */
    boolean finished() {
        while (at < end) {
            byte one = in[at];
            if (one != ' ' && one != '\n' && one != '\r' && one != '\t') {
                return false;
            }
            at++;
        }
        return true;
    }

    Malformed wrong(String what) {
        return at >= end ? new Malformed(Malformed.TOO_EARLY) : new Malformed("not JSON: " + what + " (byte " + at + ")");
    }

    /** Enters an object or array, and returns whether it has anything in it. */
    boolean enter(char closing, int depth) {
        if (depth >= DEEPEST) {
            throw new Malformed(Malformed.TOO_DEEP);
        }
        at++;
        if (peek() != closing) {
            return true;
        }
        at++;
        return false;
    }

    /** Passes over what stands behind an item, and returns whether another follows. */
    boolean another(char closing) {
        int one = peek();
        if (one != ',' && one != closing) {
            throw wrong("expected ',' or '" + closing + "'");
        }
        at++;
        return one == ',';
    }

    /** Reads a key and the colon behind it. */
    void key() {
        if (peek() != '"') {
            throw wrong("object keys must be strings");
        }
        string();
        if (peek() != ':') {
            throw wrong("expected ':'");
        }
        at++;
    }

    /** Reads a string, whose opening quote is next. */
    void string() {
        byte[] bytes = in;
        int stop = end;
        int i = at + 1;
        from = i;
        escaped = false;
        while (i < stop) {
            byte one = bytes[i];
            if (one == '"') {
                to = i;
                at = i + 1;
                return;
            }
            if (one == '\\') {
                i = escape(i);
            } else {
                if (one < ' ') {
                    if (one >= 0) {
                        at = i;
                        throw wrong("control character in a string");
                    }
                    beyondAscii = true;
                }
                i++;
            }
        }
        throw new Malformed(Malformed.TOO_EARLY);
    }

    private int escape(int i) {
        escaped = true;
        at = i + 1;
        if (at < end) {
            switch (in[at]) {
                case '"':
                case '\\':
                case '/':
                case 'b':
                case 'f':
                case 'n':
                case 'r':
                case 't':
                    return i + 2;
                case 'u':
                    int unit = unit(i + 2);
                    if (unit < 0xd800 || unit > 0xdfff) {
                        return i + 6;
                    }
                    boolean pair = unit < 0xdc00 && i + 7 < end && in[i + 6] == '\\' && in[i + 7] == 'u';
                    int second = pair ? unit(i + 8) : 0;
                    if (second >= 0xdc00 && second <= 0xdfff) {
                        return i + 12;
                    }
                    at = i;
                    throw wrong("a lone surrogate");
                default:
            }
        }
        throw wrong("invalid escape");
    }

    private int unit(int first) {
        int unit = 0;
        for (int i = first; i < first + 4; i++) {
            int digit = i < end ? Character.digit((char) (in[i] & 0x7f), 16) : -1;
            if (digit < 0 || in[i] < 0) {
                at = i;
                throw wrong("invalid escape");
            }
            unit = unit << 4 | digit;
        }
        return unit;
    }

    /** Returns the UTF-8 of the last string, its escapes undone. */
    byte[] unescaped() {
        ByteArrayOutputStream out = new ByteArrayOutputStream(to - from);
        for (int i = from; i < to; i++) {
            if (in[i] != '\\') {
                out.write(in[i]);
                continue;
            }
            i++;
            if (in[i] != 'u') {
                int which = "bfnrt".indexOf(in[i]);
                out.write(which < 0 ? in[i] : "\b\f\n\r\t".charAt(which));
                continue;
            }
            int point = unit(i + 1);
            i += 4;
            if (Character.isHighSurrogate((char) point)) {
                point = Character.toCodePoint((char) point, (char) unit(i + 3));
                i += 6;
            }
            out.writeBytes(new String(Character.toChars(point)).getBytes(StandardCharsets.UTF_8));
        }
        return out.toByteArray();
    }

    /** Reads a number. */
    void number() {
        byte[] bytes = in;
        int i = at;
        from = i;
        if (i < end && bytes[i] == '-') {
            i++;
        }
        int first = i;
        i = digits(i);
        if (i == first || bytes[first] == '0' && i > first + 1) {
            at = i == first ? i : first + 1;
            throw wrong(i == first ? "invalid character" : "invalid number");
        }
        whole = true;
        if (i < end && bytes[i] == '.') {
            whole = false;
            i = someDigits(i + 1);
        }
        if (i < end && (bytes[i] | 0x20) == 'e') {
            whole = false;
            i++;
            i = someDigits(i < end && (bytes[i] == '+' || bytes[i] == '-') ? i + 1 : i);
        }
        if (whole && i - from > LONGEST_INTEGER) {
            throw wrong("Integer value out of range");
        }
        to = i;
        at = i;
    }

    private int digits(int i) {
        while (i < end && in[i] >= '0' && in[i] <= '9') {
            i++;
        }
        return i;
    }

    private int someDigits(int first) {
        int i = digits(first);
        if (i == first) {
            at = i;
            throw wrong("invalid number");
        }
        return i;
    }

    /** Passes over true, false or null. */
    void word(String word) {
        for (int i = 0; i < word.length(); i++) {
            if (at >= end || in[at] != word.charAt(i)) {
                throw wrong("invalid character");
            }
            at++;
        }
    }

    /** Passes over a value, which stands inside so many others. */
    void skip(int depth) {
        switch (peek()) {
            case '"':
                string();
                break;
            case '{':
                if (enter('}', depth)) {
                    do {
                        key();
                        skip(depth + 1);
                    } while (another('}'));
                }
                break;
            case '[':
                if (enter(']', depth)) {
                    do {
                        skip(depth + 1);
                    } while (another(']'));
                }
                break;
            case 't':
                word("true");
                break;
            case 'f':
                word("false");
                break;
            case 'n':
                word("null");
                break;
            default:
                number();
        }
    }
}
