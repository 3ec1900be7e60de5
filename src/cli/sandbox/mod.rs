//! `tiffin sandbox`: real servers in a temporary folder, the proxy in front of them, and a tour.
//!
//! Open [`run`] first. [`servers`] starts the databases, [`proxy`] starts this same binary as the
//! proxy, [`tour`] runs statements through it and says what it saw. The integration tests use
//! the first two.

pub mod proxy;
pub mod servers;
mod tour;

use crate::cli::Exit;
use anyhow::{Context, Result};
use proxy::Proxy;
use serde_json::Value;
use servers::group::{Group, Login, Member};
use servers::{Cluster, Options, mysql};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// More servers than this are no demonstration any more, and slots and senders run out.
const REPLICAS_MAX: u16 = 8;

/// What a shell reports for a program that was ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

pub const ABOUT: &str = "\
Start a primary, its replicas and the proxy on this machine, and show what the proxy does.

Everything lives in a temporary folder and listens on 127.0.0.1 alone. On a terminal it stays up
after the tour until Ctrl-C; otherwise it ends with the tour, with exit status 0 only if every
step of the tour was seen to hold. The server programs of the engine must be installed;
TIFFIN_PG_BIN, TIFFIN_MYSQL_BIN or TIFFIN_MARIADB_BIN names their folder where they are not found.";

pub const EXAMPLES: &str = "\
Examples:
  tiffin sandbox
  tiffin sandbox --engine mysql
  tiffin sandbox --no-tour --replicas 4 --port 6432
  tiffin sandbox --keep ./servers";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    Postgres,
    Mysql,
    Mariadb,
}

#[derive(Debug, Clone, clap::Args)]
pub struct SandboxArgs {
    /// Whose servers to start.
    #[arg(long, value_enum, default_value_t = Engine::Postgres)]
    pub engine: Engine,

    /// Start everything and stay up, without the tour.
    #[arg(long)]
    pub no_tour: bool,

    /// Replicas to start, up to 8.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=i64::from(REPLICAS_MAX)))]
    pub replicas: u16,

    /// Port of the proxy on 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "P", default_value_t = 0)]
    pub port: u16,

    /// Keep the servers' folders, the proxy's configuration and all logs in this folder, which
    /// must be empty or absent.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// Runs the command until the tour or the user ends it.
///
/// # Errors
/// When the engine's servers are missing or something does not start. Nothing stays behind.
pub fn run(args: &SandboxArgs) -> Result<Exit> {
    println!("Starting a primary and {}.", counted(args.replicas, "replica"));
    let (replicas, keep) = (args.replicas, args.keep.clone());
    let engine = match args.engine {
        Engine::Postgres => {
            let cluster = Cluster::start(Options { replicas, keep, ..Options::default() })?;
            let config = proxy::config(&cluster, args.port)?;
            return Sandbox::start(args, cluster, &config)?.run(args);
        }
        Engine::Mysql => mysql::Engine::MySql,
        Engine::Mariadb => mysql::Engine::MariaDb,
    };
    let options = mysql::Options { replicas, keep, ..mysql::Options::of(engine) };
    let cluster = mysql::Cluster::start(options)?;
    let config = proxy::mysql_config(&cluster, args.port)?;
    Sandbox::start(args, cluster, &config)?.run(args)
}

struct Sandbox<S: Member> {
    cluster: Group<S>,
    proxy: Proxy,
    keep: Option<PathBuf>,
    exit: AtomicU8,
}

impl<S: Member + Send + 'static> Sandbox<S> {
    fn start(args: &SandboxArgs, cluster: Group<S>, config: &Value) -> Result<Arc<Sandbox<S>>> {
        let binary = std::env::current_exe().context("the path of this program")?;
        let proxy = Proxy::start(&binary, &cluster, config)?;
        let (keep, exit) = (args.keep.clone(), AtomicU8::new(EXIT_INTERRUPTED));
        Ok(Arc::new(Sandbox { cluster, proxy, keep, exit }))
    }

    fn run(self: Arc<Self>, args: &SandboxArgs) -> Result<Exit> {
        // A signal before this line ends the program at once, and the watchdog the servers.
        end_on_signal(self.clone())?;
        let result = self.show(args);
        if result.is_ok() && (args.no_tour || std::io::stdout().is_terminal()) {
            self.invite(args.engine);
            loop {
                std::thread::park();
            }
        }
        self.end();
        result.map(|()| self.outcome())
    }

    /// Prints what runs where, and takes the tour.
    fn show(&self, args: &SandboxArgs) -> Result<()> {
        println!("\n  tiffin   127.0.0.1:{}", self.proxy.port);
        for (number, server) in self.cluster.servers().iter().enumerate() {
            let role = if number == 0 { "primary" } else { "replica" };
            println!("  {:8} 127.0.0.1:{}  {role}", server.name, server.port);
        }
        let mut held = true;
        if !args.no_tour && args.replicas > 0 {
            held = tour::run(&self.cluster, &self.proxy)?;
        }
        self.exit.store(u8::from(!held), Ordering::Relaxed);
        Ok(())
    }

    /// How to get in, for a sandbox that stays up.
    fn invite(&self, engine: Engine) {
        let Login { user, password } = &self.cluster.app;
        let (port, address) = (self.proxy.port, "-h 127.0.0.1");
        match engine {
            Engine::Postgres => {
                println!("\n  PGPASSWORD={password} psql {address} -p {port} -U {user}");
            }
            Engine::Mysql => {
                println!("\n  mysql {address} -P {port} -u {user} -p{password} app");
            }
            Engine::Mariadb => {
                println!("\n  mariadb {address} -P {port} -u {user} -p{password} app");
            }
        }
        if let Some(http) = self.proxy.http {
            println!("  http://{http}/api/v1/topology\n  http://{http}/metrics");
        }
        println!("  {}", self.cluster.folder().display());
        println!("Ctrl-C ends it.");
    }

    /// Ends the proxy and the servers; may be called twice.
    fn end(&self) {
        self.proxy.kill();
        if let Some(folder) = &self.keep {
            match self.cluster.stop() {
                Ok(()) => println!("Kept in {}.", folder.display()),
                Err(error) => eprintln!("tiffin sandbox: {error:#}"),
            }
        }
        self.cluster.end();
    }

    fn outcome(&self) -> Exit {
        if self.exit.load(Ordering::Relaxed) == 0 { Exit::Ok } else { Exit::Failure }
    }
}

/// Cleans up and ends the program on Ctrl-C, SIGTERM and when the terminal closes.
fn end_on_signal<S: Member + Send + 'static>(sandbox: Arc<Sandbox<S>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = {
        let _inside = runtime.enter();
        let [a, b, c] = kinds.map(signal);
        [a?, b?, c?]
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        sandbox.end();
        std::process::exit(i32::from(sandbox.exit.load(Ordering::Relaxed)));
    });
    Ok(())
}

fn counted(number: u16, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}
