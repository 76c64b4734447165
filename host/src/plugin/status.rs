//! What `kindling plugins` shows, and how it asks a running job for it.

use serde::{Deserialize, Serialize};

use super::{Plugin, StatsReading};

/// One plugin version, as a running job's `/plugins` gives it (a JSON array of these) and `kindling plugins --json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginStatus {
    /// Name of the plugin.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// SHA-256 of the artefact, 64 hex digits.
    pub hash: String,
    /// Where it was loaded from.
    pub path: String,
    /// What made it.
    pub sdk: String,
    /// Its functions.
    pub functions: Vec<FunctionStatus>,
    /// `loaded`, `live`, `probation`, `refused`, `rolled back`: the job's word for it.
    pub state: String,
    /// Names of the jobs or pipelines whose plan calls it.
    pub uses: Vec<String>,
    /// What its calls cost and how they ended, in the process asked.
    pub stats: StatsReading,
    /// Why it is not used, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One function of a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Name in SQL and YAML.
    pub name: String,
    /// `filter`, `scalar`, `aggregate`, `flat map` or `process`.
    pub kind: String,
    /// `avg(float64) -> float64`.
    pub signature: String,
    /// `sum float64, count int64`; empty without state.
    pub state: String,
    /// One line for people.
    pub doc: String,
}

impl PluginStatus {
    /// The status of a plugin that a job has in `state` and that `uses` call.
    pub fn of(plugin: &Plugin, state: impl Into<String>, uses: Vec<String>) -> Self {
        let functions = plugin.functions.iter().map(|f| FunctionStatus {
            name: f.name.to_string(),
            kind: f.kind.to_string(),
            signature: f.header(),
            state: f.state_layout(),
            doc: f.doc.clone(),
        });
        Self {
            name: plugin.name.to_string(),
            version: plugin.version.to_string(),
            hash: plugin.hash.to_string(),
            path: plugin.path.display().to_string(),
            sdk: plugin.sdk.clone(),
            functions: functions.collect(),
            state: state.into(),
            uses,
            stats: plugin.stats.read(),
            problem: None,
        }
    }
}

/// Asks the job whose `--metrics` address is `from` (`http://host:port` or `host:port`) for its plugins.
///
/// # Errors
/// What went wrong, and what to do.
pub fn fetch_status(from: &str) -> Result<Vec<PluginStatus>, String> {
    crate::ask::ask(from, "/plugins")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn serve(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            assert!(request.starts_with(b"GET /plugins HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        format!("http://{address}")
    }

    #[test]
    fn a_jobs_answer_is_read() {
        let status = PluginStatus {
            name: "p".into(),
            version: "1.0.0".into(),
            hash: "ab".into(),
            path: "plugins/p.wasm".into(),
            sdk: "by hand".into(),
            functions: vec![],
            state: "live".into(),
            uses: vec!["counts".into()],
            stats: StatsReading { calls: 3, ..StatsReading::default() },
            problem: None,
        };
        let body = serde_json::to_string(&vec![status.clone()]).unwrap();
        let from = serve(format!("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}"));
        assert_eq!(fetch_status(&from).unwrap(), [status]);
    }

    #[test]
    fn what_is_no_answer_says_what_to_do() {
        let from = serve("HTTP/1.0 404 Not Found\r\n\r\n".into());
        assert!(fetch_status(&from).unwrap_err().contains("404 Not Found"));
        let from = serve("HTTP/1.0 200 OK\r\n\r\n{".into());
        assert!(fetch_status(&from).unwrap_err().contains("can't be read"));
        assert!(fetch_status("https://x").unwrap_err().contains("only http://"));
        assert!(fetch_status("127.0.0.1:1").unwrap_err().contains("--metrics"));
    }
}
