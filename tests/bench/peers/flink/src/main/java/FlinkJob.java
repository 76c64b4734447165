import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.module.blackbird.BlackbirdModule;
import java.io.IOException;
import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.util.Collector;

/**
 * The bench's workloads on Flink: FlinkJob datastream|rocksdb|sql WORKLOAD BROKERS TOPIC OUT CHECKPOINT_MS CHECKPOINT_DIR (0 ms: none,
 * at-least-once). `rocksdb` is `datastream` with its state in RocksDB, checkpoints incremental.
 */
public class FlinkJob {
    @JsonIgnoreProperties(ignoreUnknown = true)
    public static class Event {
        public String name, experiment, variant, platform;
        public long st, userId;
    }

    /** Each workload reads what it needs. */
    @JsonIgnoreProperties(value = {"platform", "userId"}, ignoreUnknown = true)
    public static class ByName {}

    @JsonIgnoreProperties(value = "userId", ignoreUnknown = true)
    public static class Filtered {}

    @JsonIgnoreProperties(value = {"name", "experiment", "variant", "platform"}, ignoreUnknown = true)
    public static class ByUser {}

    public static class Parse<T> extends AbstractDeserializationSchema<T> {
        private final Class<T> type;
        private final Class<?> columns;
        private transient ObjectReader reader;

        Parse(Class<T> type, Class<?> columns) {
            super(type);
            this.type = type;
            this.columns = columns;
        }

        @Override
        public void open(InitializationContext context) {
            ObjectMapper mapper = new ObjectMapper().registerModule(new BlackbirdModule());
            reader = mapper.addMixIn(type, columns).readerFor(type);
        }

        @Override
        public T deserialize(byte[] bytes) throws IOException {
            return reader.readValue(bytes);
        }
    }

    public static class Count implements AggregateFunction<Event, Long, Long> {
        public Long createAccumulator() { return 0L; }
        public Long add(Event event, Long count) { return count + 1; }
        public Long getResult(Long count) { return count; }
        public Long merge(Long a, Long b) { return a + b; }
    }

    public static class Row extends ProcessWindowFunction<Long, String, String, TimeWindow> {
        @Override
        public void process(String key, Context context, Iterable<Long> counts, Collector<String> out) {
            out.collect(key + ",\"window_start\":" + context.window().getStart() + ",\"count\":" + counts.iterator().next() + "}");
        }
    }

    public static class UserRow extends ProcessWindowFunction<Long, String, Long, TimeWindow> {
        @Override
        public void process(Long user, Context context, Iterable<Long> counts, Collector<String> out) {
            out.collect("{\"userId\":" + user + ",\"window_start\":" + context.window().getStart() + ",\"count\":"
                    + counts.iterator().next() + "}");
        }
    }

    static <T> KafkaSource<T> source(String brokers, String topic, String group, Parse<T> parse) {
        return KafkaSource.<T>builder()
                .setBootstrapServers(brokers).setTopics(topic).setGroupId(group)
                .setStartingOffsets(OffsetsInitializer.earliest()).setBounded(OffsetsInitializer.latest())
                .setProperty("check.crcs", "false").setValueOnlyDeserializer(parse).build();
    }

    static KafkaSink<String> sink(String brokers, String out, boolean exactlyOnce) {
        return KafkaSink.<String>builder()
                .setBootstrapServers(brokers)
                .setDeliveryGuarantee(exactlyOnce ? DeliveryGuarantee.EXACTLY_ONCE : DeliveryGuarantee.AT_LEAST_ONCE)
                .setTransactionalIdPrefix(out).setProperty("transaction.timeout.ms", "600000")
                .setRecordSerializer(KafkaRecordSerializationSchema.builder()
                        .setTopic(out).setValueSerializationSchema(new SimpleStringSchema()).build())
                .build();
    }

    static boolean byExperiment(String workload) {
        return workload.equals("counts") || workload.equals("hopping");
    }

    public static void main(String[] args) throws Exception {
        String api = args[0], workload = args[1], brokers = args[2], topic = args[3], out = args[4];
        long checkpoint = Long.parseLong(args[5]);
        Configuration configuration = new Configuration();
        configuration.set(PipelineOptions.OBJECT_REUSE, true);
        configuration.setString("taskmanager.memory.network.max", "256m");
        if (api.equals("rocksdb")) {
            configuration.setString("state.backend.type", "rocksdb");
            configuration.setString("execution.checkpointing.incremental", "true");
            configuration.setString("taskmanager.memory.managed.size", "1g");
        }
        configuration.setString("execution.checkpointing.storage", "filesystem");
        configuration.setString("execution.checkpointing.dir", "file://" + args[6]);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(2, configuration);
        if (checkpoint > 0) {
            env.enableCheckpointing(checkpoint);
        }
        if (api.equals("sql")) {
            sql(env, workload, brokers, topic, out, checkpoint > 0);
        } else {
            dataStream(env, workload, brokers, topic, out, checkpoint > 0);
        }
        System.exit(0);
    }

