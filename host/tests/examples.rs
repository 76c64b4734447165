//! The pipelines of `examples/pipelines` on a real broker, as a user copies them: their sample goes in, with a crash in the middle, and what must
//! come out does. `kindling test` runs the same without a broker.

mod support;

use kindling::runtime::scenario::{Input, Scenario};
use rdkafka::producer::Producer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use support::*;

const EXAMPLES: [&str; 6] =
    ["experiment_counts", "check_in_counts", "latest_location", "user_sessions", "speculative_hourly_counts", "busiest_minutes"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pipelines")
}

/// An example as a job of its own: its topics have names that no run before used.
struct Example {
    job: Job,
    scenario: Scenario,
    lines: Vec<String>,
    /// By role: source, sink, late, rejects.
    topics: [String; 4],
}

impl Example {
    fn new(name: &str) -> Self {
        let read = |file: &str| std::fs::read_to_string(folder().join(file)).expect("it is there");
        let text = read(&format!("{name}.yaml"));
        let scenario = Scenario::load(&folder().join(format!("tests/{name}.yaml"))).expect("it reads");
        let lines = scenario.input.iter().map(|i| if let Input::Value(v) = i { v.clone() } else { panic!("a line") }).collect();
        let mut topics: Vec<String> = Vec::new();
        let mut own = text.clone();
        // Each is named once, the rejects' after the late rows'.
        for topic in text.split("topic: ").skip(1).map(|t| t.split([' ', '}']).next().expect("a name")) {
            let unique = unique(topic);
            own = own.replace(&format!("topic: {topic} "), &format!("topic: {unique} "));
            topics.push(unique);
        }
        if topics.len() == 3 {
            topics.insert(2, String::new());
        }
        let job = Job::new(&format!("name: {}\n{own}", unique(&name.replace('_', "-"))));
        std::fs::write(job.dir.path().join("kindling.yaml"), read("kindling.yaml")).expect("written");
        create_topic(&topics[0], 1);
        Self { job, scenario, lines, topics: topics.try_into().expect("four roles") }
    }

    fn send(&self, lines: &[String]) {
        let producer = producer();
        for line in lines {
            send(&producer, &self.topics[0], 0, line.as_bytes());
        }
        producer.flush(std::time::Duration::from_secs(30)).expect("delivered");
    }

    /// The example's sample through a job that dies in the middle.
    fn run(&self) {
        let (first, rest) = self.lines.split_at(self.lines.len() / 2);
        self.send(first);
        let mut child = self.job.start(&["--epoch-rows", "3"]);
        self.job.wait_for("restored", 1);
        std::thread::sleep(std::time::Duration::from_millis(300));
        child.kill().expect("killed");
        child.wait().expect("gone");
        self.send(rest);
        self.job.run_to_end();
    }

    fn check(&self, name: &str) {
        let [_, sink, late, rejects] = &self.topics;
        let json = |text: &String| serde_json::from_str::<Value>(text).expect("JSON");
        let expect = &self.scenario.expect;
        let is_table = !["user_sessions", "experiment_counts", "busiest_minutes"].contains(&name);
        let mut found: Vec<Value> = match is_table {
            true => read_table(sink).into_values().collect(),
            false => read_committed(sink).iter().map(json).collect(),
        };
        let mut want = expect.output.clone();
        found.sort_by_key(Value::to_string);
        want.sort_by_key(Value::to_string);
        assert_eq!(found, want, "{name}");
        for (topic, want) in [(late, &expect.late), (rejects, &expect.rejects)] {
            let mut found: Vec<Value> =
                if topic.is_empty() { Vec::new() } else { read_committed(topic).iter().map(json).collect() };
            // In the order of the source: that of a topic with several partitions is any.
            found.sort_by_key(|row| row["offset"].as_i64());
            assert_eq!(found.len(), want.len(), "{name}: {topic}");
            for (found, want) in found.iter().zip(want) {
                for (member, value) in want.as_object().expect("members") {
                    let same = match (&found[member], value) {
                        (Value::String(whole), Value::String(part)) => whole.contains(part.as_str()),
                        (found, value) => found == value,
                    };
                    assert!(same, "{name}: {member} of {found} is not {value}");
                }
            }
        }
    }
}

#[test]
fn every_example_gives_on_a_broker_what_its_test_says() {
    let _alone = alone();
    for name in EXAMPLES {
        let example = Example::new(name);
        example.run();
        example.check(name);
    }
}

#[test]
fn every_pipeline_of_the_folder_is_an_example_with_a_sample_and_a_test_and_is_told_of() {
    let readme = std::fs::read_to_string(folder().join("README.md")).expect("a README");
    let mut found: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder()).expect("the folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        found.extend(name.strip_suffix(".yaml").filter(|n| *n != "kindling").map(str::to_owned));
    }
    found.sort_unstable();
    let mut named = EXAMPLES.map(str::to_owned);
    named.sort_unstable();
    assert_eq!(found, named);
    for name in EXAMPLES {
        let sample = folder().join(format!("{name}.jsonl"));
        assert!(sample.is_file() && folder().join(format!("tests/{name}.yaml")).is_file(), "{name}");
        assert!(readme.contains(&format!("[{name}]({name}.yaml)")), "{name} is not in the README");
    }
}
