import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.time.Duration;
import java.util.Set;
import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.runtime.util.EnvironmentInformation;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.EventTimeSessionWindows;
import org.apache.flink.streaming.api.windowing.assigners.SlidingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.assigners.WindowAssigner;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.CloseableIterator;
import org.apache.flink.util.Collector;
import org.apache.flink.util.OutputTag;
import org.apache.kafka.common.TopicPartition;

/**
 * Counts by key and window on Flink: FlinkOracle BROKERS TOPIC tumbling|hopping|session SIZE SLIDE BOUND LATENESS PARTITIONS (milliseconds; the
 * size of a session is its gap). Writes to standard output, a line each: the version, the counts as windows fire (the last of a window counts),
 * and the ids of rows that were late. The watermark moves with each row and not each 200 ms, so that what is late does not depend on a clock;
 * each partition has windows of its own, so that it does not depend on how partitions interleave.
 */
public class FlinkOracle {
    public static class Event {
        public String k;
        public long st, id;
    }

    public static class Parse extends AbstractDeserializationSchema<Event> {
        private transient ObjectMapper mapper;

        @Override
        public void open(InitializationContext context) {
            mapper = new ObjectMapper();
        }

        @Override
        public Event deserialize(byte[] bytes) throws IOException {
            JsonNode node = mapper.readTree(bytes);
            Event event = new Event();
            event.k = node.get("k").asText();
            event.st = node.get("st").asLong();
            event.id = node.get("id").asLong();
            return event;
        }
    }

    /** As BoundedOutOfOrdernessWatermarks, but at each event. */
    public static class EachEvent implements WatermarkGenerator<Event> {
        private final long bound;
        private long max;

        EachEvent(long bound) {
            this.bound = bound;
            max = Long.MIN_VALUE + bound + 1;
        }

        @Override
        public void onEvent(Event event, long timestamp, WatermarkOutput output) {
            max = Math.max(max, timestamp);
            output.emitWatermark(new Watermark(max - bound - 1));
        }

        @Override
        public void onPeriodicEmit(WatermarkOutput output) {}
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
            out.collect("{\"k\":\"" + key + "\",\"start\":" + context.window().getStart() + ",\"end\":" + context.window().getEnd()
                    + ",\"count\":" + counts.iterator().next() + "}");
        }
    }

    public static void main(String[] args) throws Exception {
        String brokers = args[0], topic = args[1], kind = args[2];
        long size = Long.parseLong(args[3]), slide = Long.parseLong(args[4]), bound = Long.parseLong(args[5]), lateness = Long.parseLong(args[6]);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1);
        WatermarkStrategy<Event> watermarks = WatermarkStrategy.<Event>forGenerator(c -> new EachEvent(bound)).withTimestampAssigner((e, t) -> e.st);
        WindowAssigner<Object, TimeWindow> windows = kind.equals("session")
                ? EventTimeSessionWindows.withGap(Duration.ofMillis(size))
                : SlidingEventTimeWindows.of(Duration.ofMillis(size), Duration.ofMillis(slide));
        OutputTag<Event> late = new OutputTag<>("late") {};
        DataStream<String> lines = null;
        for (int partition = 0; partition < Integer.parseInt(args[7]); partition++) {
            KafkaSource<Event> source = KafkaSource.<Event>builder()
                    .setBootstrapServers(brokers).setPartitions(Set.of(new TopicPartition(topic, partition)))
                    .setGroupId(topic + "-flink-" + partition)
                    .setStartingOffsets(OffsetsInitializer.earliest()).setBounded(OffsetsInitializer.latest())
                    .setValueOnlyDeserializer(new Parse()).build();
            SingleOutputStreamOperator<String> results = env.fromSource(source, watermarks, "events-" + partition)
                    .keyBy(e -> e.k)
                    .window(windows)
                    .allowedLateness(Duration.ofMillis(lateness))
                    .sideOutputLateData(late)
                    .aggregate(new Count(), new Row());
            DataStream<String> both = results.union(results.getSideOutput(late).map(e -> "{\"late\":" + e.id + "}"));
            lines = lines == null ? both : lines.union(both);
        }
        System.out.println("{\"version\":\"" + EnvironmentInformation.getVersion() + "\"}");
        try (CloseableIterator<String> collected = lines.executeAndCollect()) {
            collected.forEachRemaining(System.out::println);
        }
        System.exit(0);
    }
}
