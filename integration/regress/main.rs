//! PostgreSQL's own regression suite (`src/test/regress`), directly and through the proxy in
//! transaction mode with two standbys: `make regress`. Not a test of `make test`: it takes about
//! five minutes.
//!
//! Each side gets servers of its own. What passes directly should pass through the proxy; the
//! tests that are known to differ are in `differs.txt`, with the cause. Everything that was made
//! stays in `target/regress`: per side the results, a diff per failed test and the servers' logs.
//!
//! A statement that a standby refused as a write (25006) is a defect of its own, whatever the
//! suite says to it: standbys' logs are read for them.

mod suite;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use suite::{Results, Suite};
use tiffin::cli::sandbox::proxy::{self, Proxy};
use tiffin::cli::sandbox::servers::{Cluster, Options, Server};

/// Lines `test: cause`; `test (at times): cause` where it depends on which connections or standbys
/// the test happens to get.
const DIFFERS: &str = include_str!("differs.txt");

const AT_TIMES: &str = " (at times)";

/// As the suite expects a server to be, and what shows a refused statement in the log.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "'128MB'"),
    // A standby that tells of its snapshots keeps VACUUM from marking pages all-visible, and
    // expected plans count on that.
    ("hot_standby_feedback", "off"),
    ("log_line_prefix", "'%m [%p] %e %q%u@%d %a '"),
];

/// As `log_line_prefix` writes it.
const REFUSED_BY_STANDBY: &str = "] 25006 ";

#[derive(Parser)]
struct Arguments {
    /// Tests to run after `test_setup`, one after the other, instead of all.
    tests: Vec<String>,

    /// Runs only one side: `direct` or `tiffin`.
    #[arg(long)]
    only: Option<String>,

    /// Reads wait until a standby has caught up with their session, so that nearly all of them
    /// run on standbys; by default most go to the primary, right after the test's writes.
    #[arg(long)]
    catch_up: bool,
}

