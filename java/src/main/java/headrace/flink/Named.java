package headrace.flink;

import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.api.common.JobExecutionResult;
import org.apache.flink.api.dag.Pipeline;
import org.apache.flink.api.dag.Transformation;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.core.execution.JobStatusHook;
import org.apache.flink.streaming.api.transformations.PhysicalTransformation;
import org.apache.flink.streaming.api.transformations.SinkTransformation;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.internal.TableEnvironmentImpl;
import org.apache.flink.table.delegation.Executor;

/**
 * An executor that names the operators of a job, so that their state is found in a savepoint when the job has more operators than before.
 *
 * <p>Flink itself numbers operators by their places in the whole job. Here an operator is named by what it does and by the operators with
 * state upstream of it: a sink by its table, a source by its topic, a window by its length and keys. Columns and conditions have no part in
 * it, nor has anything downstream. Operators of equal names are numbered, with their number in the name: if one comes or goes,
 * Flink finds none of them, and refuses the savepoint.
 */
public final class Named implements Executor {
    private static final Pattern NUMBER = Pattern.compile("\\[\\d+\\]$");
    private static final Pattern WINDOW = Pattern.compile("\\b(?:TUMBLE|HOP|CUMULATE)\\(|\\b(?:size|slide|step|max_size|offset)=\\[[^\\]]*\\]");
    private static final Pattern KEYS = Pattern.compile("\\b(?:groupBy|partitionBy)=\\[([^\\]]*)\\]");
    private static final Pattern COLUMNS = Pattern.compile("\\bselect=\\[.*");
    private static final Set<String> STATELESS =
            Set.of("Calc", "Correlate", "WindowTableFunction", "ConstraintEnforcer", "SinkConversion", "SourceConversion", "TableToDataSteam");

    private final Executor executor;

    private Named(Executor executor) {
        this.executor = executor;
    }

    /** Has an environment name the operators of its jobs. */
    public static void install(TableEnvironment environment) throws ReflectiveOperationException {
        Field field = TableEnvironmentImpl.class.getDeclaredField("execEnv");
        field.setAccessible(true);
        field.set(environment, new Named((Executor) field.get(environment)));
    }

    @Override
    public ReadableConfig getConfiguration() {
        return executor.getConfiguration();
    }

    @Override
    public Pipeline createPipeline(List<Transformation<?>> ends, ReadableConfig configuration, String name) {
        return createPipeline(ends, configuration, name, List.of());
    }

    @Override
    public Pipeline createPipeline(List<Transformation<?>> ends, ReadableConfig configuration, String name, List<JobStatusHook> hooks) {
        if (isCheckpointingEnabled()) {
            new Names(ends).give();
        }
        return executor.createPipeline(ends, configuration, name, hooks);
    }

    @Override
    public JobExecutionResult execute(Pipeline pipeline) throws Exception {
        return executor.execute(pipeline);
    }

    @Override
    public JobClient executeAsync(Pipeline pipeline) throws Exception {
        return executor.executeAsync(pipeline);
    }

    @Override
    public boolean isCheckpointingEnabled() {
        return executor.isCheckpointingEnabled();
    }

    private static final class Names {
        private final Map<Transformation<?>, Set<String>> seen = new HashMap<>();
        private final Map<String, List<Transformation<?>>> equal = new HashMap<>();

        Names(List<Transformation<?>> ends) {
            ends.forEach(this::named);
        }

        /** Returns the name of an operator with state, or those of the nearest ones upstream of one without. */
        private Set<String> named(Transformation<?> one) {
            Set<String> known = seen.get(one);
            if (known != null) {
                return known;
            }
            Set<String> upstream = new TreeSet<>();
            for (Transformation<?> input : one.getInputs()) {
                upstream.addAll(named(input));
            }
            Set<String> found = upstream;
            if (one.getUid() != null) {
                found = Set.of(one.getUid());
            } else if (one instanceof PhysicalTransformation && !STATELESS.contains(kind(one))) {
                String name = name(one, upstream);
                equal.computeIfAbsent(name, key -> new ArrayList<>()).add(one);
                found = Set.of(name);
            }
            seen.put(one, found);
            return found;
        }

        void give() {
            equal.forEach((name, ones) -> {
                if (ones.size() == 1) {
                    ones.get(0).setUid(name);
                    return;
                }
                Map<String, Integer> numbers = new HashMap<>();
                for (Transformation<?> one : ones) {
                    String further = name + " of " + ones.size() + " " + hash(found(COLUMNS, one));
                    one.setUid(further + " " + numbers.merge(further, 1, Integer::sum));
                }
            });
        }

        private static String name(Transformation<?> one, Set<String> upstream) {
            String kind = kind(one);
            if (one instanceof SinkTransformation) {
                return "sink " + (kind.equals("Sink") ? kind(one.getInputs().get(0)) : kind);
            }
            if (one.getInputs().isEmpty() || kind.equals("ledger")) {
                return kind;
            }
            return kind + " " + hash(found(WINDOW, one) + found(KEYS, one).replaceAll("\\$\\w+", "") + upstream);
        }

        /** Returns the name that Flink gives, without its number. */
        private static String kind(Transformation<?> one) {
            return NUMBER.matcher(one.getName()).replaceFirst("");
        }

        private static String found(Pattern pattern, Transformation<?> one) {
            StringBuilder found = new StringBuilder();
            Matcher matcher = pattern.matcher(String.valueOf(one.getDescription()));
            while (matcher.find()) {
                found.append(matcher.group()).append(' ');
            }
            return found.toString();
        }

        private static String hash(String text) {
            return UUID.nameUUIDFromBytes(text.getBytes(StandardCharsets.UTF_8)).toString();
        }
    }
}
