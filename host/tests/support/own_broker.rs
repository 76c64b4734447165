//! A broker of a test's own, for faults that would hit all tests: the same script as for the shared one, on ports and in a folder of its own.
//!
//! While it lives it is the broker of its thread: [`super::brokers`] gives its address.

use std::cell::RefCell;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

thread_local! {
    static ADDRESS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The address of this thread's own broker, where it has one.
pub fn address() -> Option<String> {
    ADDRESS.with_borrow(Clone::clone)
}

/// A broker; stopped and removed when dropped.
pub struct OwnBroker {
    dir: tempfile::TempDir,
}

impl OwnBroker {
    /// Starts one with `settings` (`name=value`) over those of the script.
    pub fn start(settings: &[&str]) -> Self {
        let broker = Self { dir: tempfile::tempdir().expect("a folder") };
        let mut args: Vec<String> = settings.iter().flat_map(|s| ["--set".to_owned(), (*s).to_owned()]).collect();
        // A port that is free now may be taken in a moment.
        for _ in 0..3 {
            let port = free_ports();
            args.extend(["--port".to_owned(), port.to_string()]);
            if broker.script("start", &args) {
                ADDRESS.set(Some(format!("127.0.0.1:{port}")));
                return broker;
            }
            args.truncate(2 * settings.len());
        }
        panic!("the broker does not start: see above");
    }

    /// Kills it: nothing is flushed, nothing is told.
    pub fn kill(&self) {
        assert!(self.script("stop", &["--kill".to_owned()]));
    }

    /// Starts it again with its data, after [`OwnBroker::kill`].
    pub fn restart(&self) {
        assert!(self.script("restart", &[]));
    }

    /// Its process.
    pub fn process(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("pid")).expect("it runs").trim().to_owned()
    }

    fn script(&self, command: &str, args: &[String]) -> bool {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/broker/broker");
        let mut run = Command::new("bash");
        run.arg(script).arg(command).arg("--dir").arg(self.dir.path()).args(args);
        run.status().expect("the script runs").success()
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        ADDRESS.set(None);
        if let Ok(process) = std::fs::read_to_string(self.dir.path().join("pid")) {
            // It may be stopped by a signal.
            let _ = Command::new("kill").args(["-CONT", process.trim()]).status();
        }
        self.script("stop", &["--kill".to_owned()]);
    }
}

/// A free port whose successor, which the broker's controller takes, is free too.
fn free_ports() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = first.local_addr().expect("an address").port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two free ports");
}
