//! A worker thread: a runtime of its own, one task per client, and the housekeeping of its pools.

use super::FAREWELL;
use super::clusters::{Handles, LendOf, Lenders};
use super::listen::{Protocol, Socket};
use crate::backend::stream::Plain;
use crate::config::{Config, Limits};
use crate::frontend::cluster::{ClusterHandle, Engine, LocalCluster, Mysql, Postgres};
use crate::frontend::mysql::auth_context::AuthContext as MysqlAuthContext;
use crate::frontend::mysql::change_user::Door;
use crate::frontend::mysql::conversation::Conversation as MysqlConversation;
use crate::frontend::mysql::startup::{Opening as MysqlOpening, accept as mysql_accept};
use crate::frontend::postgres::auth_context::AuthContext;
use crate::frontend::postgres::conversation::Conversation;
use crate::frontend::postgres::replication;
use crate::frontend::postgres::scratch::Scratch;
use crate::frontend::postgres::startup::{Accepted, Opening, PeerAddress, StartupError, accept};
use crate::frontend::worker::{KillRequest, MYSQL_ID, Worker, worker_of};
use crate::metrics::{AuthFailure, WorkerStats};
use crate::pool::local::Count;
use crate::sql::{Classifier, ClassifierLimits};
use crate::topology::{NodeId, Topology};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Messages to a worker; a sender waits for room.
const MESSAGES_MAX: usize = 1024;
/// Workers that are short ask again when they have to wait again.
const LENDS_MAX: usize = 1024;
/// Idle connections are looked at this often.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// The deepest statement that is parsed takes between one and two megabytes.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// What clients are let in by.
#[derive(Clone)]
pub struct Auth {
    pub postgres: Arc<AuthContext>,
    pub mysql: Arc<MysqlAuthContext>,
}

/// What a worker is told.
pub enum Message {
    Client(Socket, PeerAddress, Protocol),
    /// A cancel request for one of its sessions; answered when it has been passed on.
    Cancel {
        process_id: i32,
        key: Box<[u8]>,
        done: oneshot::Sender<bool>,
    },
    /// A KILL of one of its sessions.
    Kill(KillRequest),
    /// Who the other workers are.
    Peers(Vec<mpsc::Sender<Message>>),
    Reload {
        limits: Limits,
        clusters: Handles,
        /// `None`: the clusters and nodes are those of before.
        stats: Option<WorkerStats>,
    },
    /// Idle clients are told good-bye, the others when they are done.
    Drain,
    /// The time of the drain is over: whoever is left is told, and cut.
    Cut,
}

/// The receiving ends that a worker is given.
pub struct Seat {
    index: usize,
    messages: mpsc::Sender<Message>,
    inbox: mpsc::Receiver<Message>,
    lends: mpsc::Receiver<LendOf<Postgres>>,
    mysql_lends: mpsc::Receiver<LendOf<Mysql>>,
}

/// The ends of all workers' channels.
pub fn seats(workers: usize) -> (Vec<Seat>, Lenders) {
    let (mut seats, mut lenders) = (Vec::new(), Lenders::default());
    for index in 0..workers {
        let (messages, inbox) = mpsc::channel(MESSAGES_MAX);
        let (lender, lends) = mpsc::channel(LENDS_MAX);
        lenders.postgres.push(lender);
        let (lender, mysql_lends) = mpsc::channel(LENDS_MAX);
        lenders.mysql.push(lender);
        seats.push(Seat { index, messages, inbox, lends, mysql_lends });
    }
    (seats, lenders)
}

/// Tells the workers of each other.
pub async fn introduce(workers: &[WorkerHandle]) {
    let peers: Vec<_> = workers.iter().map(|worker| worker.messages.clone()).collect();
    for worker in workers {
        worker.send(Message::Peers(peers.clone())).await;
    }
}

/// A worker as the control thread sees it.
pub struct WorkerHandle {
    messages: mpsc::Sender<Message>,
    clients: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
    is_ended: bool,
}

