package headrace.flink;

import headrace.reading.Column;
import headrace.reading.Memo;
import headrace.reading.Reader;
import headrace.reading.Schema;
import headrace.reading.Type;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.inference.ArgumentTypeStrategy;
import org.apache.flink.table.types.inference.CallContext;
import org.apache.flink.table.types.inference.InputTypeStrategies;
import org.apache.flink.table.types.inference.TypeInference;
import org.apache.flink.table.types.logical.ArrayType;
import org.apache.flink.table.types.logical.BigIntType;
import org.apache.flink.table.types.logical.BooleanType;
import org.apache.flink.table.types.logical.DoubleType;
import org.apache.flink.table.types.logical.LocalZonedTimestampType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.MapType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.VarCharType;
import org.apache.flink.table.types.utils.DataTypeUtils;

/**
 * {@code HR_READ(raw BYTES, schema STRING [, rest STRING]) -> ROW<`row` ROW<…>, `malformed` STRING>}: a JSON record by headrace's rule.
 *
 * <p>{@code schema} is a literal such as {@code '`id` STRING NOT NULL, `data` MAP<STRING, STRING>'}; {@code rest} is a literal
 * that names one more column, which maps the undeclared fields. {@code row} is NULL and {@code malformed} says why where the
 * record cannot be read. The whole is NULL for a blank line, which is no record.
 *
 * <p>Flink calls it once for each field that is taken of its result, and a watermark's expression has an instance of its own
 * in the same thread. So what was read last is kept for the thread, and a record is read once.
 */
public class HrRead extends ScalarFunction {
    private static final long serialVersionUID = 1;
    private static final ThreadLocal<Map<String, Memo<RowData>>> MEMOS = ThreadLocal.withInitial(HashMap::new);

    private transient Thread thread;
    private transient StringData schema;
    private transient StringData rest;
    private transient Memo<RowData> memo;

    /** Reads a record. */
    public RowData eval(byte[] raw, StringData schema) {
        return eval(raw, schema, null);
    }

    /** Reads a record, and keeps its undeclared fields. */
    public RowData eval(byte[] raw, StringData schema, StringData rest) {
        if (raw == null) {
            return null;
        }
        if (schema != this.schema || rest != this.rest || Thread.currentThread() != thread) {
            this.schema = schema;
            this.rest = rest;
            thread = Thread.currentThread();
            String text = schema.toString();
            memo = MEMOS.get().computeIfAbsent(rest == null ? text : text + "\n" + rest, any -> memo(text, rest != null));
        }
        return memo.read(raw);
    }

    private static Memo<RowData> memo(String schema, boolean rest) {
        Reader reader = new Reader(Schema.parse(schema), rest, new FlinkValues());
        return new Memo<>(raw -> {
            Object[] row = reader.read(raw);
            if (row != null) {
                return GenericRowData.of(GenericRowData.of(row), null);
            }
            return reader.malformed() == null ? null : GenericRowData.of(null, StringData.fromString(reader.malformed()));
        });
    }

    @Override
    public TypeInference getTypeInference(DataTypeFactory factory) {
        ArgumentTypeStrategy raw = InputTypeStrategies.explicit(DataTypes.BYTES());
        ArgumentTypeStrategy literal = InputTypeStrategies.explicit(DataTypes.STRING().bridgedTo(StringData.class));
        return TypeInference.newBuilder()
            .inputTypeStrategy(
                InputTypeStrategies.or(InputTypeStrategies.sequence(raw, literal), InputTypeStrategies.sequence(raw, literal, literal)))
            .outputTypeStrategy(HrRead::typeOf)
            .build();
    }

    private static Optional<DataType> typeOf(CallContext call) {
        String text = call.getArgumentValue(1, String.class).orElseThrow(() -> call.newValidationError("HR_READ wants its schema as a literal"));
        List<RowType.RowField> columns = new ArrayList<>();
        try {
            for (Column column : Schema.parse(text).columns) {
                columns.add(new RowType.RowField(column.name, typeOf(column.type).copy(column.nullable)));
            }
        } catch (IllegalArgumentException error) {
            throw call.newValidationError("HR_READ: %s", error.getMessage());
        }
        if (call.getArgumentDataTypes().size() > 2) {
            String rest = call.getArgumentValue(2, String.class).orElseThrow(() -> call.newValidationError("HR_READ wants rest as a literal"));
            columns.add(new RowType.RowField(rest, new MapType(VarCharType.STRING_TYPE, VarCharType.STRING_TYPE)));
        }
        RowType result = new RowType(
            List.of(new RowType.RowField("row", new RowType(columns)), new RowType.RowField("malformed", VarCharType.STRING_TYPE)));
        return Optional.of(DataTypeUtils.toInternalDataType(result));
    }

    private static LogicalType typeOf(Type type) {
        switch (type.kind) {
            case BOOLEAN:
                return new BooleanType();
            case BIGINT:
                return new BigIntType();
            case DOUBLE:
                return new DoubleType();
            case STRING:
                return VarCharType.STRING_TYPE;
            case TIMESTAMP:
                return new LocalZonedTimestampType(3);
            case MAP:
                return new MapType(VarCharType.STRING_TYPE, typeOf(type.element));
            case ARRAY:
                return new ArrayType(typeOf(type.element));
            default:
                List<RowType.RowField> fields = new ArrayList<>();
                for (Column field : type.fields) {
                    fields.add(new RowType.RowField(field.name, typeOf(field.type)));
                }
                return new RowType(fields);
        }
    }
}
