//! One client's conversation, from its first command to its end:
//!
//! ```text
//! welcome ─▶ next command ─▶ plan ─▶ answer here ───────────────────────────────────┐
//!               ▲                └▶ acquire a server ─▶ bring the session ─▶ serve ──┤
//!               │                        ▲                                   │ again │
//!               │                        └───────────────────────────────────┘       │
//!               └────────── release the server, if nothing holds it ◀────────────────┘
//! ```
//!
//! Each stage is a file, of this folder or the one above: [`super::plan`], [`super::local`],
//! [`crate::frontend::acquire`], [`super::bring`], [`super::serve`] (with [`super::learn`]), [`super::release`].

use super::LocalPool;
use super::active::{Active, Expected, Whose};
use super::change_user::Door;
use super::compress::ClientStream;
use super::errors;
use super::fault::{Fault, Refused};
use super::followed::Followed;
use super::plan::{Extent, Request, What, extent};
use super::resolve::Recovered;
use super::serve::Served;
use super::statements::Statements;
use super::stream::{Upload, poll_read_into};
use crate::backend::mysql::auth::ServerSecret;
use crate::config::PoolMode;
use crate::frontend::acquire::{acquire, keep, reads};
use crate::frontend::cluster::{LocalCluster, Mysql};
use crate::frontend::failure::Failure;
use crate::frontend::repeats::Repeats;
use crate::frontend::stall::Stall;
use crate::frontend::worker::{Entry, Worker};
use crate::metrics::{NodeIndex, PinGuard, RouteReason, ServerClosed};
use crate::monitor::mysql_catalog::MysqlCatalogSlot;
use crate::protocol::buffer::Buffer;
use crate::protocol::mysql::capabilities::{Capabilities, Status};
use crate::protocol::mysql::replies::Reply;
use crate::protocol::mysql::reply::OkPacket;
use crate::protocol::mysql::translate::{Translation, Visible};
use crate::session::{Class, Need, Session};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// A free session keeps its connection for this long after a statement with warnings or an error:
/// whoever asks for them does so next.
const DIAGNOSTICS_HOLD: Duration = Duration::from_secs(1);

/// Meanwhile it is looked this often whether somebody else waits for one.
const DIAGNOSTICS_LOOK: Duration = Duration::from_millis(10);

/// Who the client is.
#[derive(Debug)]
pub struct Identity {
    pub user: Arc<str>,
    pub secret: ServerSecret,
}

