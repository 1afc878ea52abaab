package headrace.reading;

/** What is UTF-8 and what is not. */
final class Utf8 {
    private Utf8() {}

    /** Returns the place of the first byte that starts no well-formed character, or -1. */
    static int firstBad(byte[] bytes, int from, int to) {
        int at = from;
        while (at < to) {
            int length = bytes[at] >= 0 ? 1 : lengthOf(bytes, at, to);
            if (length == 0) {
                return at;
            }
            at += length;
        }
        return -1;
    }

    private static int lengthOf(byte[] bytes, int at, int to) {
        int lead = bytes[at] & 0xff;
        int second = at + 1 < to ? bytes[at + 1] & 0xff : 0;
        if (lead >= 0xc2 && lead <= 0xdf) {
            return continues(second) ? 2 : 0;
        }
        if (lead >= 0xe0 && lead <= 0xef) {
            boolean good = second >= (lead == 0xe0 ? 0xa0 : 0x80) && second <= (lead == 0xed ? 0x9f : 0xbf);
            return good && at + 2 < to && continues(bytes[at + 2]) ? 3 : 0;
        }
        if (lead >= 0xf0 && lead <= 0xf4) {
            boolean good = second >= (lead == 0xf0 ? 0x90 : 0x80) && second <= (lead == 0xf4 ? 0x8f : 0xbf);
            return good && at + 3 < to && continues(bytes[at + 2]) && continues(bytes[at + 3]) ? 4 : 0;
        }
        return 0;
    }

    private static boolean continues(int one) {
        return (one & 0xc0) == 0x80;
    }

    /** Whether a byte is ASCII white space. */
    static boolean white(int one) {
        return one == ' ' || one >= '\t' && one <= '\r';
    }
}
