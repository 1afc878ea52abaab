package headrace.flink;

import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/** A SQL script's statements. */
public final class Statements {
    private static final Pattern SET_BEGINS = Pattern.compile("(?:EXECUTE|EXPLAIN)\\s+STATEMENT\\s+SET\\s+BEGIN\\b", Pattern.CASE_INSENSITIVE);
    private static final Pattern SET_ENDS = Pattern.compile("\\s*END\\s*", Pattern.CASE_INSENSITIVE);

    private Statements() {}

    /** Returns the statements, without comments and the semicolons behind them; a statement set is one. */
    public static List<String> of(String script) {
        List<String> statements = new ArrayList<>();
        StringBuilder set = null;
        for (String piece : pieces(script)) {
            boolean begins = set == null && SET_BEGINS.matcher(piece.stripLeading()).lookingAt();
            if (set == null && !begins) {
                if (!piece.isBlank()) {
                    statements.add(piece.strip());
                }
                continue;
            }
            set = begins ? new StringBuilder() : set;
            set.append(piece);
            if (SET_ENDS.matcher(piece).matches()) {
                statements.add(set.toString().strip());
                set = null;
            } else {
                set.append(';');
            }
        }
        if (set != null) {
            throw new IllegalArgumentException("the script has a statement set without END");
        }
        return statements;
    }

    /** Cuts a script at its semicolons, those in texts, names and comments left out, and puts white space for comments. */
    private static List<String> pieces(String script) {
        List<String> pieces = new ArrayList<>();
        StringBuilder piece = new StringBuilder();
        int at = 0;
        while (at < script.length()) {
            char one = script.charAt(at);
            int behind = at + 1;
            if (one == '\'' || one == '"' || one == '`') {
                behind = behind(script, String.valueOf(one), at + 1);
                piece.append(script, at, behind);
            } else if (script.startsWith("--", at)) {
                int line = script.indexOf('\n', at);
                behind = line < 0 ? script.length() : line;
            } else if (script.startsWith("/*", at) && !script.startsWith("/*+", at)) {
                behind = behind(script, "*/", at + 2);
                piece.append(' ');
            } else if (one == ';') {
                pieces.add(piece.toString());
                piece.setLength(0);
            } else {
                piece.append(one);
            }
            at = behind;
        }
        pieces.add(piece.toString());
        return pieces;
    }

    /** Returns the place behind the next {@code closing}; a doubled quote closes a text and opens another, which comes to the same. */
    private static int behind(String script, String closing, int from) {
        int at = script.indexOf(closing, from);
        if (at < 0) {
            throw new IllegalArgumentException("the script lacks " + closing + " for what starts at character " + (from - 1));
        }
        return at + closing.length();
    }
}
