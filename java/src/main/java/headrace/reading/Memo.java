package headrace.reading;

import java.util.function.Function;

/** What was read last, kept: engines call a function again for each field that is taken of its result. */
public final class Memo<R> {
    private final Function<byte[], R> read;
    private byte[] raw;
    private R result;

    public Memo(Function<byte[], R> read) {
        this.read = read;
    }

    /** Returns what {@code raw} reads as; it is not read again if it is the same array as before. */
    public R read(byte[] raw) {
        if (raw != this.raw) {
            result = read.apply(raw);
            this.raw = raw;
        }
        return result;
    }
}