/// A client that has been let in.
pub struct Conversation {
    pub(super) worker: Rc<Worker>,
    pub(super) cluster: Rc<LocalCluster<Mysql>>,
    pub(super) identity: Rc<Identity>,
    pub(super) entry: Rc<Entry>,
    pub(super) door: Door,
    pub(super) catalog: Arc<MysqlCatalogSlot>,
    pub(super) client: ClientStream,
    /// What client and proxy agreed on.
    pub(super) capabilities: Capabilities,
    pub(super) translation: Translation,
    pub(super) visible: Visible,
    /// What the client has sent; the command under way stays in front until it is answered.
    pub(super) inbox: Buffer,
    pub(super) session: Session,
    pub(super) followed: Followed,
    /// Counts the session's pins.
    pub(super) pins: PinGuard,
    pub(super) statements: Statements,
    /// By node; those for sessions without a schema and with one.
    pub(super) pools: [Vec<Option<Rc<LocalPool>>>; 2],
    pub(super) active: Option<Box<Active>>,
    /// Empty: what the next `active` keeps its replies in.
    pub(super) expected: VecDeque<Expected>,
    pub(super) stall: Stall,
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
            let extent = self.next().await?;
            if self.cluster.retired.get() && self.is_free() {
                self.give_up_server();
                self.move_to_successor()?;
            }
            let request = self.plan(extent)?;
            if request.what == What::Quit {
                return Ok(());
            }
            self.translation.begin();
            if self.answer_here(&request).await? {
                self.inbox.consume(request.bytes);
            } else {
                self.serve(request).await?;
            }
        }
    }

    /// Brings a command to a server and its reply back, as often as it takes.
    async fn serve(&mut self, mut request: Request) -> Result<(), Fault> {
        // What writes as well (GET DIAGNOSTICS into a variable) may keep its connection, for writes.
        let writes = matches!(request.class, Class::Write(_)) && self.is_on_replica();
        if writes || !self.recalls(&request) {
            self.goes_on();
            if self.is_free() {
                self.give_up_server();
            }
        }
        let need = self.need(&request);
        let mut need = self.toward_last(need, &request);
        if let Some(refused) = self.leave_replica(&need, &request).await? {
            return self.refuse(&request, &refused).await;
        }
        let reads = reads(Some(&request.class));
        let mut repeats = Repeats::default();
        loop {
            if let Some(node) = self.active.as_ref().map(|active| active.server.node) {
                if let Err(fault) = self.check_epoch() {
                    match self.recover(&request, fault).await? {
                        Recovered::Answered => return Ok(()),
                        Recovered::GoesOn => self.translation.begin(),
                    }
                    continue;
                }
                keep(self, Some(node), reads).await?;
            } else if let Err(refused) = acquire(self, &need, reads).await? {
                return self.refuse(&request, &refused).await;
            }
            let goes_on = self.has_heard();
            if let Some(refused) = self.lost_write().filter(|_| !goes_on) {
                self.settle().await;
                return self.refuse(&request, &refused).await;
            }
            let may_repeat = repeats.are_left();
            let served = self.run_on_server(&mut request, may_repeat).await;
            if matches!(served, Ok(Served::Repeat) | Err(_)) {
                repeats.failed(Instant::now(), self.opened_at());
            }
            match served {
                Ok(Served::Done) if self.was_released(&request) => return Err(Fault::Released),
                Ok(Served::Done) => {
                    self.settle().await;
                    return Ok(());
                }
                Ok(Served::Refused(_)) if goes_on => {
                    return Err(Fault::TransactionLost { hint: Failure::Differs.hint() });
                }
                Ok(Served::Refused(refused)) => {
                    self.settle().await;
                    return self.refuse(&request, &refused).await;
                }
                Ok(Served::Repeat) => {
                    self.count_retry();
                    self.cancels_arrived().await;
                    self.drop_or_give_up();
                    need = Need::Primary(RouteReason::RetriedOnPrimary);
                }
                Err(fault) if may_repeat && self.can_repeat(&fault) => {
                    self.count_retry();
                    self.drop_server(ServerClosed::Broken);
                }
                Err(fault) => match self.recover(&request, fault).await? {
                    Recovered::Answered => return Ok(()),
                    Recovered::GoesOn => {}
                },
            }
            self.translation.begin();
        }
    }

    /// When the connection that is held was opened.
    fn opened_at(&self) -> Option<Instant> {
        self.active.as_ref().map(|active| active.server.pooled.connection.life.opened_at)
    }

    pub(super) fn need(&self, request: &Request) -> Need {
        let config = &self.cluster.handle.config;
        if config.pool.mode == PoolMode::Session {
            return Need::Primary(RouteReason::SessionPin);
        }
        self.session.need(&self.class(request), request.hint.as_ref(), &config.routing)
    }

    /// Whether the session needs no particular connection for its next command.
    pub(super) fn is_free(&self) -> bool {
        let held = self.active.is_some();
        let session_mode = self.cluster.handle.config.pool.mode == PoolMode::Session;
        let bound = self.followed.in_transaction
            || self.followed.next_transaction
            || self.session.is_bound()
            || self.statements.hold();
        !(bound || held && session_mode)
    }

    pub(super) fn is_on_replica(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.server.is_primary)
    }

    /// The configuration was loaded again: the session goes on with the cluster of now.
    pub(super) fn move_to_successor(&mut self) -> Result<(), Fault> {
        let name = &self.cluster.handle.config.name;
        let clusters = self.worker.mysql_clusters.borrow();
        let Some(successor) = clusters.iter().find(|cluster| cluster.handle.config.name == *name)
        else {
            return Err(Fault::ShuttingDown);
        };
        self.cluster = successor.clone();
        self.catalog = self.cluster.handle.catalogs.get("");
        self.pools = Default::default();
        Ok(())
    }

    /// Waits for the client, holding no memory for it while it is silent, and its connection no
    /// longer than somebody may ask for the last statement's warnings.
    async fn next(&mut self) -> Result<Extent, Fault> {
        let until = Instant::now() + DIAGNOSTICS_HOLD;
        while self.active.is_some() && self.is_free() {
            let waited = timeout(DIAGNOSTICS_LOOK, poll_fn(|cx| self.poll_next(cx))).await;
            if let Ok(next) = waited {
                return next;
            }
            let wanted = |active: &Active| active.server.pool.shared.waiting() > 0;
            if Instant::now() >= until || self.active.as_deref().is_some_and(wanted) {
                self.give_up_server();
            }
        }
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Extent, Fault>> {
        let hold = self.hold_bytes();
        loop {
            if self.entry.killed.get() {
                return Poll::Ready(Err(Fault::Killed));
            }
            if !self.inbox.is_empty() {
                let extent = extent(self.inbox.filled(), hold)?;
                if extent != Extent::Partial {
                    self.stall.clear();
                    return Poll::Ready(Ok(extent));
                }
            } else if self.worker.cutting.get()
                || self.worker.sends_away(&self.cluster.handle.topology) && self.is_free()
            {
                return Poll::Ready(Err(Fault::ShuttingDown));
            }
            self.entry.remember(cx.waker());
            match self.poll_read_client(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Fault::ClientLeft)),
                Poll::Ready(Ok(_)) => self.stall.clear(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending if self.inbox.is_empty() => {
                    self.worker.keep_buffer(std::mem::take(&mut self.inbox));
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

    /// The primary is another one, and does not have what the session has written: the client is
    /// told, once, in the place of the answer to its next command.
    fn lost_write(&mut self) -> Option<Refused> {
        let handle = &self.cluster.handle;
        let snapshot = handle.topology.load();
        let primary = snapshot.node(snapshot.primary?);
        let gtids = self.session.positions.lost_on(primary, snapshot.epoch)?;
        self.worker.stats().lost_write(handle.index);
        let (cluster, node) = (&handle.config.name, &primary.name);
        let user = &self.identity.user;
        tracing::error!(%cluster, %user, %gtids, "{node} became the primary without these writes");
        let message = format!(
            "{node} is the primary now and does not have all that this session has written \
             (up to {gtids}); this statement was not run"
        );
        Some(Refused::new(errors::WRITE_LOST, message))
    }

    /// The client learns that a command was not run.
    pub(super) async fn refuse(
        &mut self,
        request: &Request,
        refused: &Refused,
    ) -> Result<(), Fault> {
        self.inbox.consume(request.bytes);
        let mut sequence = match request.upload {
            Some(upload) => self.pass_over(upload).await?,
            None => 1,
        };
        if let What::Prepare { id, .. } = request.what {
            self.statements.remove(id);
        }
        self.failed_here(request);
        self.worker.stats().error(errors::ORIGIN, &refused.code.sqlstate);
        let mut out = Vec::new();
        errors::put(&mut out, &mut sequence, refused.code, &refused.message);
        self.tell(&out).await
    }

    /// What the client is still sending is passed over, as a server does before it answers. Gives
    /// the number of the answer.
    async fn pass_over(&mut self, mut upload: Upload) -> Result<u8, Fault> {
        let limit = self.worker.limits().message_timeout;
        while !upload.is_over() {
            let taken = upload.take(self.inbox.filled_mut());
            self.inbox.consume(taken);
            if upload.is_over() {
                break;
            }
            let read = timeout(limit, poll_fn(|cx| self.poll_read_client(cx))).await;
            if read.map_err(|_| Fault::ClientStalled(limit))?? == 0 {
                return Err(Fault::ClientLeft);
            }
        }
        Ok(upload.answered_by())
    }

    /// The number of a last answer, before which a client that is sending has its say: it does not
    /// look for one earlier. Behind the part of a reply that the client has had it goes on from
    /// there. Between commands a packet begins a conversation anew.
    async fn last_number(&mut self, fault: &Fault) -> u8 {
        let waits = matches!(fault, Fault::ServerLost { .. } | Fault::PrimaryChanged { .. });
        match self.active.as_ref().and_then(|active| active.progress.uploaded) {
            Some(upload) if waits => self.pass_over(upload).await.unwrap_or(1),
            Some(upload) => upload.answered_by(),
            None => self.passed_on().map_or(u8::from(!self.inbox.is_empty()), |reply| {
                self.translation.to_client(reply.sequence()).wrapping_add(1)
            }),
        }
    }

    /// The reply to the client's command, of which the client has had all that has come.
    fn passed_on(&self) -> Option<&Reply> {
        let active = self.active.as_ref()?;
        let progress = &active.progress;
        let front = active.expected.front().filter(|front| front.whose == Whose::Client)?;
        let is_kept = progress.silent || progress.lone.is_some() || progress.intercepted;
        (progress.under_way && !is_kept).then_some(&front.reply)
    }

    /// What has come for the client and was not written yet.
    fn take_unsent(&mut self) -> Vec<u8> {
        let Some(active) = &mut self.active else { return Vec::new() };
        let mut unsent = active.local.filled().to_vec();
        unsent.extend_from_slice(&active.read.filled()[..active.forwardable]);
        active.local.consume(active.local.len());
        active.read.consume(std::mem::take(&mut active.forwardable));
        unsent
    }

    /// An OK of the proxy's own.
    pub(super) async fn tell_ok(&mut self) -> Result<(), Fault> {
        let mut flags = self.followed.flags();
        if self.followed.in_transaction && self.translation.is_read_only() {
            flags = flags.with(Status::IN_TRANS_READONLY);
        }
        let mut out = Vec::new();
        OkPacket::plain(flags).put(&mut out, &mut 1, self.capabilities);
        self.tell(&out).await
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
        if clean && self.is_free() && self.active.as_ref().is_some_and(|active| active.is_quiet()) {
            self.cancels_arrived().await;
            self.give_up_server();
        }
        self.stop_running();
        let mut sequence = self.last_number(fault).await;
        // Behind a part of a packet nothing can be said.
        let is_cut = self.passed_on().is_some_and(Reply::is_cut);
        let mut out = self.take_unsent();
        self.drop_server(if clean { ServerClosed::Abandoned } else { ServerClosed::Broken });
        if let Some(message) = fault.message() {
            let code = fault.code();
            self.worker.stats().error(errors::ORIGIN, &code.sqlstate);
            tracing::info!(user = %self.identity.user, "{fault}");
            if !is_cut {
                errors::put(&mut out, &mut sequence, code, &message);
            }
            let _ = self.tell(&out).await;
        }
        let _ = self.client.shutdown().await;
        self.worker.leave(&self.entry);
    }

    /// Whether a fault of the server can be hidden: of a read of which nothing has reached the
    /// client, or of a command that was not sent, in a session that has nothing there.
    fn can_repeat(&self, fault: &Fault) -> bool {
        let Some(active) = &self.active else { return false };
        let was_sent = active.progress.under_way;
        matches!(fault, Fault::ServerLost { .. })
            && (active.progress.repeatable || !was_sent && self.is_free())
    }

    fn count_retry(&self) {
        if let Some(active) = &self.active {
            let node = NodeIndex(active.server.node.0);
            self.worker.stats().retried(self.cluster.handle.index, node);
        }
    }
}
