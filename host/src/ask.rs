//! Asks a running job over HTTP: what `--from` of the command line does.

use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a job may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Bytes of an answer at most.
const ANSWER_BYTES: u64 = 16 << 20;

/// Asks the job whose `--metrics` address is `from` (`http://host:port` or `host:port`) for the JSON at `path`.
///
/// # Errors
/// What went wrong, and what to do.
pub fn ask<T: DeserializeOwned>(from: &str, path: &str) -> Result<T, String> {
    if from.starts_with("https://") {
        return Err(format!("{from}: only http:// is spoken here; ask through a tunnel, or on the machine itself"));
    }
    let host = from.strip_prefix("http://").unwrap_or(from).trim_end_matches('/');
    let what_to_do = "is that the address given to `kindling run --metrics`?";
    let answer = get(host, path).map_err(|e| format!("{from}: no answer: {e}; {what_to_do}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{from}: the answer is not HTTP; {what_to_do}"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("{from}{path} answers `{status}`; {what_to_do}"));
    }
    serde_json::from_str(body)
        .map_err(|e| format!("{from}{path}: the answer can't be read: {e}; is it of the same version of kindling?"))
}

/// HTTP/1.0, so that the answer is neither chunked nor kept open.
fn get(host: &str, path: &str) -> std::io::Result<String> {
    let address = host.to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other("the host has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    // In one piece: a server that closes before it has read the rest would take its answer with it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}
