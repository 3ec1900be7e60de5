//! The running program: a control thread (this module), and workers that serve clients.
//!
//! ```text
//! control thread:  listeners ── sockets ──▶ the least loaded worker
//!                  monitors ── snapshots ─▶ everybody          signals ─▶ reload, drain
//! worker threads:  start-up ─▶ conversation, one task per client, on a runtime of its own
//! ```
//!
//! Open [`run`] first; [`worker`] is a worker thread, [`clusters`] what a cluster's parts are,
//! [`listen`] the sockets, [`discovery`] the nodes that Patroni tells.

pub mod clusters;
pub mod discovery;
pub mod listen;
pub mod lookup;
pub mod worker;

use crate::admin::{AdminState, http};
use crate::config::tls::TlsError;
use crate::config::{Config, Problems};
use crate::failover::patroni::{Found, News};
use crate::frontend::mysql::auth_context::AuthContext as MysqlAuthContext;
use crate::frontend::postgres::auth_context::{AuthContext, ContextError};
use crate::metrics::{ControlMetrics, Layout, PoolRegistry, Process, StatsRegistry};
use arc_swap::{ArcSwap, ArcSwapOption};
use clusters::ClusterSet;
use discovery::Discovery;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use worker::{Auth, Message, WorkerHandle};

/// How long the last replies may take after the drain, and the control thread to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why the proxy could not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: String, error: io::Error },
    #[error(transparent)]
    Http(#[from] http::ListenError),
    #[error(transparent)]
    Auth(#[from] ContextError),
    #[error("cluster {cluster}: {error}")]
    ServerTls { cluster: Arc<str>, error: TlsError },
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// What a reload was refused for; the running configuration stays in force.
#[derive(Debug, Error)]
pub enum ReloadError {
    #[error("the file has mistakes:\n{0}")]
    Problems(#[from] Problems),
    #[error("{0} cannot change while the proxy runs; restart it")]
    NeedsRestart(&'static str),
    #[error(transparent)]
    Auth(#[from] ContextError),
    #[error("cluster {cluster}: {error}")]
    ServerTls { cluster: Arc<str>, error: TlsError },
}

/// Runs the proxy until SIGTERM or SIGINT and the drain after it.
pub fn run(path: &Path, config: Config) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { Server::start(path, config).await?.serve().await });
    runtime.shutdown_timeout(FAREWELL);
    outcome
}

struct Server {
    path: PathBuf,
    config: Config,
    auth: Auth,
    clusters: ClusterSet,
    discovery: Discovery,
    workers: Vec<WorkerHandle>,
    listeners: listen::Listeners,
    admin: Arc<AdminState>,
    stop_http: watch::Sender<bool>,
}

impl Server {
    async fn start(path: &Path, config: Config) -> Result<Server, StartError> {
        // First what may fail for reasons outside.
        let listeners = listen::Listeners::bind(&config.listen).await?;
        let http = match config.listen.http {
            Some(address) => Some(http::listen(address).await?),
            None => None,
        };
        let pools = Arc::new(PoolRegistry::default());
        let stats = Arc::new(StatsRegistry::default());
        let control = Arc::new(ControlMetrics::new(SystemTime::now()));
        let (seats, lenders) = worker::seats(config.workers);
        let mut clusters = ClusterSet::new(lenders, pools.clone(), control.clone());
        clusters
            .apply(&config)
            .await
            .map_err(|(cluster, error)| StartError::ServerTls { cluster, error })?;
        let lookup = lookup::secrets(&config, &clusters.running());
        let accounts = lookup::accounts(&config, &clusters.handles().mysql);
        let auth = Auth {
            postgres: Arc::new(AuthContext::new(&config, lookup)?),
            mysql: Arc::new(MysqlAuthContext::new(&config, accounts).map_err(ContextError::Tls)?),
        };
        let layout = layout(&config);
        let mut workers = Vec::new();
        for seat in seats {
            let pen = stats.worker(&layout);
            workers.push(WorkerHandle::spawn(
                seat,
                pen,
                &config,
                auth.clone(),
                clusters.handles(),
            )?);
        }
        worker::introduce(&workers).await;
        let admin = Arc::new(AdminState {
            clusters: ArcSwap::from_pointee(clusters.views()),
            stats,
            pools,
            control,
            process: Process::this(),
            draining: Arc::new(AtomicBool::new(false)),
            token: ArcSwapOption::from_pointee(config.api_token.clone()),
        });
        let (stop_http, stopped) = watch::channel(false);
        if let Some(listener) = http {
            tokio::spawn(serve_http(listener, admin.clone(), stopped));
        } else {
            let control = admin.control.clone();
            tokio::spawn(async move { http::upkeep(&control).await });
        }
        let (path, mut discovery) = (path.to_owned(), Discovery::default());
        discovery.follow(&config);
        Ok(Server { path, config, auth, clusters, discovery, workers, listeners, admin, stop_http })
    }

    async fn serve(mut self) -> Result<(), StartError> {
        let mut signals = Signals::new()?;
        tracing::info!(
            listen = %self.listeners,
            workers = self.workers.len(),
            "tiffin {} is ready for clients",
            env!("CARGO_PKG_VERSION")
        );
        loop {
            tokio::select! {
                client = self.listeners.accept() => {
                    listen::place(client, &self.workers, self.config.limits.clients_max).await;
                }
                _ = signals.hangup.recv() => self.reload().await,
                news = self.discovery.next() => self.hear(news).await,
                name = signals.end.recv() => {
                    tracing::info!("{name}: draining");
                    break;
                }
            }
        }
        self.drain(&mut signals).await;
        Ok(())
    }

    /// Loads the file again. A file that is refused changes nothing.
    async fn reload(&mut self) {
        match self.try_reload().await {
            Ok(()) => {
                self.admin.control.reload_ok(SystemTime::now());
                tracing::info!(path = %self.path.display(), "the configuration was loaded again");
            }
            Err(error) => {
                self.admin.control.reload_refused();
                tracing::error!("the configuration stays as it was: {error}");
            }
        }
    }

    async fn try_reload(&mut self) -> Result<(), ReloadError> {
        let next = Config::load(&self.path)?;
        if next.listen.postgres != self.config.listen.postgres {
            return Err(ReloadError::NeedsRestart("listen.postgres"));
        }
        if next.listen.mysql != self.config.listen.mysql {
            return Err(ReloadError::NeedsRestart("listen.mysql"));
        }
        if next.listen.http != self.config.listen.http {
            return Err(ReloadError::NeedsRestart("listen.http"));
        }
        if next.workers != self.config.workers {
            return Err(ReloadError::NeedsRestart("workers"));
        }
        self.put_in_force(self.discovery.fill(next)).await?;
        self.discovery.follow(&self.config);
        let handles = self.clusters.handles();
        for handle in handles.postgres.iter().filter(|handle| handle.config.patroni.is_none()) {
            discovery::obey(&handle.topology, &Found::default());
        }
        Ok(())
    }

    /// Patroni has told of a cluster's nodes.
    async fn hear(&mut self, news: News) {
        self.discovery.learn(&news);
        let News { cluster: name, found } = news;
        let known = self.config.clusters.iter().find(|cluster| cluster.name == name);
        if known.is_some_and(|known| known.nodes != found.nodes) {
            let nodes: Vec<&str> = found.nodes.iter().map(|node| &*node.name).collect();
            tracing::info!(cluster = %name, "Patroni's members are {}", nodes.join(", "));
            let next = self.discovery.fill(self.config.clone());
            if let Err(error) = self.put_in_force(next).await {
                tracing::error!(cluster = %name, "the nodes stay as they were: {error}");
                return;
            }
        }
        let handles = self.clusters.handles();
        if let Some(handle) = handles.postgres.iter().find(|handle| handle.config.name == name) {
            discovery::obey(&handle.topology, &found);
        }
    }

    async fn put_in_force(&mut self, next: Config) -> Result<(), ReloadError> {
        // The last step that can fail comes first: afterwards everything changes together.
        let prepared = self
            .clusters
            .prepare(&next)
            .map_err(|(cluster, error)| ReloadError::ServerTls { cluster, error })?;
        let lookup = lookup::secrets(&next, &self.clusters.running());
        self.auth.postgres.reload(&next, lookup)?;
        self.clusters.commit(prepared).await;
        // Once more, with the clusters of now.
        let lookup = lookup::secrets(&next, &self.clusters.running());
        self.auth.postgres.reload(&next, lookup)?;
        let accounts = lookup::accounts(&next, &self.clusters.handles().mysql);
        self.auth.mysql.reload(&next, accounts).map_err(ContextError::Tls)?;
        self.admin.clusters.store(Arc::new(self.clusters.views()));
        self.admin.token.store(next.api_token.clone().map(Arc::new));
        let layout = Some(layout(&next)).filter(|next| *next != layout(&self.config));
        for worker in &self.workers {
            let pen = layout.as_ref().map(|layout| self.admin.stats.worker(layout));
            worker
                .send(Message::Reload {
                    limits: next.limits.clone(),
                    clusters: self.clusters.handles(),
                    stats: pen,
                })
                .await;
        }
        self.config = next;
        Ok(())
    }

    /// Clients that are left are told, and closed.
    async fn cut(&mut self) {
        for worker in &self.workers {
            worker.send(Message::Cut).await;
        }
        let told = async {
            for worker in &mut self.workers {
                worker.drained().await;
            }
        };
        // A client that does not even read this is nobody's concern any more.
        let _ = timeout(FAREWELL, told).await;
    }

    /// No new clients; transactions may end within the bound, idle clients are told.
    async fn drain(mut self, signals: &mut Signals) {
        self.admin.draining.store(true, Ordering::Relaxed);
        self.listeners.close();
        for worker in &self.workers {
            worker.send(Message::Drain).await;
        }
        let limit = self.config.shutdown.drain_timeout;
        let drained = async {
            for worker in &mut self.workers {
                worker.drained().await;
            }
        };
        tokio::select! {
            done = timeout(limit, drained) => match done {
                Ok(()) => tracing::info!("all clients have left"),
                Err(_) => {
                    tracing::warn!(
                        "the drain took longer than {limit:?} (shutdown.drain_timeout): \
                         what still runs is cut"
                    );
                    self.cut().await;
                }
            },
            name = signals.end.recv() => {
                tracing::warn!("{name} again: what still runs is cut");
                self.cut().await;
            }
        }
        let _ = self.stop_http.send(true);
        self.clusters.stop().await;
    }
}

async fn serve_http(
    listener: tokio::net::TcpListener,
    state: Arc<AdminState>,
    mut stopped: watch::Receiver<bool>,
) {
    let until = async move {
        // An error means that the server is gone already.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    if let Err(error) = http::serve(listener, state, until).await {
        tracing::error!(%error, "the HTTP pages have ended");
    }
}

fn layout(config: &Config) -> Arc<Layout> {
    let clusters = config.clusters.iter().map(|cluster| {
        let nodes = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        (cluster.name.clone(), nodes)
    });
    Arc::new(Layout::new(clusters))
}

/// The signals that the proxy answers.
struct Signals {
    hangup: Signal,
    end: End,
}

struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Signals { hangup: signal(SignalKind::hangup())?, end: End { terminate, interrupt } })
    }
}

impl End {
    async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
