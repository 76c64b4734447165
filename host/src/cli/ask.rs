//! Asks a running job over HTTP, at its `--metrics` address, for bytes.

use crate::error::{Error, Kind};
use crate::limits::STATE_COPY_BYTES;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a job may take to answer: it waits for the end of its epoch, and copies.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How long it may take to be reached.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Bytes around a copy of the state: head of the answer, positions, checksum.
const AROUND_BYTES: usize = 80 << 20;

const WHAT_TO_DO: &str = "is that the address given to `kindling run --metrics`?";

/// The body of `path` at `from` (`host:port` or `http://host:port`).
///
/// # Errors
/// What went wrong, and what to do.
pub fn ask(from: &str, path: &str) -> Result<Vec<u8>, Error> {
    if from.starts_with("https://") {
        return Err(Error::new(
            Kind::Config,
            format!("{from}: only http:// is spoken here; ask through a tunnel, or on the machine itself"),
        ));
    }
    let host = from.strip_prefix("http://").unwrap_or(from).trim_end_matches('/');
    let external = |text: String| Error::new(Kind::External, text);
    let answer = get(host, path).map_err(|e| external(format!("{from}: no answer: {e}; {WHAT_TO_DO}")))?;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let Some(head) = head else { return Err(external(format!("{from}: the answer is not HTTP; {WHAT_TO_DO}"))) };
    let status = String::from_utf8_lossy(&answer[..head]);
    let status = status.lines().next().unwrap_or_default();
    let body = &answer[head + 4..];
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_vec()),
        // The job's own word.
        Some("503" | "413" | "400") => Err(external(format!("{from}: {}", String::from_utf8_lossy(body)))),
        _ => Err(external(format!("{from}{path} answers `{status}`; {WHAT_TO_DO}"))),
    }
}

/// HTTP/1.0, so that the answer is neither chunked nor kept open.
fn get(host: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let address = host.to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other("the host has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIME)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    // In one piece: a server that closes before it has read the rest would take its answer with it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take((STATE_COPY_BYTES + AROUND_BYTES) as u64).read_to_end(&mut answer)?;
    Ok(answer)
}
