package headrace.reading;

/** Numbers cut off as their shortest texts would be. */
public final class Cut {
    private static final double EXACT = 0x1p52;

    private Cut() {}

    /** Returns the number cut off after so many decimals; less than none counts from the point leftwards. */
    public static double off(double x, int decimals) {
        double size = Math.abs(x);
        double scale = Double.parseDouble("1e" + Math.abs(decimals));
        boolean right = decimals >= 0;
        double scaled = right ? size * scale : size / scale;
        if (!(scaled < EXACT)) {
            return x;
        }
        double whole = Math.floor(scaled);
        if (unscaled(whole, scale, right) > size) {
            whole -= 1;
        }
        if (unscaled(whole + 1, scale, right) <= size) {
            whole += 1;
        }
        return unscaled(whole, scale, right) * Math.signum(x);
    }

    private static double unscaled(double whole, double scale, boolean right) {
        return right ? whole / scale : whole * scale;
    }
}
