package headrace.reading;

import java.util.Arrays;
import java.util.stream.Collectors;

/** A SQL type. {@code element} is that of an ARRAY's elements or a MAP's values, {@code fields} are a ROW's. */
public final class Type {
    /** The kinds of types. */
    public enum Kind {
        BOOLEAN, BIGINT, DOUBLE, STRING, TIMESTAMP, MAP, ARRAY, ROW;

        /** How an error names it. */
        String sqlName() {
            return this == TIMESTAMP ? "TIMESTAMP_LTZ(3)" : name();
        }
    }

    public final Kind kind;
    public final Type element;
    public final Column[] fields;

    Type(Kind kind, Type element, Column[] fields) {
        this.kind = kind;
        this.element = element;
        this.fields = fields;
    }

    @Override
    public String toString() {
        switch (kind) {
            case MAP:
                return "MAP<STRING, " + element + ">";
            case ARRAY:
                return "ARRAY<" + element + ">";
            case ROW:
                return "ROW<" + Arrays.stream(fields).map(Column::toString).collect(Collectors.joining(", ")) + ">";
            default:
                return kind.sqlName();
        }
    }
}
