//! Topics and client settings that sinks share.

use crate::output::CommitError;
use crate::release::Later;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a broker may take to answer, or a new topic to get its leaders.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// A client's configuration from a connection's properties.
pub fn client(properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in properties {
        config.set(name, value);
    }
    config
}

/// What librdkafka says, with the brokers that were asked.
pub fn unreachable(properties: &BTreeMap<String, String>, what: &str, why: &dyn std::fmt::Display) -> CommitError {
    let brokers = properties.get("bootstrap.servers").map_or("?", String::as_str);
    CommitError::Aborted(format!("{what} on {brokers}: {why}"))
}

/// Makes `topic` where it is not there; with so many partitions, else as many as the broker's default.
///
/// # Errors
/// [`CommitError::Config`] when the broker refuses, [`CommitError::Aborted`] when it does not answer.
pub fn create(properties: &BTreeMap<String, String>, topic: &str, partitions: Option<usize>) -> Result<(), CommitError> {
    create_with(properties, topic, partitions, &[]).map(drop)
}

/// As [`create`], with settings of the topic; says whether it was made. Waits until all partitions have a leader. A topic that is there is
/// left as it is.
///
/// # Errors
/// As [`create`].
pub fn create_with(
    properties: &BTreeMap<String, String>,
    topic: &str,
    partitions: Option<usize>,
    settings: &[(&str, &str)],
) -> Result<bool, CommitError> {
    let config = client(properties);
    let bad = |e: rdkafka::error::KafkaError| CommitError::Config(format!("topic {topic}: {e}"));
    let probe: BaseConsumer = config.create().map_err(bad)?;
    if leaders(&probe, topic).is_some() {
        return Ok(false);
    }
    let admin: Later<AdminClient<DefaultClientContext>> = Later::new(config.create().map_err(bad)?);
    let count = partitions.map_or(-1, |n| i32::try_from(n).unwrap_or(i32::MAX));
    let mut new = NewTopic::new(topic, count, TopicReplication::Fixed(-1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let started = Instant::now();
    loop {
        let made = futures_executor(admin.create_topics([&new], &options));
        let refused = match made.map_err(|e| unreachable(properties, &format!("topic {topic} can't be made"), &e))?.pop() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => code,
            _ => break,
        };
        if !passes(refused) || started.elapsed() > PATIENCE {
            return Err(CommitError::Config(format!("topic {topic} can't be made: {refused}")));
        }
        std::thread::sleep(PAUSE);
    }
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if leaders(&probe, topic).is_some() {
            return Ok(true);
        }
        std::thread::sleep(PAUSE);
    }
    Err(unreachable(properties, &format!("topic {topic}"), &"its partitions have no leader yet"))
}

/// What a setting of a topic must be.
pub struct Rule<'a> {
    setting: &'static str,
    wanted: Wanted<'a>,
    /// What would happen otherwise.
    why: &'static str,
}

enum Wanted<'a> {
    Is(&'a str),
    AtLeast(i64),
}

impl<'a> Rule<'a> {
    /// It must be `value`.
    pub fn is(setting: &'static str, value: &'a str, why: &'static str) -> Self {
        Self { setting, wanted: Wanted::Is(value), why }
    }

    /// It must be a number from `least`, or -1 (without a bound).
    pub fn at_least(setting: &'static str, least: i64, why: &'static str) -> Self {
        Self { setting, wanted: Wanted::AtLeast(least), why }
    }

    /// What is wrong with `found`, and the value to set.
    fn fault(&self, found: &str) -> Option<(String, String)> {
        let (good, wanted, set) = match self.wanted {
            Wanted::Is(value) => (found == value, value.to_owned(), value.to_owned()),
            Wanted::AtLeast(least) => {
                // What can't be read as a number is left to the broker.
                let good = found.parse::<i64>().map_or(true, |n| n == -1 || n >= least);
                (good, format!("at least {least}"), least.to_string())
            }
        };
        let Self { setting, why, .. } = self;
        (!good).then(|| (format!("{setting} is {found} and must be {wanted}: {why}"), format!("{setting}={set}")))
    }
}

