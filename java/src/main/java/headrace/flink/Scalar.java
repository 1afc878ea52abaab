package headrace.flink;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.flink.table.catalog.DataTypeFactory;
import org.apache.flink.table.functions.ScalarFunction;
import org.apache.flink.table.types.inference.TypeInference;

/**
 * A scalar function whose types are read from its class once.
 *
 * <p>Flink reads them by reflection at each of the many times that it validates a mention of the function: most of the time of
 * planning a job of many statements.
 */
public abstract class Scalar extends ScalarFunction {
    private static final long serialVersionUID = 1;
    private static final Map<Class<?>, TypeInference> KNOWN = new ConcurrentHashMap<>();

    @Override
    public TypeInference getTypeInference(DataTypeFactory types) {
        return KNOWN.computeIfAbsent(getClass(), function -> super.getTypeInference(types));
    }
}
