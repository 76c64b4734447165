//! The librdkafka properties of a source's consumer: the user's, Kindling's defaults, and those that a job depends on.

use crate::ingest::IngestError;
use crate::limits::{PREFETCH_BYTES, PREFETCH_PARTITION_BYTES, read_ahead};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use std::collections::BTreeMap;

/// Used where the user says nothing; the names after the first are its aliases.
const DEFAULTS: [(&[&str], &str); 5] = [
    // What a broker's operator sees in its log and quotas.
    (&["client.id"], "kindling"),
    (&["isolation.level"], "read_committed"),
    // The default of 1,000 ms leaves a fast consumer idle whenever its queue was full once.
    (&["fetch.queue.backoff.ms"], "10"),
    (&["fetch.wait.max.ms"], "50"),
    // The default of 10 s is how long a broker that is back would go unnoticed.
    (&["reconnect.backoff.max.ms"], "1000"),
];

/// What a job depends on, and what to say to a user who wants it otherwise.
const OWN: [(&str, &str, &str); 4] = [
    ("enable.auto.commit", "false", "offsets are committed with each epoch"),
    ("enable.auto.offset.store", "false", "offsets are committed with each epoch"),
    ("enable.partition.eof", "true", "idle partitions are found by it"),
    ("auto.offset.reset", "error", "write `startingOffsets` and `failOnDataLoss` in the pipeline's source"),
];

/// The configuration of a consumer of `group` that reads `partitions` partitions, of a job whose state may take so many bytes of memory.
///
/// # Errors
/// A property that is Kindling's own and has another value.
pub(super) fn config(
    properties: &BTreeMap<String, String>,
    group: &str,
    partitions: usize,
    state_bytes: usize,
) -> Result<ClientConfig, IngestError> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Info);
    let (rows, bytes) = read_ahead(state_bytes);
    let (rows, bytes) = (rows.to_string(), bytes.to_string());
    let sized: [(&[&str], &str); 2] =
        [(&["fetch.message.max.bytes", "max.partition.fetch.bytes"], &bytes), (&["queued.min.messages"], &rows)];
    for (names, value) in DEFAULTS.into_iter().chain(sized) {
        config.set(names[0], value);
        if names.iter().any(|n| properties.contains_key(*n)) {
            config.remove(names[0]);
        }
    }
    // Partitions have queues of their own, and then librdkafka counts this bound for each of them.
    let (least, most) = PREFETCH_PARTITION_BYTES;
    config.set("queued.max.messages.kbytes", ((PREFETCH_BYTES / partitions.max(1)).clamp(least, most) >> 10).to_string());
    for (name, value) in properties {
        config.set(name, value);
    }
    for (name, value, why) in OWN {
        refuse_other(properties, name, value, why)?;
        config.set(name, value);
    }
    refuse_other(properties, "group.id", group, "it follows from the pipeline's team and name")?;
    config.set("group.id", group);
    Ok(config)
}

fn refuse_other(properties: &BTreeMap<String, String>, name: &str, value: &str, why: &str) -> Result<(), IngestError> {
    match properties.get(name) {
        Some(other) if other != value => Err(IngestError::Config(format!(
            "Kafka property `{name}` is `{other}`, but Kindling sets it to `{value}` ({why}): take it out of the connection"
        ))),
        _ => Ok(()),
    }
}

/// What is wrong with a client that could not be made. Secrets are not shown.
pub(super) fn refused(error: KafkaError) -> IngestError {
    IngestError::Config(match error {
        KafkaError::ClientConfig(_, _, name, _) if is_secret(&name) => {
            format!("Kafka property `{name}`: librdkafka refuses its value (not shown, it is a secret)")
        }
        KafkaError::ClientConfig(_, why, name, value) => {
            format!("Kafka property `{name}: {value}`: librdkafka refuses it: {why}")
        }
        other => format!("Kafka client: {other}"),
    })
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", "jaas", "token", "key.pem", "oauthbearer.config", "keystore"].iter().any(|s| name.contains(s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::STATE_MEMORY_BYTES;

    fn with(properties: &[(&str, &str)], partitions: usize) -> Result<ClientConfig, IngestError> {
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        config(&properties, "g", partitions, STATE_MEMORY_BYTES)
    }

    #[test]
    fn the_user_s_properties_win_over_defaults_only() {
        let config = with(&[("isolation.level", "read_uncommitted"), ("max.partition.fetch.bytes", "7")], 4).unwrap();
        assert_eq!(config.get("isolation.level"), Some("read_uncommitted"));
        assert_eq!((config.get("fetch.message.max.bytes"), config.get("max.partition.fetch.bytes")), (None, Some("7")));
        assert_eq!((config.get("fetch.queue.backoff.ms"), config.get("auto.offset.reset")), (Some("10"), Some("error")));
        assert_eq!(config.get("queued.max.messages.kbytes"), Some("8192"));
        let small = super::config(&BTreeMap::new(), "g", 4, 64 << 20).unwrap();
        assert_eq!((small.get("queued.min.messages"), small.get("fetch.message.max.bytes")), (Some("4096"), Some("262144")));
        assert_eq!(with(&[], 10_000).unwrap().get("queued.max.messages.kbytes"), Some("1024"));
        assert!(with(&[("enable.auto.commit", "false"), ("group.id", "g")], 1).is_ok());
        let error = with(&[("auto.offset.reset", "earliest")], 1).unwrap_err().to_string();
        assert!(error.contains("`auto.offset.reset` is `earliest`") && error.contains("startingOffsets"), "{error}");
    }

    #[test]
    fn what_librdkafka_refuses_is_named_and_secrets_are_not_shown() {
        let text = |name: &str, value: &str| {
            refused(with(&[(name, value)], 1).unwrap().create_native_config().err().unwrap()).to_string()
        };
        assert!(text("fetch.wait.max.ms", "soon").contains("`fetch.wait.max.ms: soon`"));
        assert!(text("no.such.property", "1").contains("`no.such.property: 1`"));
        let secret = text("sasl.passwords", "hunter2");
        assert!(secret.contains("sasl.passwords") && !secret.contains("hunter2"), "{secret}");
    }
}