/// What one side gave.
struct Side {
    results: Results,
    /// Lines of the standbys' logs.
    refused: Vec<String>,
    /// The proxy's counters at the end, if it took part.
    metrics: String,
    folder: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let suite = Suite::find()?;
    let mut sides = BTreeMap::new();
    for name in ["direct", "tiffin"] {
        if arguments.only.as_deref().is_none_or(|only| only == name) {
            let side = run(&suite, name, &arguments).with_context(|| name.to_string())?;
            sides.insert(name, side);
        }
    }
    let (Some(direct), Some(through)) = (sides.get("direct"), sides.get("tiffin")) else {
        for (name, side) in &sides {
            println!("\n{name}: {} of {} passed", side.results.passed(), side.results.len());
            side.results.failed().for_each(|test| println!("  {}", side.diff(test)));
            side.print_routes();
            println!("refused by a standby: {}", side.refused.len());
            side.refused.iter().for_each(|line| println!("  {line}"));
        }
        return Ok(ExitCode::SUCCESS);
    };
    Ok(if compare(direct, through) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the table; whether all is as it should be.
fn compare(direct: &Side, through: &Side) -> bool {
    let lines = DIFFERS.lines().filter_map(|line| line.split_once(": "));
    let differs: BTreeMap<&str, &str> =
        lines.map(|(test, cause)| (test.trim_end_matches(AT_TIMES), cause)).collect();
    let total = direct.results.len();
    println!("\n|                       | of {total:3} |");
    println!("|-----------------------|--------|");
    println!("| passed directly       | {:6} |", direct.results.passed());
    println!("| passed through tiffin | {:6} |", through.results.passed());
    println!();
    through.print_routes();
    println!("statements refused by a standby (25006): {}", through.refused.len());
    let mut as_known = through.refused.is_empty() && through.results.len() == total;
    for test in through.results.failed().filter(|test| direct.results.has_passed(test)) {
        let cause = differs.get(test).copied();
        as_known &= cause.is_some();
        println!("\n{test}: {}", cause.unwrap_or("NOT KNOWN TO DIFFER"));
        println!("  {}", through.diff(test));
    }
    let sometimes = |test: &str| DIFFERS.contains(&format!("{test}{AT_TIMES}: "));
    for test in differs.keys().filter(|test| through.results.has_passed(test) && !sometimes(test)) {
        println!("\n{test} passes: take it out of integration/regress/differs.txt");
    }
    for line in &through.refused {
        println!("refused: {line}");
    }
    as_known
}

fn run(suite: &Suite, name: &str, arguments: &Arguments) -> Result<Side> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/regress").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let settings = SETTINGS.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let cluster = Cluster::start(Options {
        settings: settings.collect(),
        template_cache: Some(env!("CARGO_TARGET_TMPDIR").into()),
        binaries: Some(suite.binaries.folder().to_path_buf()),
        ..Options::default()
    })?;
    println!("\n{name}: PostgreSQL {}, two standbys", suite.binaries.version()?);
    let proxy = match name {
        "tiffin" => {
            let mut config = proxy::config(&cluster, 0)?;
            if arguments.catch_up {
                let main = &mut config["clusters"]["main"];
                main["routing"] = json!({ "catchup_wait": "5s" });
                // A read waits for about one of these.
                main["monitor"] = json!({ "interval": "10ms" });
            }
            Some(Proxy::start(Path::new(env!("CARGO_BIN_EXE_tiffin")), &cluster, &config)?)
        }
        _ => None,
    };
    let port = proxy.as_ref().map_or(cluster.primary().port, |proxy| proxy.port);
    let output = cluster.folder().join("suite");
    let results = suite.run(&output, port, &cluster, &arguments.tests);
    // What there is is worth keeping, however the suite ended.
    keep(&output, &cluster, &folder)?;
    let mut metrics = String::new();
    if let Some(proxy) = &proxy {
        metrics = proxy.get("/metrics")?.1;
        fs::write(folder.join("tiffin.log"), proxy.log())?;
        fs::write(folder.join("metrics.txt"), &metrics)?;
    }
    suite::split_diffs(&folder)?;
    let refused = cluster.replicas().iter().flat_map(refused_by).collect();
    Ok(Side { results: results?, refused, metrics, folder })
}

fn refused_by(standby: &Server) -> Vec<String> {
    let log = standby.log();
    let refused = log.lines().filter(|line| line.contains(REFUSED_BY_STANDBY));
    // An error is followed by its statement, under the same code.
    refused.map(|line| format!("{}: {line}", standby.name)).collect()
}

/// Copies what the suite and the servers wrote, for everybody to read.
fn keep(output: &Path, cluster: &Cluster, folder: &Path) -> Result<()> {
    for part in ["results", "regression.diffs.first", "regression.diffs", "regression.out"] {
        if output.join(part).exists() {
            let mut copy = Command::new("cp");
            let status = copy.arg("-r").arg(output.join(part)).arg(folder).status()?;
            if !status.success() {
                bail!("cp of {part} failed");
            }
        }
    }
    for server in cluster.servers() {
        fs::write(folder.join(format!("{}.log", server.name)), server.log())?;
    }
    Ok(())
}

impl Side {
    /// How many statements ran where.
    fn print_routes(&self) {
        let sum = |start: &str, node: &str| -> f64 {
            let node = format!("node=\"{node}\"");
            let lines = self.metrics.lines();
            let counts = lines.filter(|line| line.starts_with(start) && line.contains(&node));
            counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        for node in ["pg0", "pg1", "pg2"] {
            let (sent, retried) =
                (sum("tiffin_routed_total{", node), sum("tiffin_retried_total{", node));
            println!(
                "{node}: {sent} statements or transactions sent, {retried} repeated elsewhere"
            );
        }
    }

    /// Where the difference of a test is.
    fn diff(&self, test: &str) -> String {
        let path = suite::diff_path(&self.folder, test);
        let path = if path.exists() { path } else { self.folder.join("regression.out") };
        path.display().to_string()
    }
}
