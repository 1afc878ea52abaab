package headrace.reading;

/** Thrown out of the middle of a record that is not JSON; it is caught before any caller sees it. */
final class Malformed extends RuntimeException {
    private static final long serialVersionUID = 1;

    static final String TOO_DEEP = "nested too deeply to read";
    static final String TOO_EARLY = "not JSON: it ends too early";

    Malformed(String detail) {
        super(detail, null, false, false);
    }
}
