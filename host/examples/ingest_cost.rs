//! What reading a Kafka topic costs: rows/s and CPU seconds per million rows of this process, to the topic's end.
//!
//! Measured: `KafkaSource` with one reader a thread, alone and with decoding of four JSON fields. Not measured: anything after.
//! `cargo run --release --example ingest_cost -- host:port topic readers decode|drain`, after `... host:port topic ROWS fill`, which makes
//! the topic (4 partitions, lz4).

use kindling::config::spec::{KafkaSourceSpec, SourceSpec, StartingOffsets};
use kindling::element::PartitionName;
use kindling::ingest::decode::Decoder;
use kindling::ingest::{OpenOptions, Reader, open};
use kindling::plan::{DecodeField, FieldSource, OutputType, PathStep};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::time::{Duration, Instant};

mod rows;

const POLL_ROWS: usize = 8_192;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, readers, mode] = args.as_slice() else {
        return Err("usage: ingest_cost host:port topic readers decode|drain|fill".into());
    };
    if mode == "fill" {
        return fill(brokers, topic, readers.parse()?);
    }
    let spec = SourceSpec::Kafka(KafkaSourceSpec {
        properties: [("bootstrap.servers".into(), brokers.clone())].into(),
        topic: topic.clone(),
        fail_on_data_loss: true,
        starting_offsets: StartingOffsets::Earliest,
    });
    let mut source = open(&spec, &OpenOptions { until_end: true, group: "ingest-cost".into(), ..OpenOptions::default() })?;
    let partitions = source.partitions().to_vec();
    let positions = source.start_positions()?;
    let readers = source.readers(&positions, readers.parse()?)?;
    let count = readers.len();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let threads: Vec<_> = readers
        .into_iter()
        .enumerate()
        .map(|(r, reader)| {
            let (mine, partitions) = ((0..partitions.len()).filter(|p| p % count == r).count(), partitions.clone());
            let decode = mode == "decode";
            std::thread::spawn(move || read(reader, mine, &partitions, decode))
        })
        .collect();
    let (mut rows, mut batches) = (0, 0);
    for thread in threads {
        let (r, b) = thread.join().map_err(|_| "a reader panicked")?;
        rows += r;
        batches += b;
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let per_million = cpu / rows as f64 * 1e6;
    println!(
        "{mode} with {count} readers: {rows} rows in {batches} batches, {:.0} rows/s, {per_million:.3} CPU s per million",
        rows as f64 / seconds
    );
    Ok(())
}

fn read(mut reader: Box<dyn Reader>, mut open: usize, partitions: &[PartitionName], decode: bool) -> (usize, usize) {
    let field = |name: &str, output| DecodeField {
        name: name.into(),
        from: FieldSource::Json { in_key: false, path: vec![PathStep::Member(name.into())], output },
    };
    let text = OutputType::String;
    let fields =
        [field("name", text), field("experiment", text), field("variant", text), field("ts", OutputType::MilliToTimestamp)];
    let mut decoder = Decoder::new(&fields, partitions);
    let (mut rows, mut batches, mut faults) = (0, 0, Vec::new());
    while open > 0 {
        let polled = reader.poll(POLL_ROWS, Duration::from_millis(100)).expect("reads");
        open -= polled.finished.len();
        for batch in polled.batches {
            rows += batch.records.len();
            batches += 1;
            if decode {
                decoder.decode(&batch, 0..batch.records.len(), &mut faults).expect("decodes");
            }
        }
    }
    assert!(faults.is_empty(), "{:?}", faults[0]);
    (rows, batches)
}

fn fill(brokers: &str, topic: &str, rows: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let new = NewTopic::new(topic, 4, TopicReplication::Fixed(1));
    tokio::runtime::Builder::new_current_thread().build()?.block_on(admin.create_topics(&[new], &AdminOptions::new()))?;
    config.set("compression.type", "lz4").set("linger.ms", "50").set("batch.size", "262144").set("batch.num.messages", "100000");
    let producer: BaseProducer = config.create()?;
    for i in 0..rows {
        let value = rows::row(i);
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition((i % 4) as i32).payload(&value);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    Ok(())
}

/// User and system CPU seconds of this process (Linux), in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