impl WorkerHandle {
    pub fn spawn(
        seat: Seat,
        stats: WorkerStats,
        config: &Config,
        auth: Auth,
        clusters: Handles,
    ) -> io::Result<WorkerHandle> {
        let clients = Arc::new(AtomicUsize::new(0));
        let (end, ended) = oneshot::channel();
        let messages = seat.messages.clone();
        let limits = config.limits.clone();
        let counter = clients.clone();
        let thread = thread::Builder::new().name(format!("worker-{}", seat.index));
        thread.stack_size(STACK_BYTES).spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            match builder.enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    let serve = Thread::serve(seat, stats, limits, auth, clusters, counter);
                    let serve = runtime.spawn_local(serve);
                    if let Err(error) = runtime.block_on(serve) {
                        tracing::error!(%error, "a worker has ended");
                    }
                }
                Err(error) => tracing::error!(%error, "a worker could not start its runtime"),
            }
            let _ = end.send(());
        })?;
        Ok(WorkerHandle { messages, clients, ended, is_ended: false })
    }

    /// Clients that were given to it and have not left.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Waits for room; a worker that is gone takes nothing.
    pub async fn send(&self, message: Message) {
        if matches!(message, Message::Client(..)) {
            self.clients.fetch_add(1, Ordering::Relaxed);
        }
        let _ = self.messages.send(message).await;
    }

    /// Resolves when the worker has no clients any more after [`Message::Drain`].
    pub async fn drained(&mut self) {
        if !self.is_ended {
            // An error means that the thread is gone as well.
            let _ = (&mut self.ended).await;
            self.is_ended = true;
        }
    }
}

/// What all tasks of one worker thread share.
struct Thread {
    worker: Rc<Worker>,
    scratch: Rc<Scratch>,
    auth: Auth,
    clients: Arc<AtomicUsize>,
    peers: RefCell<Vec<mpsc::Sender<Message>>>,
}

impl Thread {
    async fn serve(
        seat: Seat,
        stats: WorkerStats,
        limits: Limits,
        auth: Auth,
        clusters: Handles,
        clients: Arc<AtomicUsize>,
    ) {
        let Seat { index, mut inbox, mut lends, mut mysql_lends, .. } = seat;
        let classifier = Classifier::new(ClassifierLimits {
            cache_max: limits.classify_cache_max,
            parse_bytes_max: limits.parse_bytes_max,
        });
        let worker = Worker::new(index, stats, limits, classifier);
        let this = Rc::new(Thread {
            worker: Rc::new(worker),
            scratch: Rc::default(),
            auth,
            clients,
            peers: RefCell::default(),
        });
        this.install(clusters);
        let mut tidy = tokio::time::interval(TIDY_INTERVAL);
        while !(this.worker.draining.get() && this.clients.load(Ordering::Relaxed) == 0) {
            tokio::select! {
                Some(message) = inbox.recv() => this.receive(message),
                Some(lend) = lends.recv() => this.lend(&lend),
                Some(lend) = mysql_lends.recv() => this.lend_mysql(&lend),
                _ = tidy.tick() => this.tidy(),
                () = this.emptied(), if this.worker.draining.get() => {}
            }
        }
    }

    fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Client(socket, peer, protocol) => {
                let this = self.clone();
                let stats = self.worker.stats();
                stats.client_opened();
                tokio::task::spawn_local(async move {
                    this.serve_client(socket, peer, protocol).await;
                    this.worker.stats().client_closed();
                    this.clients.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Message::Cancel { process_id, key, done } => {
                let worker = self.worker.clone();
                tokio::task::spawn_local(async move {
                    let _ = done.send(worker.cancel(process_id, &key).await);
                });
            }
            Message::Kill(request) => {
                let worker = self.worker.clone();
                tokio::task::spawn_local(async move { worker.killed(request).await });
            }
            Message::Peers(peers) => {
                *self.peers.borrow_mut() = peers.clone();
                self.worker.set_killer(Box::new(move |request| {
                    if let Some(owner) = peers.get(worker_of(request.process_id)) {
                        // A worker that has so much to do answers that there is no such session.
                        let _ = owner.try_send(Message::Kill(request));
                    }
                }));
            }
            Message::Reload { limits, clusters, stats } => {
                self.worker.replace_limits(limits);
                if let Some(stats) = stats {
                    self.worker.replace_stats(stats);
                }
                self.install(clusters);
                self.worker.wake_all();
            }
            Message::Cut => {
                self.worker.cutting.set(true);
                self.worker.wake_all();
            }
            Message::Drain => {
                self.worker.draining.set(true);
                self.worker.wake_all();
            }
        }
    }

    fn install(&self, clusters: Handles) {
        install(&self.worker, &self.worker.clusters, clusters.postgres);
        install(&self.worker, &self.worker.mysql_clusters, clusters.mysql);
    }

    async fn serve_client(&self, socket: Socket, peer: PeerAddress, protocol: Protocol) {
        let plain = match socket {
            Socket::Tcp(tcp) => TcpStream::from_std(tcp).map(Plain::Tcp),
            Socket::Unix(unix) => UnixStream::from_std(unix).map(Plain::Unix),
        };
        let plain = match plain {
            Ok(plain) => plain,
            Err(error) => {
                tracing::info!(%peer, "a client was not let in: {error}");
                return;
            }
        };
        // Boxed: a start-up needs much more memory than a session, and one protocol's session more
        // than the other's.
        match protocol {
            Protocol::Postgres => {
                if let Some(conversation) = Box::pin(self.admit(plain, peer)).await {
                    Box::pin(conversation.run()).await;
                }
            }
            Protocol::Mysql => {
                if let Some(conversation) = Box::pin(self.admit_mysql(plain, peer)).await {
                    Box::pin(conversation.run()).await;
                }
            }
        }
    }

    /// A client from its first byte to its session.
    async fn admit_mysql(&self, plain: Plain, peer: PeerAddress) -> Option<Box<MysqlConversation>> {
        let worker = &self.worker;
        let cluster = worker.mysql_cluster_of(None)?;
        let entry = worker.enter(random_secret()?);
        let connection_id = entry.process_id.cast_unsigned() | MYSQL_ID;
        let face = cluster.face();
        let opening = mysql_accept(plain, peer, &self.auth.mysql, &face, connection_id).await;
        match opening {
            Ok(MysqlOpening::Session(accepted)) => {
                tracing::debug!(%peer, user = accepted.user, "a client came in");
                let door = Door { auth: self.auth.mysql.clone(), peer };
                MysqlConversation::begin(accepted, worker.clone(), entry, door).await
            }
            Ok(MysqlOpening::Closed) => {
                worker.leave(&entry);
                None
            }
            Err(error) => {
                worker.leave(&entry);
                worker.stats().auth_failed(error.failure());
                tracing::info!(%peer, "a client was not let in: {error}");
                None
            }
        }
    }

    /// A client from its first byte to its session.
    async fn admit(&self, plain: Plain, peer: PeerAddress) -> Option<Box<Conversation>> {
        match accept(plain, peer, &self.auth.postgres).await {
            Ok(Opening::Session(accepted)) => self.begin(accepted, peer).await,
            Ok(Opening::Cancel { process_id, key, mut connection }) => {
                self.cancel(process_id, key).await;
                // Closed only now: the client knows by it that the request has arrived. Over TLS
                // it must be told so; libpq 17 and later take a bare end for a failure.
                let _ = timeout(FAREWELL, connection.shutdown()).await;
                None
            }
            Ok(Opening::Closed) => None,
            Err(error) => {
                self.count_refusal(&error);
                tracing::info!(%peer, "a client was not let in: {error}");
                None
            }
        }
    }

    async fn begin(&self, accepted: Box<Accepted>, peer: PeerAddress) -> Option<Box<Conversation>> {
        let Some((cluster, database)) = self.worker.cluster_of(&accepted.database) else {
            self.worker.stats().auth_failed(AuthFailure::UnknownDatabase);
            tracing::info!(%peer, database = accepted.database, "no cluster serves this database");
            replication::refuse_database(*accepted).await;
            return None;
        };
        if accepted.replication.is_some() {
            replication::relay(*accepted, &cluster.handle, &database).await;
            return None;
        }
        tracing::debug!(%peer, user = accepted.user, database = &*database, "a client came in");
        let (worker, scratch) = (self.worker.clone(), self.scratch.clone());
        Conversation::begin(accepted, worker, scratch, cluster, (database, peer)).await
    }

    /// Passes a cancel request to the worker whose session it names.
    async fn cancel(&self, process_id: i32, key: Box<[u8]>) {
        let owner = self.peers.borrow().get(worker_of(process_id)).cloned();
        let mut found = false;
        if let Some(owner) = owner {
            let (done, answer) = oneshot::channel();
            if owner.send(Message::Cancel { process_id, key, done }).await.is_ok() {
                found = answer.await.unwrap_or(false);
            }
        }
        self.worker.stats().cancel_request(found);
    }

    fn count_refusal(&self, error: &StartupError) {
        let why = match error {
            StartupError::Timeout(_) => AuthFailure::Timeout,
            StartupError::Refused(refusal) => match refusal.sqlstate {
                "28P01" => AuthFailure::WrongPassword,
                "28000" => AuthFailure::UnknownUser,
                _ => AuthFailure::Protocol,
            },
            _ => AuthFailure::Protocol,
        };
        self.worker.stats().auth_failed(why);
    }

    fn lend(&self, lend: &LendOf<Postgres>) {
        for cluster in self.worker.clusters.borrow().iter() {
            cluster.pools.lend(lend);
        }
    }

    fn lend_mysql(&self, lend: &LendOf<Mysql>) {
        for cluster in self.worker.mysql_clusters.borrow().iter() {
            cluster.pools.lend(lend);
        }
    }

    fn tidy(&self) {
        for cluster in self.worker.clusters.borrow().iter() {
            self.tidy_cluster(cluster);
        }
        for cluster in self.worker.mysql_clusters.borrow().iter() {
            self.tidy_cluster(cluster);
        }
        let (postgres, mysql) =
            (self.worker.clusters.borrow(), self.worker.mysql_clusters.borrow());
        let mut topologies = postgres.iter().map(|cluster| &cluster.handle.topology);
        let mut more = mysql.iter().map(|cluster| &cluster.handle.topology);
        if topologies.any(|it| it.is_closed()) || more.any(|it| it.is_closed()) {
            // Who is silent does not see that it is to leave.
            self.worker.wake_all();
        }
    }

    fn tidy_cluster<E: Engine>(&self, cluster: &LocalCluster<E>) {
        let now = Instant::now();
        {
            cluster.pools.forget_unused();
            let snapshot = cluster.handle.topology.load_full();
            for (number, pool) in cluster.pools.each().into_iter().enumerate() {
                let stats = self.worker.stats();
                let cluster = cluster.handle.index;
                let in_use = |node: NodeId| {
                    snapshot
                        .nodes
                        .get(usize::from(node.0))
                        .is_none_or(|node| !node.drained || snapshot.primary == Some(node.id))
                };
                pool.tidy(now, in_use(pool.shared.key.node), &Count { stats: &stats, cluster });
                // Each pool is filled by one worker.
                let workers = self.peers.borrow().len().max(1);
                if number % workers == self.worker.index
                    && pool.is_short()
                    && in_use(pool.shared.key.node)
                {
                    let epoch = snapshot.epoch;
                    tokio::task::spawn_local(async move {
                        pool.fill(epoch, Count { stats: &stats, cluster }).await;
                    });
                }
            }
        }
    }

    /// Polled while draining, so that the last client's end is noticed.
    async fn emptied(&self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A cluster that is as it was stays; sessions of the others move over when they are free.
fn install<E: Engine>(
    worker: &Rc<Worker>,
    known: &RefCell<Vec<Rc<LocalCluster<E>>>>,
    clusters: Vec<Arc<ClusterHandle<E>>>,
) {
    let old = known.take();
    let fresh = clusters.into_iter().map(|handle| {
        let same_pools =
            |known: &&Rc<LocalCluster<E>>| Arc::ptr_eq(&known.handle.pools, &handle.pools);
        match old.iter().find(same_pools) {
            Some(known) if Arc::ptr_eq(&known.handle, &handle) => known.clone(),
            Some(known) => Rc::new(known.successor(handle)),
            None => {
                wake_at_each_epoch(worker, &handle.topology);
                Rc::new(LocalCluster::new(handle, worker.index))
            }
        }
    });
    let fresh: Vec<_> = fresh.collect();
    for cluster in old {
        let stays = fresh.iter().any(|now| Rc::ptr_eq(now, &cluster));
        cluster.retired.set(!stays);
    }
    known.replace(fresh);
}

/// Sessions that wait for an answer of a primary that is none any more look up.
fn wake_at_each_epoch(worker: &Rc<Worker>, topology: &Topology) {
    let (worker, mut moved) = (worker.clone(), topology.subscribe_to_epochs());
    tokio::task::spawn_local(async move {
        while moved.changed().await.is_ok() {
            worker.wake_all();
        }
    });
}

/// Nobody cancels a session by it: MySQL's clients have no such key.
fn random_secret() -> Option<Box<[u8]>> {
    let mut secret = [0; 16];
    aws_lc_rs::rand::fill(&mut secret).ok()?;
    Some(secret.into())
}
