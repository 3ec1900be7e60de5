//! `tiffin status` and `tiffin switchover`: what a running proxy sees, and the change of a primary.

use super::maintain::seconds;
use super::remote::{Remote, encoded};
use super::{Exit, load, table};
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(super) const ABOUT: &str = "\
Shows each cluster of a running proxy as it sees it: nodes, what is held and why, and the changes
of the primary that it has made, every step with its duration.";

pub(super) const SWITCHOVER: &str = "\
Makes a replica the primary: writes wait, open transactions end, the replica applies everything, is
promoted, the other replicas follow it, and writes go on; no client sees an error. If transactions
do not end or the replica does not catch up within --timeout, everything stays as it was, and the
exit status is 1.";

pub(super) const EXAMPLES: &str = "\
Examples:
  tiffin status --config config.yaml
  tiffin switchover --config config.yaml --cluster main --to pg-b --timeout 5

The proxy is asked at `listen.http` of its configuration, a switchover with `api.token`.";

/// Between two looks at a change that is under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Beyond the time that writes may be held: commands and replicas that are re-pointed take theirs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Changes that are shown.
const SHOWN_MAX: usize = 5;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The configuration that the proxy runs with
    #[arg(short, long, value_name = "FILE", env = "TIFFIN_CONFIG", hide_env_values = true)]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SwitchoverArgs {
    /// The configuration that the proxy runs with
    #[arg(short, long, value_name = "FILE", env = "TIFFIN_CONFIG", hide_env_values = true)]
    config: PathBuf,
    /// The cluster's name
    #[arg(long, default_value = "main")]
    cluster: String,
    /// The node that is to be the primary
    #[arg(long, value_name = "NODE")]
    to: String,
    /// How long writes may be held, in seconds; keep it below gate.hold
    #[arg(long, value_name = "SECONDS", default_value = "8", value_parser = seconds)]
    timeout: Duration,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let Some(config) = load(&args.config) else { return Ok(Exit::Usage) };
    let remote = Remote::of(&config)?;
    let (topology, changes) = (remote.get("topology")?, remote.get("failovers")?);
    let mut whole = true;
    for cluster in items(&topology["clusters"]) {
        println!("\nCluster {}", word(&cluster["name"]));
        print!("{}", nodes(cluster));
        for (label, key) in [("no primary", "no_primary_because"), ("held", "held")] {
            if let Some(text) = cluster[key].as_str() {
                println!("  {label}: {text}");
            }
        }
        whole &= cluster["primary"].is_string();
        let same = |other: &&Value| other["name"] == cluster["name"];
        let actions = items(&changes["clusters"]).iter().find(same);
        let actions = actions.map(|cluster| items(&cluster["actions"])).unwrap_or_default();
        for action in &actions[actions.len().saturating_sub(SHOWN_MAX)..] {
            print_action(action);
        }
    }
    Ok(if whole { Exit::Ok } else { Exit::Failure })
}

pub(super) fn switch_over(args: &SwitchoverArgs) -> anyhow::Result<Exit> {
    let Some(config) = load(&args.config) else { return Ok(Exit::Usage) };
    let remote = Remote::of(&config)?;
    let (cluster, node) = (encoded(&args.cluster), encoded(&args.to));
    let limit = args.timeout.as_millis();
    let order = format!("switchover?cluster={cluster}&node={node}&timeout_ms={limit}");
    let id = remote.post(&order)?["action"].clone();
    let started = Instant::now();
    loop {
        std::thread::sleep(LOOK_INTERVAL);
        let answer = remote.get(&format!("failovers?cluster={cluster}"))?;
        let actions = items(&answer["clusters"][0]["actions"]);
        let action = actions.iter().find(|action| action["id"] == id);
        let Some(action) = action else { anyhow::bail!("the proxy has forgotten the switchover") };
        let state = word(&action["state"]);
        if state != "running" || started.elapsed() > args.timeout + PATIENCE {
            print_action(action);
            return Ok(if state == "done" { Exit::Ok } else { Exit::Failure });
        }
    }
}

fn nodes(cluster: &Value) -> String {
    let title = ["node", "address", "role", "health", "lag", "remark"].map(str::to_owned);
    let mut rows = vec![title];
    for node in items(&cluster["nodes"]) {
        let lag = node["lag_ms"].as_f64().map_or("-".to_owned(), |lag| format!("{lag:.0} ms"));
        let remark = node["unhealthy_because"].as_str().or(node["out_because"].as_str());
        rows.push([
            word(&node["name"]).to_owned(),
            word(&node["address"]).to_owned(),
            word(&node["role"]).to_owned(),
            word(&node["health"]).to_owned(),
            lag,
            remark.unwrap_or_default().to_owned(),
        ]);
    }
    table(&rows)
}

fn print_action(action: &Value) {
    let (kind, state) = (word(&action["kind"]), word(&action["state"]));
    let (from, to) = (word(&action["from"]), action["to"].as_str().unwrap_or("nobody yet"));
    let held = action["held_ms"].as_f64().map(|ms| format!(", writes held for {ms:.0} ms"));
    println!("\n  {kind} from {from} to {to}: {state}{}", held.unwrap_or_default());
    if let Some(error) = action["error"].as_str() {
        println!("    because: {error}");
    }
    for step in items(&action["steps"]) {
        let (began, took) = (&step["began_ms"], &step["took_ms"]);
        let mark = if step["ok"] == true { "" } else { "failed: " };
        println!(
            "    {:>7.0} ms +{:<6.0} {}: {mark}{}",
            began.as_f64().unwrap_or(0.0),
            took.as_f64().unwrap_or(0.0),
            word(&step["what"]),
            word(&step["told"])
        );
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