/// Refuses a topic that does not have so many partitions, or whose settings break a rule.
///
/// # Errors
/// [`CommitError::Config`] with all that is wrong and what to do, [`CommitError::Aborted`] when the broker does not answer.
pub fn check(
    properties: &BTreeMap<String, String>,
    topic: &str,
    partitions: usize,
    rules: &[Rule<'_>],
) -> Result<(), CommitError> {
    let config = client(properties);
    let bad = |e: rdkafka::error::KafkaError| CommitError::Config(format!("topic {topic}: {e}"));
    let probe: BaseConsumer = config.create().map_err(bad)?;
    let found = leaders(&probe, topic).ok_or_else(|| unreachable(properties, &format!("topic {topic}"), &"no answer"))?;
    if found != partitions {
        return Err(CommitError::Config(format!(
            "topic {topic} has {found} partitions and must have {partitions}, one a shard of the job's state. Is it the changelog of another \
             program? Then give the job another name. If nothing in it is needed: delete it, and the job makes it anew"
        )));
    }
    // A user without the right to look is not stopped for it.
    let Some(resource) = described(properties, topic)? else { return Ok(()) };
    let value = |rule: &Rule<'_>| resource.get(rule.setting).and_then(|entry| entry.value.clone());
    // A setting that the broker does not tell of is one that it does not have.
    let faults: Vec<_> = rules.iter().filter_map(|r| r.fault(&value(r)?)).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let (texts, settings): (Vec<_>, Vec<_>) = faults.into_iter().unzip();
    Err(CommitError::Config(format!(
        "topic {topic} has settings with which state would be lost:\n  {}\nset them: kafka-configs.sh --bootstrap-server {} --alter \
         --entity-type topics --entity-name {topic} --add-config {}",
        texts.join("\n  "),
        properties.get("bootstrap.servers").map_or("?", String::as_str),
        settings.iter().map(|s| if s.contains(',') { format!("{s:?}") } else { s.clone() }).collect::<Vec<_>>().join(",")
    )))
}

/// A setting of a topic; none where the user may not look, or the broker does not tell of it.
///
/// # Errors
/// [`CommitError::Aborted`] when the broker does not answer.
pub fn setting(properties: &BTreeMap<String, String>, topic: &str, name: &str) -> Result<Option<String>, CommitError> {
    Ok(described(properties, topic)?.and_then(|resource| resource.get(name).and_then(|entry| entry.value.clone())))
}

/// The settings of a topic; none where the user may not look.
fn described(properties: &BTreeMap<String, String>, topic: &str) -> Result<Option<ConfigResource>, CommitError> {
    let bad = |e: rdkafka::error::KafkaError| CommitError::Config(format!("topic {topic}: {e}"));
    let admin: Later<AdminClient<DefaultClientContext>> = Later::new(client(properties).create().map_err(bad)?);
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let described = futures_executor(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options));
    let described = described.map_err(|e| unreachable(properties, &format!("topic {topic}"), &e))?;
    Ok(described.into_iter().next().and_then(Result::ok))
}

/// Whether a cluster that has just started answers so, before all of its brokers are known to its controller.
fn passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{BrokerNotAvailable, InvalidReplicationFactor, LeaderNotAvailable, NotController, RequestTimedOut};
    matches!(code, InvalidReplicationFactor | NotController | LeaderNotAvailable | BrokerNotAvailable | RequestTimedOut)
}

/// How many partitions the topic has, when all of them have a leader.
pub fn leaders(consumer: &BaseConsumer, topic: &str) -> Option<usize> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).ok()?;
    let topic = metadata.topics().first()?;
    let led = topic.error().is_none() && !topic.partitions().is_empty() && topic.partitions().iter().all(|p| p.leader() >= 0);
    led.then(|| topic.partitions().len())
}

/// Waits for a future on this thread; the admin client drives it from a thread of its own.
fn futures_executor<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
