//! TLS and SASL against a real broker: `KINDLING_TLS_DIR` is the folder of one that `tests/broker/broker start --tls` started.

mod support;

use kindling::time::now_ms;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::*;

/// The broker's folder; none outside CI where somebody else's broker is used.
fn tls() -> Option<(PathBuf, u16)> {
    let Some(dir) = std::env::var_os("KINDLING_TLS_DIR").map(PathBuf::from) else {
        assert!(std::env::var("CI").is_err(), "KINDLING_TLS_DIR must be set in CI");
        eprintln!("a broker of somebody else has no known certificates");
        return None;
    };
    let port = std::fs::read_to_string(dir.join("port")).expect("a broker's folder").trim().parse().expect("a port");
    Some((dir, port))
}

fn client(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/broker/client").join(file).display().to_string()
}

fn connection(brokers: &str, properties: &[(&str, &str)]) -> String {
    let properties: Vec<String> = properties.iter().map(|(k, v)| format!("{k}: '{v}'")).collect();
    format!("brokers: '{brokers}', properties: {{ {} }}", properties.join(", "))
}

/// Runs the counts over the connection, and gives what is in the log where it does not end well.
fn run(connection: &str, count: bool) -> Result<(), String> {
    let (topic, spec) = (unique("tls"), events(20_000, 1_000));
    create_topic(&topic, 4);
    if count {
        produce(&spec, &topic, 0, 20_000);
    }
    let job = Job::new(&counts_pipeline_over(connection, &topic, &topic, ""));
    let mut child = job.start(&["--until-end"]);
    let started = now_ms();
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            if !status.success() {
                return Err(format!("{status}: {}", job.log_text()));
            }
            let (want, ..) = expected(&spec, 10_000, 3_000);
            assert_same(&counts(&read_committed(&format!("{topic}-out"))), &want);
            return Ok(());
        }
        if now_ms() - started > 40_000 {
            child.kill().expect("killed");
            return Err(format!("it did not end: {}", job.log_text()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn passwords_over_tls() {
    let Some((dir, port)) = tls() else { return };
    let _alone = alone();
    let (brokers, ca) = (format!("localhost:{}", port + 2), dir.join("ca.pem").display().to_string());
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        let properties = |password| {
            [
                ("security.protocol", "SASL_SSL"),
                ("sasl.mechanisms", mechanism),
                ("sasl.username", "kindling"),
                ("sasl.password", password),
                ("ssl.ca.location", ca.as_str()),
            ]
        };
        assert_eq!(run(&connection(&brokers, &properties("secret")), true), Ok(()), "{mechanism}");
        let refused = run(&connection(&brokers, &properties("guessed")), false).expect_err("a wrong password");
        assert!(refused.contains("uthentication failed") && !refused.contains("guessed"), "{mechanism}: {refused}");
    }
}

#[test]
fn certificates_of_clients() {
    let Some((dir, port)) = tls() else { return };
    let _alone = alone();
    let (brokers, ca) = (format!("localhost:{}", port + 3), dir.join("ca.pem").display().to_string());
    let (certificate, key, both) = (client("certificate.pem"), client("key.pem"), client("client.p12"));
    let trust = [("security.protocol", "ssl"), ("ssl.ca.location", ca.as_str())];
    let pem = [("ssl.certificate.location", certificate.as_str()), ("ssl.key.location", key.as_str())];
    assert_eq!(run(&connection(&brokers, &[&trust[..], &pem].concat()), true), Ok(()), "PEM");
    let pkcs12 = [("ssl.keystore.location", both.as_str()), ("ssl.keystore.password", "kindling")];
    assert_eq!(run(&connection(&brokers, &[&trust[..], &pkcs12].concat()), true), Ok(()), "PKCS#12");
    let refused = run(&connection(&brokers, &trust), false).expect_err("no certificate");
    assert!(refused.contains("ertificate"), "{refused}");
}

#[test]
fn a_server_that_nobody_vouches_for_is_refused() {
    let Some((dir, port)) = tls() else { return };
    let _alone = alone();
    let ca = dir.join("ca.pem").display().to_string();
    let other = client("certificate.pem");
    let (right, wrong_ca) = ([("ssl.ca.location", ca.as_str())], [("ssl.ca.location", other.as_str())]);
    let login = [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", "kindling"),
        ("sasl.password", "secret"),
    ];
    let strange = run(&connection(&format!("localhost:{}", port + 2), &[&login[..], &wrong_ca].concat()), false);
    assert!(strange.clone().is_err_and(|log| log.contains("self signed certificate")), "{strange:?}");
    // The broker's certificate is for localhost and 127.0.0.1; this is the same address by another name.
    let misnamed = run(&connection(&format!("127.1:{}", port + 2), &[&login[..], &right].concat()), false);
    assert!(misnamed.clone().is_err_and(|log| log.contains("mismatch")), "{misnamed:?}");
}
