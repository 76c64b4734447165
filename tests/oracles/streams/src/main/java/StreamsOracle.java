import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.AppInfoParser;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;

/**
 * Counts by key and window on Kafka Streams: StreamsOracle BROKERS TOPIC tumbling|hopping|session SIZE SLIDE GRACE SCRATCH (milliseconds; the
 * size of a session is its gap). Writes to standard output, a line each: the version, the last count of each window, and each window of a
 * record that was expired ("skipped"): Kafka Streams says so in its log only.
 */
public class StreamsOracle {
    static final Pattern SKIPPED = Pattern.compile("Skipping record for expired window\\. topic=\\[[^]]*\\] partition=\\[(\\d+)\\] offset=\\[(\\d+)\\]");

    public static void main(String[] args) throws Exception {
        String brokers = args[0], topic = args[1], kind = args[2];
        long size = Long.parseLong(args[3]), slide = Long.parseLong(args[4]), grace = Long.parseLong(args[5]);
        Path scratch = Path.of(args[6]), log = scratch.resolve("log");
        Files.createDirectories(scratch);
        // Before the first logger is made.
        System.setProperty("org.slf4j.simpleLogger.logFile", log.toString());
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "warn");
        Properties p = new Properties();
        p.put("application.id", topic + "-streams");
        p.put("bootstrap.servers", brokers);
        p.put("state.dir", scratch.resolve("state").toString());
        p.put("auto.offset.reset", "earliest");
        p.put("num.stream.threads", "1");
        p.put("statestore.cache.max.bytes", "0");
        p.put("commit.interval.ms", "100");
        ObjectMapper mapper = new ObjectMapper();
        Serde<JsonNode> serde = Serdes.serdeFrom((t, n) -> null, (t, bytes) -> {
            try {
                return mapper.readTree(bytes);
            } catch (Exception e) {
                throw new RuntimeException(e);
            }
        });
        StreamsBuilder builder = new StreamsBuilder();
        KGroupedStream<String, String> groups = builder
                .stream(topic, Consumed.with(Serdes.String(), serde).withTimestampExtractor((r, t) -> ((JsonNode) r.value()).get("st").asLong()))
                .mapValues(v -> "")
                .groupByKey(Grouped.with(Serdes.String(), Serdes.String()));
        Duration length = Duration.ofMillis(size), late = Duration.ofMillis(grace);
        KTable<Windowed<String>, Long> counts = kind.equals("session")
                ? groups.windowedBy(SessionWindows.ofInactivityGapAndGrace(length, late)).count()
                : groups.windowedBy(TimeWindows.ofSizeAndGrace(length, late).advanceBy(Duration.ofMillis(slide))).count();
        Map<String, Long> results = new ConcurrentHashMap<>();
        counts.toStream().foreach((window, count) -> {
            // A session's end is its last row.
            long end = window.window().end() + (kind.equals("session") ? size : 0);
            String key = "{\"k\":\"" + window.key() + "\",\"start\":" + window.window().start() + ",\"end\":" + end;
            if (count == null) {
                results.remove(key);
            } else {
                results.put(key, count);
            }
        });
        KafkaStreams streams = new KafkaStreams(builder.build(p), p);
        streams.start();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
            while (!isDone(admin, topic + "-streams", topic)) {
                if (streams.state() == KafkaStreams.State.ERROR) {
                    System.exit(1);
                }
                Thread.sleep(50);
            }
        }
        streams.close(Duration.ofSeconds(30));
        System.out.println("{\"version\":\"" + AppInfoParser.getVersion() + "\"}");
        results.forEach((key, count) -> System.out.println(key + ",\"count\":" + count + "}"));
        var skipped = SKIPPED.matcher(Files.readString(log, StandardCharsets.UTF_8));
        while (skipped.find()) {
            System.out.println("{\"skipped\":{\"partition\":" + skipped.group(1) + ",\"offset\":" + skipped.group(2) + "}}");
        }
        System.exit(0);
    }

    /** Whether the group has committed all of the topic. */
    static boolean isDone(Admin admin, String group, String topic) throws Exception {
        var committed = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
        int partitions = admin.describeTopics(java.util.List.of(topic)).allTopicNames().get().get(topic).partitions().size();
        for (int partition = 0; partition < partitions; partition++) {
            asked.put(new TopicPartition(topic, partition), OffsetSpec.latest());
        }
        var ends = admin.listOffsets(asked).all().get();
        return ends.entrySet().stream().allMatch(end -> end.getValue().offset() == 0
                || committed.containsKey(end.getKey()) && committed.get(end.getKey()).offset() >= end.getValue().offset());
    }
}
