//! `tiffin drain`, `undrain`, `pause`, `resume`: asks a running proxy, and waits for what still runs.

use super::remote::{Remote, encoded};
use super::{Exit, load};
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(super) const DRAIN: &str = "\
Takes a replica out of service: nothing new goes there, what runs may end, idle connections are
closed. Waits until none of its connections is in use, for --timeout at most; then it says so and
ends with status 1, and the node stays drained. A primary cannot be drained.

Without --node the cluster's clients are sent away: new ones are refused (57P03), those that are in
no transaction are told so and closed (57P01), and /ready says no. Waits in the same way.";

pub(super) const PAUSE: &str = "\
Holds every new request of a cluster at its gate, reads as well; open transactions may end. Waits
until no server connection is in use, for --timeout at most; then it says so and ends with status
1, and the cluster stays paused. A request waits for gate.hold at most.

With --node only what needs that node waits: if it is the primary, everything that does not read
from a replica; a replica's reads go to others. A paused primary may restart: nothing is promoted.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tiffin drain --config config.yaml --cluster main --node pg-b
  tiffin undrain --config config.yaml --cluster main --node pg-b
  tiffin pause --config config.yaml --cluster main --timeout 5s
  tiffin resume --config config.yaml --cluster main
  tiffin pause --config config.yaml --cluster main --node pg-a
  tiffin drain --config config.yaml --cluster main

The proxy is asked at `listen.http` of its configuration, with `api.token`.";

/// Between two looks at what still runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// The configuration that the proxy runs with
    #[arg(short, long, value_name = "FILE", env = "TIFFIN_CONFIG", hide_env_values = true)]
    pub(super) config: PathBuf,
    /// The cluster's name
    #[arg(long, default_value = "main")]
    pub(super) cluster: String,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(super) timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The node's name; without it the whole cluster is meant
    #[arg(long)]
    node: Option<String>,
}

impl NodeArgs {
    /// `pg-b`, `Cluster main`.
    fn title(&self) -> String {
        let cluster = || format!("Cluster {}", self.cluster.cluster);
        self.node.clone().unwrap_or_else(cluster)
    }
}

/// `5`, `0.5` or `5s`.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>();
    let duration = number.ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    duration.ok_or_else(|| format!("`{text}` is no number of seconds"))
}

pub(super) fn drain(args: &NodeArgs) -> anyhow::Result<Exit> {
    order_and_wait("drain", args, "drained")
}

pub(super) fn undrain(args: &NodeArgs) -> anyhow::Result<Exit> {
    let Some(_) = order("undrain", args)? else { return Ok(Exit::Usage) };
    println!("{} is in service again.", args.title());
    Ok(Exit::Ok)
}

pub(super) fn pause(args: &NodeArgs) -> anyhow::Result<Exit> {
    order_and_wait("pause", args, "paused")
}

pub(super) fn resume(args: &NodeArgs) -> anyhow::Result<Exit> {
    let Some(_) = order("resume", args)? else { return Ok(Exit::Usage) };
    println!("{} goes on.", args.title());
    Ok(Exit::Ok)
}

/// Orders it, and waits until nothing runs there any more.
fn order_and_wait(change: &str, args: &NodeArgs, done: &str) -> anyhow::Result<Exit> {
    let Some(remote) = order(change, args)? else { return Ok(Exit::Usage) };
    let chosen = |pool: &Value| args.node.as_ref().is_none_or(|node| pool["node"] == **node);
    let left = wait_for_idle(&remote, &args.cluster, chosen)?;
    Ok(conclude(left, &format!("{} is {done}", args.title()), &format!("it stays {done}")))
}

/// `None` if the configuration cannot be read; that has been said then.
fn order(change: &str, args: &NodeArgs) -> anyhow::Result<Option<Remote>> {
    let Some(config) = load(&args.cluster.config) else { return Ok(None) };
    let remote = Remote::of(&config)?;
    let node = args.node.as_ref().map(|node| format!("&node={}", encoded(node)));
    let cluster = encoded(&args.cluster.cluster);
    remote.post(&format!("{change}?cluster={cluster}{}", node.unwrap_or_default()))?;
    Ok(Some(remote))
}

/// How many connections of the chosen pools are still in use when the time is up; 0 if none
/// before.
fn wait_for_idle(
    remote: &Remote,
    args: &ClusterArgs,
    chosen: impl Fn(&Value) -> bool,
) -> anyhow::Result<u64> {
    let page = format!("pools?cluster={}", encoded(&args.cluster));
    let started = Instant::now();
    loop {
        // What had been sent before the order was known shows by the second look.
        std::thread::sleep(LOOK_INTERVAL);
        let answer = remote.get(&page)?;
        let pools = answer["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let active = |pool: &Value| pool["active"].as_u64().unwrap_or(0);
        let left = pools.iter().filter(|pool| chosen(pool)).map(active).sum();
        if left == 0 || started.elapsed() >= args.timeout {
            return Ok(left);
        }
    }
}

fn conclude(left: u64, done: &str, stays: &str) -> Exit {
    if left == 0 {
        println!("{done}: none of its connections is in use.");
        return Exit::Ok;
    }
    println!("{done}, but {left} of its connections are still in use; {stays}.");
    Exit::Failure
}

#[cfg(test)]
mod tests {
    use super::seconds;
    use std::time::Duration;

    #[test]
    fn times_are_seconds() {
        assert_eq!(seconds("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("-1").is_err() && seconds("soon").is_err());
    }
}
