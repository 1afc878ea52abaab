package headrace.flink;

import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.DataStreamSink;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.ProviderContext;
import org.apache.flink.table.connector.sink.DataStreamSinkProvider;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.connector.sink.SinkV2Provider;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DynamicTableSinkFactory;
import org.apache.flink.table.factories.FactoryUtil;

/**
 * The connector {@code headrace-ledger}: a table of a topic's name and counts. What is inserted between two checkpoints is added up by topic,
 * and the sums go to the connector that {@code ledger.connector} names, with all other options, in the transaction of that checkpoint.
 */
public class LedgerFactory implements DynamicTableSinkFactory {
    private static final ConfigOption<String> CONNECTOR = ConfigOptions.key("ledger.connector").stringType().noDefaultValue();

    @Override
    public String factoryIdentifier() {
        return "headrace-ledger";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(CONNECTOR);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public DynamicTableSink createDynamicTableSink(Context context) {
        Map<String, String> options = new HashMap<>(context.getCatalogTable().getOptions());
        String connector = options.remove(CONNECTOR.key());
        if (connector == null) {
            throw new ValidationException("a table of the connector headrace-ledger needs the option " + CONNECTOR.key());
        }
        options.put(FactoryUtil.CONNECTOR.key(), connector);
        return new Ledger(FactoryUtil.createDynamicTableSink(
                null,
                context.getObjectIdentifier(),
                context.getCatalogTable().copy(options),
                context.getEnrichmentOptions(),
                context.getConfiguration(),
                context.getClassLoader(),
                context.isTemporary()));
    }

    private static final class Ledger implements DynamicTableSink {
        private final DynamicTableSink target;

        Ledger(DynamicTableSink target) {
            this.target = target;
        }

        @Override
        public ChangelogMode getChangelogMode(ChangelogMode requested) {
            return ChangelogMode.insertOnly();
        }

        @Override
        public SinkRuntimeProvider getSinkRuntimeProvider(Context context) {
            SinkRuntimeProvider provider = target.getSinkRuntimeProvider(context);
            if (provider instanceof DataStreamSinkProvider) {
                return new Added(((DataStreamSinkProvider) provider)::consumeDataStream);
            }
            if (provider instanceof SinkV2Provider) {
                SinkV2Provider sinks = (SinkV2Provider) provider;
                return new Added((uids, entries) -> {
                    DataStreamSink<RowData> sink = entries.sinkTo(sinks.createSink()).setParallelism(entries.getParallelism());
                    uids.generateUid("ledger-sink").ifPresent(sink::uid);
                    return sink;
                });
            }
            throw new ValidationException("a ledger cannot be written to " + target.asSummaryString());
        }

        @Override
        public DynamicTableSink copy() {
            return new Ledger(target.copy());
        }

        @Override
        public String asSummaryString() {
            return "ledger in " + target.asSummaryString();
        }
    }

    private static final class Added implements DataStreamSinkProvider {
        private final Target target;

        Added(Target target) {
            this.target = target;
        }

        @Override
        public DataStreamSink<?> consumeDataStream(ProviderContext context, DataStream<RowData> entries) {
            SingleOutputStreamOperator<RowData> added = entries.transform("ledger", entries.getType(), new AddUp());
            added.setParallelism(entries.getParallelism());
            context.generateUid("ledger").ifPresent(added::uid);
            return target.consume(context, added);
        }
    }

    private interface Target {
        DataStreamSink<?> consume(ProviderContext context, DataStream<RowData> entries);
    }
}
