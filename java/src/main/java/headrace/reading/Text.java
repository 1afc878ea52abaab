package headrace.reading;

/** A text read as a value by the rule; null where it cannot be. */
public final class Text {
    private final Decimal decimal = new Decimal();

    /** Returns a finite DOUBLE. */
    public Double asDouble(byte[] utf8) {
        if (utf8 == null || !decimal.read(utf8, 0, utf8.length)) {
            return null;
        }
        double value = decimal.toDouble();
        return Double.isInfinite(value) ? null : value;
    }

    /** Returns an integral value of 64 bits. */
    public Long asBigint(byte[] utf8) {
        return utf8 != null && decimal.read(utf8, 0, utf8.length) ? decimal.toBigint() : null;
    }

    /** Returns the milliseconds since the epoch of a time in ISO 8601. */
    public Long asTime(byte[] utf8) {
        return utf8 == null ? null : Scalars.time(utf8, 0, utf8.length);
    }
}
