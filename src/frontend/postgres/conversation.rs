//! One client's conversation, from its first request to its end:
//!
//! ```text
//! welcome ─▶ next batch ─▶ plan ─▶ answer here ──────────────────────────┐
//!               ▲                 └▶ acquire a server ─▶ send ─▶ serve ──┤
//!               │                        ▲                      │ repeat │
//!               │                        └──────────────────────┘        │
//!               └────────── release the server, if nothing holds it ◀────┘
//! ```
//!
//! Each stage is a file, of this folder or the one above: [`super::plan`], [`super::local`],
//! [`crate::frontend::acquire`], [`super::send`] (with [`super::encode`]), [`super::serve`].

use super::LocalPool;
use super::active::Active;
use super::extent::{Extent, extent};
use super::fault::{Fault, Refused};
use super::guard::is_rollback;
use super::plan::{Batch, Planner};
use super::resolve::Recovered;
use super::scratch::Scratch;
use super::send::leaves_open;
use super::serve::Served;
use super::statements::Statements;
use crate::backend::postgres::auth::ServerSecret;
use crate::backend::postgres::connection::Reported;
use crate::backend::stream::Stream;
use crate::frontend::acquire::{acquire, keep, reads};
use crate::frontend::cluster::LocalCluster;
use crate::frontend::repeats::Repeats;
use crate::frontend::stall::Stall;
use crate::frontend::worker::{Entry, Worker};
use crate::metrics::{NodeIndex, PinGuard, RouteReason, ServerClosed};
use crate::monitor::catalog::CatalogSlot;
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::frame::FrameError;
use crate::protocol::postgres::reply::{Status, put_ready};
use crate::session::{Class, Need, Session, Transaction};
use crate::sql::Defaults;
use crate::topology::NodeId;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// Bytes that are held back for a batch beyond the longest text that is parsed: the rest of the
/// batch's messages.
const HOLD_MARGIN_BYTES: usize = 16 * 1024;

/// Room that a read from a client asks for.
const READ_BYTES_MIN: usize = 8 * 1024;

/// Who the client is.
#[derive(Debug)]
pub struct Identity {
    pub user: Arc<str>,
    /// As the servers know it.
    pub database: Arc<str>,
    pub secret: ServerSecret,
}

/// A client that has been let in.
pub struct Conversation {
    pub(super) worker: Rc<Worker>,
    pub(super) scratch: Rc<Scratch>,
    pub(super) cluster: Rc<LocalCluster>,
    pub(super) identity: Rc<Identity>,
    pub(super) entry: Rc<Entry>,
    pub(super) catalog: Arc<CatalogSlot>,
    pub(super) client: Stream,
    /// What the client has sent; its first `taken` bytes are planned or sent.
    pub(super) inbox: Buffer,
    pub(super) taken: usize,
    /// Bytes of a long message still to be passed on.
    pub(super) streaming: usize,
    pub(super) session: Session,
    /// Counts the session's pins.
    pub(super) pins: PinGuard,
    pub(super) statements: Statements,
    /// The parameters that the client knows, and those that it was told first.
    pub(super) known: Arc<Reported>,
    pub(super) welcome: Arc<Reported>,
    /// The defaults of roles and databases, as last known.
    pub(super) defaults: Option<Defaults>,
    /// Its request asks for the state of sequences: that is on the connection that it had before.
    pub(super) asks_sequences: bool,
    pub(super) pools: Vec<Option<Rc<LocalPool>>>,
    pub(super) active: Option<Box<Active>>,
    /// A refused batch of the extended protocol: everything up to its Sync is ignored.
    pub(super) skipping: bool,
    /// The open transaction was lost with its server while the client was silent: what its next
    /// request is told.
    pub(super) lost: Option<Box<Refused>>,
    pub(super) stall: Stall,
    /// The client has not been told that it is in: only its settings are tried.
    pub(super) greeting: bool,
}

/// What a client that is waited for has sent.
enum Next {
    Batch(usize),
    Open(usize),
}

impl Conversation {
    /// Serves the client until it leaves or cannot be served any more.
    pub async fn run(mut self: Box<Self>) {
        let fault = match self.serve_all().await {
            Ok(()) => Fault::ClientLeft,
            Err(fault) => fault,
        };
        self.farewell(&fault).await;
    }

