import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.module.blackbird.BlackbirdModule;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;

/**
 * The bench's workloads on Kafka Streams, tuned: StreamsJob WORKLOAD BROKERS TOPIC OUT GUARANTEE STATE_DIR. Ends when its group has no lag
 * left, on the topic and on its own topics. The grace is a day: tasks read partitions at different speeds, and rows behind the others must
 * count.
 */
public class StreamsJob {
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

    static Class<?> columns(String workload) {
        return workload.equals("users") ? ByUser.class : workload.equals("filter") ? Filtered.class : ByName.class;
    }

    public static void main(String[] args) throws Exception {
        String workload = args[0], brokers = args[1], topic = args[2], out = args[3];
        Properties p = new Properties();
        p.put("application.id", out);
        p.put("bootstrap.servers", brokers);
        p.put("processing.guarantee", args[4]);
        p.put("state.dir", args[5]);
        p.put("auto.offset.reset", "earliest");
        p.put("num.stream.threads", "2");
        p.put("statestore.cache.max.bytes", "104857600");
        p.put("commit.interval.ms", "1000");
        p.put("topology.optimization", "all");
        p.put("consumer.max.poll.records", "5000");
        p.put("consumer.fetch.min.bytes", "1");
        p.put("consumer.max.partition.fetch.bytes", "4194304");
        p.put("buffered.records.per.partition", "10000");
        p.put("consumer.check.crcs", "false");
        p.put("producer.linger.ms", "50");
        p.put("producer.compression.type", "lz4");
        KafkaStreams streams = new KafkaStreams(topology(workload, topic, out, p).build(p), p);
        streams.start();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            while (lag(admin, out, topic, workload.equals("users") ? 0 : 4) != 0) {
                if (streams.state() == KafkaStreams.State.ERROR) {
                    System.exit(1);
                }
                Thread.sleep(50);
            }
        }
        streams.close(Duration.ofSeconds(30));
        streams.cleanUp();
        System.exit(0);
    }

    static StreamsBuilder topology(String workload, String topic, String out, Properties p) {
        ObjectMapper mapper = new ObjectMapper().registerModule(new BlackbirdModule());
        ObjectReader reader = mapper.addMixIn(Event.class, columns(workload)).readerFor(Event.class);
        Serde<Event> serde = Serdes.serdeFrom((t, e) -> null, (t, bytes) -> {
            try {
                return reader.readValue(bytes);
            } catch (Exception e) {
                throw new RuntimeException(e);
            }
        });
        if (workload.equals("users")) {
            return byUser(topic, out, serde);
        }
        boolean byExperiment = workload.equals("counts") || workload.equals("hopping");
        StreamsBuilder builder = new StreamsBuilder();
        KStream<byte[], Event> events = builder.stream(topic,
                Consumed.with(Serdes.ByteArray(), serde).withTimestampExtractor((r, t) -> ((Event) r.value()).st));
        if (byExperiment) {
            events = events.filter((k, e) -> "Experiment.assign".equals(e.name));
        } else if (workload.equals("filter")) {
            events = events.filter((k, e) -> "ios".equals(e.platform));
        }
        TimeWindows windows = workload.equals("hopping")
                ? TimeWindows.ofSizeAndGrace(Duration.ofMinutes(5), Duration.ofDays(1)).advanceBy(Duration.ofSeconds(10))
                : TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofDays(1));
        events.map((k, e) -> KeyValue.pair(byExperiment
                        ? "{\"experiment\":\"" + e.experiment + "\",\"variant\":\"" + e.variant + "\""
                        : "{\"name\":\"" + e.name + "\"", ""))
                .groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
                .windowedBy(windows)
                .count(Materialized.with(Serdes.String(), Serdes.Long()))
                .toStream()
                .map((w, n) -> KeyValue.pair(w.key(), w.key() + ",\"window_start\":" + w.window().start() + ",\"count\":" + n + "}"))
                .to(out, Produced.with(Serdes.String(), Serdes.String()));
        return builder;
    }

    /** The topic's records have the user for their key, so nothing goes through a topic of the job's own. */
    static StreamsBuilder byUser(String topic, String out, Serde<Event> serde) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.String(), serde).withTimestampExtractor((r, t) -> ((Event) r.value()).st))
                .mapValues(e -> "")
                .groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofMinutes(1)))
                .count(Materialized.<String, Long, WindowStore<Bytes, byte[]>>with(Serdes.String(), Serdes.Long())
                        .withRetention(Duration.ofMinutes(3)))
                .toStream()
                .map((w, n) -> KeyValue.pair(w.key(),
                        "{\"userId\":" + w.key() + ",\"window_start\":" + w.window().start() + ",\"count\":" + n + "}"))
                .to(out, Produced.with(Serdes.String(), Serdes.String()));
        return builder;
    }

    /** Rows that the group has not committed yet; -1 while it has not committed on all topics that it reads. */
    static long lag(Admin admin, String group, String topic, int between) throws Exception {
        var committed = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        long own = committed.keySet().stream().filter(t -> !t.topic().equals(topic)).count();
        if (own < between || committed.size() < 4 + between) {
            return -1;
        }
        Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
        committed.keySet().forEach(t -> ends.put(t, OffsetSpec.latest()));
        var found = admin.listOffsets(ends, new ListOffsetsOptions(IsolationLevel.READ_COMMITTED)).all().get();
        long lag = 0;
        for (var entry : committed.entrySet()) {
            // A transaction's marker takes an offset that nobody reads.
            long left = found.get(entry.getKey()).offset() - entry.getValue().offset();
            lag += left > 1 || entry.getKey().topic().equals(topic) ? Math.max(0, left) : 0;
        }
        return lag;
    }
}
