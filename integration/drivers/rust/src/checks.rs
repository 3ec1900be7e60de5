//! What both programs share: how the outcome of a check is printed, and where reads belong. The
//! twin of `python/checks.py`.

use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

/// A check that takes longer hangs.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// Replicas learn of a new table within about a second; a busy machine needs more.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Several TCP windows, and more than any buffer on the way.
pub const LARGE_BYTES: usize = 8 << 20;
/// Sessions that are asked at least where their reads run.
const SESSIONS_MIN: usize = 25;
/// One in so many may run on the primary.
const STRAYS_SHARE: usize = 5;

/// Counts what has failed.
#[derive(Debug, Default)]
pub struct Checks {
    failed: usize,
}

impl Checks {
    pub fn new(driver: &str, version: &str) -> Checks {
        println!("version {driver} {version}");
        Checks::default()
    }

    pub async fn check(&mut self, name: &str, body: impl Future<Output = Result<()>>) {
        let outcome = match tokio::time::timeout(CHECK_TIMEOUT, body).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("it hangs")),
        };
        match outcome {
            Ok(()) => println!("ok {name}"),
            Err(error) => {
                self.failed += 1;
                println!("not ok {name}: {}", format!("{error:#}").replace('\n', " "));
            }
        }
    }

    /// The exit status of the program.
    pub fn end(self) -> Result<()> {
        ensure!(self.failed == 0, "{} checks failed", self.failed);
        Ok(())
    }
}

pub fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Result<()> {
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    Ok(())
}

pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// The ports where a read may run.
pub fn read_ports() -> BTreeSet<i32> {
    env("READ_PORTS").split(',').filter_map(|port| port.parse().ok()).collect()
}

/// `read` gives the port on which a new session's read ran. See `Spread` in `python/checks.py`.
pub async fn spread<F: Future<Output = Result<i32>>>(read: impl Fn() -> F) -> Result<()> {
    let (ports, started) = (read_ports(), Instant::now());
    while !ports.contains(&read().await?) {
        ensure!(started.elapsed() < PATIENCE, "no read where reads belong");
    }
    let (mut seen, mut count, mut strays) = (BTreeSet::new(), 0, 0);
    while count < SESSIONS_MIN || seen != ports {
        ensure!(started.elapsed() < PATIENCE * 2, "reads ran on {seen:?} only");
        let port = read().await?;
        count += 1;
        if ports.contains(&port) {
            seen.insert(port);
        } else {
            strays += 1;
        }
    }
    ensure!(strays * STRAYS_SHARE <= count, "{strays} of {count} reads ran on the primary");
    Ok(())
}
