package headrace.reading;

import java.nio.charset.StandardCharsets;

/** A named column: its type, and whether it may be NULL. */
public final class Column {
    public final String name;
    public final Type type;
    public final boolean nullable;
    final byte[] key;

    Column(String name, Type type, boolean nullable) {
        this.name = name;
        this.type = type;
        this.nullable = nullable;
        this.key = name.getBytes(StandardCharsets.UTF_8);
    }

    @Override
    public String toString() {
        return "`" + name.replace("`", "``") + "` " + type + (nullable ? "" : " NOT NULL");
    }
}
