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
ends with status 1, and the node stays drained. A primary cannot be drained.";

pub(super) const PAUSE: &str = "\
Holds every new request of a cluster at its gate, reads as well; open transactions may end. Waits
until no server connection is in use, for --timeout at most; then it says so and ends with status
1, and the cluster stays paused. A request waits for gate.hold at most.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tiffin drain --config config.yaml --cluster main --node pg-b
  tiffin undrain --config config.yaml --cluster main --node pg-b
  tiffin pause --config config.yaml --cluster main --timeout 5s
  tiffin resume --config config.yaml --cluster main

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
    /// The node's name
    #[arg(long)]
    node: String,
}

/// `5`, `0.5` or `5s`.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>();
    let duration = number.ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    duration.ok_or_else(|| format!("`{text}` is no number of seconds"))
}

pub(super) fn drain(args: &NodeArgs) -> anyhow::Result<Exit> {
    let node = &args.node;
    let Some(remote) = node_order("drain", args)? else { return Ok(Exit::Usage) };
    let left = wait_for_idle(&remote, &args.cluster, |pool| pool["node"] == **node)?;
    Ok(conclude(left, &format!("{node} is drained"), "it stays drained"))
}

pub(super) fn undrain(args: &NodeArgs) -> anyhow::Result<Exit> {
    let Some(_) = node_order("undrain", args)? else { return Ok(Exit::Usage) };
    println!("{} is in service again.", args.node);
    Ok(Exit::Ok)
}

pub(super) fn pause(args: &ClusterArgs) -> anyhow::Result<Exit> {
    let Some(remote) = order("pause", args, "")? else { return Ok(Exit::Usage) };
    let left = wait_for_idle(&remote, args, |_| true)?;
    Ok(conclude(left, &format!("Cluster {} is paused", args.cluster), "it stays paused"))
}

pub(super) fn resume(args: &ClusterArgs) -> anyhow::Result<Exit> {
    let Some(_) = order("resume", args, "")? else { return Ok(Exit::Usage) };
    println!("Cluster {} goes on.", args.cluster);
    Ok(Exit::Ok)
}

fn node_order(change: &str, args: &NodeArgs) -> anyhow::Result<Option<Remote>> {
    order(change, &args.cluster, &format!("&node={}", encoded(&args.node)))
}

/// `None` if the configuration cannot be read; that has been said then.
fn order(change: &str, args: &ClusterArgs, more: &str) -> anyhow::Result<Option<Remote>> {
    let Some(config) = load(&args.config) else { return Ok(None) };
    let remote = Remote::of(&config)?;
    remote.post(&format!("{change}?cluster={}{more}", encoded(&args.cluster)))?;
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
