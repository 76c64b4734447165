import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/** Swipes to matches, as plugins/match-detection has them: by pair the last swipe of each of the two, forgotten a week after the last one. */
public class Matches {
    @JsonIgnoreProperties(ignoreUnknown = true)
    public static class Swipe {
        public String userId, otherId;
        public boolean like;
        public long ts;

        boolean isLow() {
            return userId.compareTo(otherId) < 0;
        }

        String pair() {
            return isLow() ? userId + '|' + otherId : otherId + '|' + userId;
        }
    }

    /** Low is who comes first in order of their ids. */
    public static class Pair {
        public long lowAt = Long.MIN_VALUE, highAt = Long.MIN_VALUE, last;
        public boolean lowLikes, highLikes, isMatch;

        /** Takes in a swipe; true when it completes the match. */
        boolean swipe(Swipe swipe) {
            boolean low = swipe.isLow();
            if (swipe.ts <= (low ? lowAt : highAt)) {
                return false;
            }
            if (low) {
                lowAt = swipe.ts;
                lowLikes = swipe.like;
            } else {
                highAt = swipe.ts;
                highLikes = swipe.like;
            }
            boolean completes = !isMatch && lowLikes && highLikes;
            isMatch |= completes;
            return completes;
        }
    }

    public static class Detect extends KeyedProcessFunction<String, Swipe, String> {
        private static final long TTL = Duration.ofDays(7).toMillis();
        private transient ValueState<Pair> pairs;

        @Override
        public void open(OpenContext context) {
            pairs = getRuntimeContext().getState(new ValueStateDescriptor<>("pair", Pair.class));
        }

        @Override
        public void processElement(Swipe swipe, Context context, Collector<String> out) throws Exception {
            Pair pair = pairs.value();
            if (pair == null) {
                pair = new Pair();
                pair.last = swipe.ts;
                context.timerService().registerEventTimeTimer(swipe.ts + TTL);
            }
            pair.last = Math.max(pair.last, swipe.ts);
            if (pair.swipe(swipe)) {
                out.collect("{\"swiper\":\"" + swipe.userId + "\",\"swipee\":\"" + swipe.otherId + "\",\"ts\":" + swipe.ts + "}");
            }
            pairs.update(pair);
        }

        /** One timer a pair: set anew where swipes came since. */
        @Override
        public void onTimer(long time, OnTimerContext context, Collector<String> out) throws Exception {
            Pair pair = pairs.value();
            if (pair.last + TTL > time) {
                context.timerService().registerEventTimeTimer(pair.last + TTL);
            } else {
                pairs.clear();
            }
        }
    }

    static void job(StreamExecutionEnvironment env, KafkaSource<Swipe> source, KafkaSink<String> sink) {
        env.fromSource(
                        source,
                        WatermarkStrategy.<Swipe>forBoundedOutOfOrderness(Duration.ofSeconds(5)).withTimestampAssigner((s, t) -> s.ts),
                        "swipes")
                .keyBy(Swipe::pair).process(new Detect()).sinkTo(sink);
    }
}