    async fn serve_all(&mut self) -> Result<(), Fault> {
        loop {
            let (bytes, open) = match self.next().await? {
                Next::Batch(bytes) => (bytes, false),
                Next::Open(bytes) => (bytes, true),
            };
            if self.skipping {
                self.skip(bytes).await?;
                continue;
            }
            if self.cluster.retired.get() && self.session.is_free() {
                self.move_to_successor()?;
            }
            let mut batch = self.take_batch();
            self.statements.all_changed();
            self.plan(bytes, &mut batch);
            if let Some(error) = batch.broken {
                return Err(error.into());
            }
            if batch.is_goodbye() {
                return Ok(());
            }
            if self.lost.is_some() && is_rollback(&batch) {
                self.lost = None;
            }
            if self.lost.is_none() && !open && self.answer_here(&batch).await? {
                self.inbox.consume(bytes);
                self.keep_batch(batch);
                continue;
            }
            self.taken = bytes;
            if let Some(refused) = self.aborted(&batch) {
                self.refuse(&batch, &refused).await?;
                self.keep_batch(batch);
                continue;
            }
            self.serve_batch(batch, open).await?;
        }
    }

    fn held_node(&self) -> Option<NodeId> {
        let server = self.active.as_ref()?.server.as_ref();
        server.map(|server| server.node)
    }

    /// Brings a batch to a server and its replies back, as often as it takes.
    async fn serve_batch(&mut self, batch: Box<Batch>, mut open: bool) -> Result<(), Fault> {
        let mut need = self.need(&batch, open);
        let reads = reads(batch.class.as_ref());
        let mut batch = Some(batch);
        let (is_kept, mut goes_on) = (self.active.is_some(), false);
        keep(self, self.held_node(), reads).await?;
        let (mut repeats, mut first) = (Repeats::default(), true);
        loop {
            if !std::mem::take(&mut goes_on) {
                let acquired = match is_kept && std::mem::take(&mut first) {
                    true => self.keep_on_replica(batch.as_deref(), &need),
                    false => acquire(self, &need, reads).await?,
                };
                if let Err(refused) = acquired {
                    let batch = batch.take().unwrap_or_default();
                    self.refuse(&batch, &refused).await?;
                    self.keep_batch(batch);
                    return Ok(());
                }
                let may_repeat = !is_kept && repeats.are_left();
                self.send(batch.take().unwrap_or_default(), open, may_repeat);
            }
            let served = self.serve_here().await;
            if matches!(served, Ok(Served::Repeat) | Err(_)) {
                repeats.failed(Instant::now(), self.active.as_ref().and_then(|it| it.opened_at()));
            }
            match served {
                Ok(Served::Done | Served::RepeatHere | Served::Settled) => {
                    self.release().await;
                    return Ok(());
                }
                Ok(Served::Between) => return Ok(()),
                Ok(Served::Leave) => {
                    let (left, refused) = self.leave_replica();
                    open = left.as_ref().is_some_and(|batch| leaves_open(batch));
                    if let Some(refused) = refused {
                        return self.refuse(&left.unwrap_or_default(), &refused).await;
                    }
                    need = Need::Primary(RouteReason::Write);
                    batch = left;
                }
                Ok(Served::Repeat) => {
                    self.cancels_arrived().await;
                    self.count_retry();
                    batch = if self.left_open() {
                        self.drop_server(ServerClosed::Broken)
                    } else {
                        self.give_up_server()
                    };
                    need = Need::Primary(RouteReason::RetriedOnPrimary);
                }
                Err(fault) if self.can_repeat(&fault) => {
                    self.count_retry();
                    batch = self.drop_server(ServerClosed::Broken);
                }
                Err(fault) => match Box::pin(self.recover(fault)).await? {
                    Recovered::Answered => return Ok(()),
                    Recovered::GoesOn => goes_on = true,
                    Recovered::Again(again) => {
                        need = Need::Primary(RouteReason::RetriedOnPrimary);
                        batch = Some(again);
                    }
                },
            }
        }
    }

    fn need(&self, batch: &Batch, open: bool) -> Need {
        use crate::config::PoolMode;
        let config = &self.cluster.handle.config;
        if config.pool.mode == PoolMode::Session {
            return Need::Primary(RouteReason::SessionPin);
        }
        let class = batch.class.as_ref().unwrap_or(&Class::Session);
        match self.session.need(class, batch.hint.as_ref(), &config.routing) {
            // More of the same implicit transaction may follow, and it may write.
            Need::Replica(need) if open && !need.transaction => {
                Need::Primary(RouteReason::SegmentOpen)
            }
            Need::Any if open => Need::Primary(RouteReason::SegmentOpen),
            need => need,
        }
    }