    static void dataStream(StreamExecutionEnvironment env, String workload, String brokers, String topic, String out, boolean exactlyOnce)
            throws Exception {
        KafkaSink<String> sink = sink(brokers, out, exactlyOnce);
        if (workload.equals("matches")) {
            Matches.job(env, source(brokers, topic, out, new Parse<>(Matches.Swipe.class, Matches.Swipe.class)), sink);
            env.execute(workload);
            return;
        }
        Class<?> columns = workload.equals("users") ? ByUser.class : workload.equals("filter") ? Filtered.class : ByName.class;
        KafkaSource<Event> source = source(brokers, topic, out, new Parse<>(Event.class, columns));
        boolean byExperiment = byExperiment(workload), filtered = workload.equals("filter");
        DataStream<Event> events = env.fromSource(
                source,
                WatermarkStrategy.<Event>forBoundedOutOfOrderness(Duration.ofSeconds(5)).withTimestampAssigner((e, t) -> e.st),
                "events");
        if (byExperiment) {
            events = events.filter(e -> "Experiment.assign".equals(e.name));
        } else if (filtered) {
            events = events.filter(e -> "ios".equals(e.platform));
        }
        if (workload.equals("users")) {
            events.keyBy(e -> e.userId).window(TumblingEventTimeWindows.of(Duration.ofMinutes(1)))
                    .aggregate(new Count(), new UserRow()).sinkTo(sink);
            env.execute(workload);
            return;
        }
        var keyed = events.keyBy(e -> byExperiment
                ? "{\"experiment\":\"" + e.experiment + "\",\"variant\":\"" + e.variant + "\""
                : "{\"name\":\"" + e.name + "\"");
        var windows = workload.equals("hopping")
                ? keyed.window(SlidingEventTimeWindows.of(Duration.ofMinutes(5), Duration.ofSeconds(10)))
                : keyed.window(TumblingEventTimeWindows.of(Duration.ofMinutes(1)));
        windows.aggregate(new Count(), new Row()).sinkTo(sink);
        env.execute(workload);
    }

    static void sql(StreamExecutionEnvironment env, String workload, String brokers, String topic, String out, boolean exactlyOnce)
            throws Exception {
        StreamTableEnvironment tables = StreamTableEnvironment.create(env, EnvironmentSettings.inStreamingMode());
        tables.getConfig().set("table.local-time-zone", "UTC");
        String kafka = "'connector'='kafka','properties.bootstrap.servers'='" + brokers + "','format'='json'";
        tables.executeSql("CREATE TABLE events (name STRING, experiment STRING, `variant` STRING, platform STRING, st BIGINT,"
                + " t AS TO_TIMESTAMP_LTZ(st, 3), WATERMARK FOR t AS t - INTERVAL '5' SECOND) WITH (" + kafka + ",'topic'='" + topic
                + "','properties.group.id'='" + out + "','properties.check.crcs'='false','scan.startup.mode'='earliest-offset',"
                + "'scan.bounded.mode'='latest-offset')");
        String keys = byExperiment(workload) ? "experiment, `variant`" : "name";
        String columns = byExperiment(workload) ? "experiment STRING, `variant` STRING" : "name STRING";
        tables.executeSql("CREATE TABLE results (" + columns + ", window_start BIGINT, `count` BIGINT) WITH (" + kafka + ",'topic'='" + out
                + "','properties.transaction.timeout.ms'='600000','sink.transactional-id-prefix'='" + out + "','sink.delivery-guarantee'='"
                + (exactlyOnce ? "exactly-once" : "at-least-once") + "')");
        String where = byExperiment(workload) ? " WHERE name = 'Experiment.assign'" : workload.equals("filter") ? " WHERE platform = 'ios'" : "";
        String windows = workload.equals("hopping")
                ? "HOP(TABLE events, DESCRIPTOR(t), INTERVAL '10' SECOND, INTERVAL '5' MINUTE)"
                : "TUMBLE(TABLE events, DESCRIPTOR(t), INTERVAL '1' MINUTE)";
        tables.executeSql("INSERT INTO results SELECT " + keys + ", UNIX_TIMESTAMP(CAST(window_start AS STRING)) * 1000, COUNT(*)"
                + " FROM TABLE(" + windows + ")" + where + " GROUP BY " + keys + ", window_start, window_end").await();
    }
}