    /// The configuration was loaded again: the session goes on with the cluster of now.
    pub(super) fn move_to_successor(&mut self) -> Result<(), Fault> {
        let name = &self.cluster.handle.config.name;
        let clusters = self.worker.clusters.borrow();
        let Some(successor) = clusters.iter().find(|cluster| cluster.handle.config.name == *name)
        else {
            return Err(Fault::ShuttingDown);
        };
        self.cluster = successor.clone();
        self.catalog = self.cluster.handle.catalogs.get(&self.identity.database);
        self.pools.clear();
        Ok(())
    }

    /// Waits for the client, holding no memory for it while it is silent.
    async fn next(&mut self) -> Result<Next, Fault> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Fault>> {
        let hold = self.hold_bytes();
        loop {
            if !self.inbox.is_empty() {
                match extent(self.inbox.filled(), hold)? {
                    Extent::Whole(bytes) => {
                        self.stall.clear();
                        return Poll::Ready(Ok(Next::Batch(bytes)));
                    }
                    Extent::Open(bytes) => {
                        self.stall.clear();
                        return Poll::Ready(Ok(Next::Open(bytes)));
                    }
                    Extent::Partial => {}
                }
            } else if self.worker.sends_away(&self.cluster.handle.topology)
                && self.session.is_free()
            {
                return Poll::Ready(Err(Fault::ShuttingDown));
            }
            match self.poll_read_client(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Fault::ClientLeft)),
                Poll::Ready(Ok(_)) => self.stall.clear(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending if self.inbox.is_empty() => {
                    self.worker.keep_buffer(std::mem::take(&mut self.inbox));
                    self.entry.remember(cx.waker());
                    return Poll::Pending;
                }
                Poll::Pending => {
                    let limit = self.worker.limits().message_timeout;
                    ready!(self.stall.poll(cx, limit));
                    return Poll::Ready(Err(Fault::ClientStalled(limit)));
                }
            }
        }
    }

    pub(super) fn poll_read_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.inbox.capacity() == 0 {
            self.inbox = self.worker.take_buffer();
        }
        let count = ready!(poll_read_into(&mut self.client, &mut self.inbox, cx))?;
        self.worker.stats().bytes_in(count);
        Poll::Ready(Ok(count))
    }

    /// Bytes of a batch that are held back until it is whole.
    pub(super) fn hold_bytes(&self) -> usize {
        let limits = self.worker.limits();
        limits.parse_bytes_max + HOLD_MARGIN_BYTES
    }

    pub(super) fn plan(&mut self, bytes: usize, batch: &mut Batch) {
        let limits = self.worker.limits();
        let catalog = self.catalog.load();
        let number = |defaults: Option<Defaults>| defaults.map(|defaults| defaults.number);
        if catalog.defaults.is_some() && number(catalog.defaults) != number(self.defaults) {
            self.defaults = catalog.defaults;
        }
        let on_replica = self.is_on_replica();
        let mut planner = Planner {
            worker: &self.worker,
            registry: &self.scratch.registry,
            statements: &mut self.statements,
            naming: self.session.naming(),
            on_replica,
            standard_strings: self.known.standard_strings,
            is_readable: self.known.is_readable,
            catalog: &catalog,
            slot: &self.catalog,
            database: &self.identity.database,
            statements_max: limits.client_statements_max,
            portals_max: limits.client_portals_max,
        };
        planner.plan(&self.inbox.filled()[self.taken..self.taken + bytes], batch);
        self.asks_sequences = batch.sequences;
    }

    /// The rest of a refused batch; its Sync is answered.
    async fn skip(&mut self, bytes: usize) -> Result<(), Fault> {
        let filled = &self.inbox.filled()[..bytes];
        let synced = filled.ends_with(b"S\0\0\0\x04");
        if bytes == 0 {
            return Err(FrameError::Length.into());
        }
        self.inbox.consume(bytes);
        if synced {
            self.skipping = false;
            let mut out = Vec::new();
            put_ready(&mut out, self.status());
            self.tell(&out).await?;
        }
        Ok(())
    }

    /// The client learns that a batch was not run.
    async fn refuse(&mut self, batch: &Batch, refused: &Refused) -> Result<(), Fault> {
        self.worker.stats().error(crate::metrics::ErrorOrigin::Proxy, refused.sqlstate.as_bytes());
        // The requests behind it are planned anew.
        let ends = batch.ops.iter().position(|op| op.what.ends_request());
        self.inbox.consume(ends.map_or(self.taken, |at| batch.ops[at].at.end.min(self.taken)));
        self.taken = 0;
        self.statements.none_changed();
        if matches!(self.session.transaction, Transaction::Held(_)) {
            self.session.failed();
        }
        let mut out = Vec::new();
        refused.report().put(&mut out);
        match ends.is_some() {
            true => put_ready(&mut out, self.status()),
            false => self.skipping = true,
        }
        self.tell(&out).await
    }

    /// The transaction status for a ReadyForQuery of the proxy's own.
    pub(super) fn status(&self) -> Status {
        match self.session.transaction {
            Transaction::Idle => Status::Idle,
            Transaction::Held(_) | Transaction::Open => Status::Open,
            Transaction::Failed => Status::Failed,
        }
    }

    /// Writes the proxy's own words to the client, within `limits.write_timeout`.
    pub(super) async fn tell(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let limit = self.worker.limits().write_timeout;
        let write = async {
            self.client.write_all(bytes).await?;
            self.client.flush().await
        };
        match timeout(limit, write).await {
            Ok(done) => done?,
            Err(_) => return Err(Fault::ClientDoesNotRead(limit)),
        }
        self.worker.stats().bytes_out(bytes.len());
        Ok(())
    }

    /// Ends the conversation: the server connection is closed, the client told why.
    pub(super) async fn farewell(&mut self, fault: &Fault) {
        let clean = matches!(fault, Fault::ClientLeft | Fault::ShuttingDown);
        let between = |active: &Active| !active.progress.segment_open && active.is_quiet();
        if clean && self.session.is_free() && self.active.as_deref().is_some_and(between) {
            self.release().await;
        }
        let why = if clean { ServerClosed::Abandoned } else { ServerClosed::Broken };
        self.drop_server(why);
        let mut out = Vec::new();
        fault.put(&mut out);
        if !out.is_empty() {
            self.worker
                .stats()
                .error(crate::metrics::ErrorOrigin::Proxy, fault.sqlstate().as_bytes());
            tracing::info!(user = %self.identity.user, database = %self.identity.database, "{fault}");
            let _ = self.tell(&out).await;
        }
        let _ = self.client.shutdown().await;
        self.worker.leave(&self.entry);
    }

    /// Whether a fault of the server can be hidden: a read of which nothing has reached the
    /// client.
    fn can_repeat(&self, fault: &Fault) -> bool {
        let Fault::ServerLost { .. } = fault else { return false };
        self.active.as_ref().is_some_and(|active| {
            active.progress.repeatable
                || active.progress.intercepted
                || (active.progress.retained && active.is_uncommitted())
        })
    }

    fn count_retry(&self) {
        if let Some(server) = self.active.as_ref().and_then(|active| active.server.as_ref()) {
            self.worker.stats().retried(self.cluster.handle.index, NodeIndex(server.node.0));
        }
    }

    /// A batch whose memory was used before.
    fn take_batch(&mut self) -> Box<Batch> {
        self.scratch.take_batch()
    }

    pub(super) fn keep_batch(&self, batch: Box<Batch>) {
        self.scratch.keep_batch(batch);
    }
}

/// Reads once into the free part of a buffer; 0 is the end of the stream.
pub(super) fn poll_read_into(
    stream: &mut Stream,
    buffer: &mut Buffer,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut room = ReadBuf::new(buffer.spare(READ_BYTES_MIN));
    ready!(Pin::new(stream).poll_read(cx, &mut room))?;
    let count = room.filled().len();
    buffer.advance(count);
    Poll::Ready(Ok(count))
}

/// Writes once; the count is what was taken. `unflushed` tells whether the TLS layer still holds
/// bytes afterwards.
pub(super) fn poll_write_from(
    stream: &mut Stream,
    bytes: &[u8],
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let count = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
    if count == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    *unflushed = stream.is_tls();
    Poll::Ready(Ok(count))
}

/// Lets the TLS layer write what it holds.
pub(super) fn poll_flush(
    stream: &mut Stream,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    if *unflushed && Pin::new(stream).poll_flush(cx)?.is_ready() {
        *unflushed = false;
    }
    Ok(())
}
