//! The replies that a server connection still owes, and the scan that matches them.
//!
//! Every message that is sent to a server and has a reply stands in the queue, in order. Its
//! reply is forwarded, or swallowed because the proxy itself asked, or it is simulated because
//! nothing was sent for it:
//!
//! ```text
//! client:  Parse s1   Bind s1   Execute   Sync
//! queue:   simulate   forward   forward   forward      (s1 is already prepared there)
//! server:             2         D D C     Z
//! client:  1          2         D D C     Z
//! ```
//!
//! The scan looks at frame heads in the read buffer and leaves rows alone: what is forwarded is
//! written to the client from that same buffer. No socket and no clock in here.

pub use super::expected::{Expected, Kind, Limit, ShapeOf, Way};
pub use super::watch::{NotPrepared, OnError, Ready, Watch};
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::error::ErrorFields;
use crate::protocol::postgres::frame::{self, FrameError, HEAD_BYTES};
use crate::protocol::postgres::reply;
use std::collections::VecDeque;

/// Messages that are looked into (errors, parameters, tags) are complete in the buffer up to this
/// many bytes; the rest of a longer one is passed on unseen. An error's fields stand at its front.
const INSPECT_BYTES_MAX: usize = 64 * 1024;

/// What stopped a scan early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// As far as the bytes go.
    Done,
    /// An error was intercepted: everything that follows is swallowed until the queue is empty.
    Intercepted,
}

#[derive(Debug, Default)]
pub struct Replies {
    pub(super) queue: VecDeque<Expected>,
    /// Bytes of the current message still to come.
    pub(super) passing: usize,
    pub(super) passing_swallowed: bool,
    /// Whether the current message is a part of the answer, which is the same wherever it is asked.
    pub(super) passing_answer: bool,
    /// Bytes of answers that the client has had from another server: it does not get them again.
    pub heard: u64,
    /// The server is in COPY FROM STDIN and ignores Sync.
    copy_in: bool,
    pub(super) failed: bool,
    /// After an error in the extended protocol the server ignores everything up to a Sync, simple
    /// queries too.
    pub(super) skipping: bool,
    /// A question of the proxy's own is among what is owed.
    asking: bool,
    /// Written to the client in place of the message that was just matched.
    instead: Option<Box<[u8]>>,
    /// How the query [`Way::Inside`] has ended.
    pub(super) kept: Option<Box<[u8]>>,
    /// How many of the queue's entries end in a ReadyForQuery.
    ready_due: usize,
    /// How many of them prepare a statement.
    pub(super) parses_due: usize,
    /// Bytes at the front of the read buffer that may be written to the client.
    pub(super) forwardable: usize,
}

impl Replies {
    pub fn push(&mut self, expected: Expected) {
        if self.copy_in {
            match expected.kind {
                // Ignored by the server (manual, section 55.2.7).
                Kind::Sync => return,
                Kind::CopyEnd => {
                    self.copy_in = false;
                    return;
                }
                _ => {}
            }
        } else if expected.kind == Kind::CopyEnd
            && self.queue.back().is_some_and(|last| last.kind == Kind::CopyEnd)
        {
            // The second one ends nothing.
            return;
        }
        if matches!(expected.kind, Kind::Query | Kind::Sync | Kind::Function) {
            self.ready_due += 1;
        }
        self.parses_due += usize::from(expected.prepared.is_some());
        self.asking |= expected.way == Way::Ask;
        self.queue.push_back(expected);
    }

    /// How many messages have not been answered.
    pub fn owed(&self) -> usize {
        self.queue.len()
    }

    /// What was pushed last is a description whose columns are to be told.
    pub fn tell_shape(&mut self, shape: Option<ShapeOf>) {
        if let Some(last) = self.queue.back_mut() {
            last.shape = shape;
        }
    }

    /// Whether nothing is owed: every reply has been matched to its last byte.
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.passing == 0 && !self.copy_in
    }

    pub fn is_copy_in(&self) -> bool {
        self.copy_in
    }

    /// Whether the server ignores what comes until a Sync that has not been sent.
    pub fn is_skipping(&self) -> bool {
        self.skipping && self.ready_due == 0
    }

    /// Whether requests of the client's own have not been answered by their ReadyForQuery.
    pub fn is_client_due(&self) -> bool {
        self.client_due().next().is_some()
    }

    /// Those requests.
    pub fn client_due(&self) -> impl Iterator<Item = &Expected> {
        let ends = |kind| matches!(kind, Kind::Query | Kind::Sync | Kind::Function);
        self.queue.iter().filter(move |expected| ends(expected.kind) && !expected.way.is_own())
    }

    /// Whether the client has got the first part of a message.
    pub fn is_cut(&self) -> bool {
        self.passing > 0 && !self.passing_swallowed
    }

    /// Whether that message is no part of an answer.
    pub fn is_cut_outside(&self) -> bool {
        self.is_cut() && !self.passing_answer
    }

    /// Whether the server ignores what has been sent, up to a Sync.
    pub fn has_failed(&self) -> bool {
        self.skipping
    }

    /// Requests that have not been answered by their ReadyForQuery.
    pub fn ready_due(&self) -> usize {
        self.ready_due
    }

    /// Bytes at the front of the read buffer to write to the client, when `local` is empty.
    pub fn forwardable(&self) -> usize {
        self.forwardable
    }

    pub fn forwarded(&mut self, bytes: usize) {
        self.forwardable -= bytes.min(self.forwardable);
    }

    pub fn clear(&mut self) {
        let Replies { queue, instead, passing, ready_due, parses_due, forwardable, .. } = self;
        queue.clear();
        *instead = None;
        self.kept = None;
        (*passing, *ready_due, *parses_due, *forwardable) = (0, 0, 0, 0);
        let Replies { passing_swallowed, asking, copy_in, failed, .. } = self;
        (*passing_swallowed, *asking, *copy_in, *failed) = (false, false, false, false);
        (self.skipping, self.passing_answer, self.heard) = (false, false, 0);
    }

    /// Matches what has been read. Afterwards the client gets all of `local`, then the first
    /// [`Replies::forwardable`] bytes of `read`; one of the two is empty.
    pub fn scan(
        &mut self,
        read: &mut Buffer,
        local: &mut Buffer,
        watch: &mut impl Watch,
    ) -> Result<Scan, FrameError> {
        let mut outcome = Scan::Done;
        if self.is_skipping() {
            self.skip(NotPrepared::Skipped, watch);
        }
        loop {
            self.simulate(read, local, watch);
            if self.passing > 0 {
                let count = self.passing.min(read.len() - self.forwardable);
                if count == 0 {
                    break;
                }
                self.deliver(count, read, local, watch);
                self.passing -= count;
                continue;
            }
            self.pass_rows(read, watch);
            let unscanned = &read.filled()[self.forwardable..];
            let Some(head) = frame::head(unscanned)? else { break };
            let looks = self.asking || head.tag == b'T' && self.is_shape_wanted();
            if unscanned.len() < bytes_needed(head, looks) {
                break;
            }
            let message = &unscanned[..head.bytes.min(unscanned.len())];
            let fate = self.matched(message, head.tag, watch)?;
            let count = message.len();
            self.passing = head.bytes - count;
            self.passing_answer = is_answer(head.tag);
            self.passing_swallowed =
                fate != Fate::Forward || (self.heard > 0 && !self.passing_answer);
            if head.tag == b'Z' && fate == Fate::Forward {
                let mut told = self.kept.take().map_or_else(Vec::new, Vec::from);
                watch.before_ready(&mut told);
                if !told.is_empty() {
                    self.settle(read, local);
                    local.extend(&told);
                }
            }
            self.deliver(count, read, local, watch);
            if let Some(message) = self.instead.take() {
                self.tell(&message, local, watch);
            }
            if head.tag == b'Z' && self.passing_swallowed && !self.is_own_next() {
                watch.own_answered(local);
            }
            if fate == Fate::Intercept {
                self.swallow_all();
                outcome = Scan::Intercepted;
            }
        }
        if !local.is_empty() {
            local.extend(&read.filled()[..self.forwardable]);
            read.consume(self.forwardable);
            self.forwardable = 0;
        }
        Ok(outcome)
    }

    /// Everything that is still owed is the proxy's own business from now on.
    pub fn swallow_all(&mut self) {
        self.queue.retain(|expected| !matches!(expected.way, Way::Simulate(_)));
        for expected in &mut self.queue {
            expected.way = Way::Swallow;
        }
    }

    fn matched(
        &mut self,
        message: &[u8],
        tag: u8,
        watch: &mut impl Watch,
    ) -> Result<Fate, FrameError> {
        let front = self.queue.front().map(|expected| (expected.kind, expected.way));
        let swallowed = self.is_answered_own();
        if let Some((_, way)) = front
            && tag == b'C'
            && way.hides_end()
        {
            if way == Way::Inside {
                self.kept = Some(message.into());
            }
            return Ok(Fate::Swallow);
        }
        match (tag, front) {
            (b'S', _) => {
                let (name, value) = reply::parameter_status(message)?;
                let runs = self.queue.front().and_then(|front| front.statement.as_deref());
                return Ok(Fate::forward_if(watch.parameter(name, value, (swallowed, runs))));
            }
            (b'A', _) => return Ok(self.notification(message, watch)),
            (b'N', _) => {}
            (b'D', Some((_, Way::Ask))) => watch.row(message),
            (b'E', _) => return Ok(self.error(message, front, watch)),
            (b'Z', _) => return Ok(Fate::forward_if(!self.ready(message, watch)?)),
            (b'1', Some((Kind::Parse, _)))
            | (b'2', Some((Kind::Bind, _)))
            | (b'3', Some((Kind::Close, _)))
            | (b'T' | b'n', Some((Kind::Describe, _))) => {
                if let Some(done) = self.queue.pop_front() {
                    self.parses_due -= usize::from(done.prepared.is_some());
                    watch.changed(done.change);
                    if let Some(of) = done.shape {
                        let message = if tag == b'T' { message } else { reply::NO_DATA };
                        watch.described(of, reply::shape(message));
                    }
                }
            }
            (b'C' | b's' | b'I', Some((Kind::Execute, _))) => self.executed(watch),
            (b'G', Some((kind, _))) => self.copy_begins(kind),
            (b'C', Some((Kind::Query, _))) => self.copy_in = false,
            (_, Some((Kind::Query | Kind::Execute | Kind::Function | Kind::Describe, _))) => {}
            _ => return Err(FrameError::Tag(tag)),
        }
        Ok(Fate::forward_if(!swallowed))
    }

    fn notification(&mut self, message: &[u8], watch: &mut impl Watch) -> Fate {
        let Some((head, rest)) = message.split_at_checked(HEAD_BYTES) else { return Fate::Forward };
        let Some((sender, rest)) = rest.split_first_chunk::<4>() else { return Fate::Forward };
        let sender = i32::from_be_bytes(*sender);
        let front = self.queue.front().and_then(|front| front.statement.as_ref());
        match watch.notification(sender, front) {
            None => Fate::Swallow,
            Some(shown) if shown == sender => Fate::Forward,
            Some(shown) => {
                self.instead = Some([head, &shown.to_be_bytes(), rest].concat().into());
                Fate::Swallow
            }
        }
    }

    fn executed(&mut self, watch: &mut impl Watch) {
        let Some(Expected { way, statement, .. }) = self.queue.pop_front() else { return };
        self.asking &= way != Way::Ask;
        if let Some(statement) = statement {
            watch.executed(statement);
        }
    }

    /// From CopyInResponse until CopyDone or CopyFail the server ignores Sync; those that were
    /// sent ahead of the data get no reply.
    fn copy_begins(&mut self, kind: Kind) {
        if kind == Kind::Query {
            self.copy_in = !self.queue.iter().any(|expected| expected.kind == Kind::CopyEnd);
            return;
        }
        let mut ended = false;
        let mut ignored = 0;
        self.queue.retain(|expected| match expected.kind {
            Kind::Sync if !ended => {
                ignored += 1;
                false
            }
            Kind::CopyEnd if !ended => {
                ended = true;
                false
            }
            _ => true,
        });
        self.ready_due -= ignored;
        self.copy_in = !ended;
    }

    fn error(
        &mut self,
        message: &[u8],
        front: Option<(Kind, Way)>,
        watch: &mut impl Watch,
    ) -> Fate {
        self.failed = true;
        self.copy_in = false;
        let fields = ErrorFields::of_message(message);
        // A fatal one ends the connection: what is owed stays owed.
        let ends = fields.is_fatal();
        if !ends {
            self.kept = None;
        }
        let fate = match watch.error(&fields, front) {
            OnError::Intercept => Fate::Intercept,
            OnError::Forward => {
                let named = self.queue.front().map_or(0, |front| front.named);
                self.instead = (named > 0).then(|| watch.renamed(message, named)).flatten();
                Fate::forward_if(self.instead.is_none())
            }
            OnError::Swallow => Fate::Swallow,
            OnError::Instead(message) => {
                self.instead = Some(message);
                Fate::Swallow
            }
        };
        // The extended protocol skips to the next Sync; a simple query ends by its own
        // ReadyForQuery.
        if !ends && !matches!(front, Some((Kind::Query | Kind::Function, _))) {
            self.skipping = true;
            self.skip(NotPrepared::Failed, watch);
        }
        fate
    }

    /// Takes off what the server ignores: everything before the next Sync. `first` tells what has
    /// become of the first of them.
    fn skip(&mut self, first: NotPrepared, watch: &mut impl Watch) {
        let mut why = first;
        let mut changes = 0..=0;
        while let Some(front) = self.queue.front() {
            if front.kind == Kind::Sync {
                break;
            }
            if front.change > 0 {
                let begin = if *changes.start() > 0 { *changes.start() } else { front.change };
                changes = begin..=front.change;
            }
            if let Some(id) = front.prepared {
                self.parses_due -= 1;
                let own = front.way == Way::Swallow;
                watch.not_prepared(id, if own { NotPrepared::Own } else { why });
            }
            if matches!(front.kind, Kind::Query | Kind::Function) {
                self.ready_due -= 1;
            }
            why = NotPrepared::Skipped;
            self.queue.pop_front();
        }
        undo(*changes.start(), *changes.end(), watch);
    }

    fn is_shape_wanted(&self) -> bool {
        self.queue.front().is_some_and(|expected| expected.shape.is_some())
    }

    /// Whether the proxy's own comes next.
    fn is_own_next(&self) -> bool {
        self.queue.front().is_some_and(|expected| expected.way == Way::Swallow)
    }

    /// Matches a ReadyForQuery; whether it is kept from the client.
    fn ready(&mut self, message: &[u8], watch: &mut impl Watch) -> Result<bool, FrameError> {
        let status = reply::ready_status(message)?;
        // What stands before the Sync was answered by an error or is answered now.
        if self.skipping {
            self.skip(NotPrepared::Skipped, watch);
        }
        let expected = loop {
            match self.queue.pop_front() {
                Some(front) if matches!(front.kind, Kind::Sync | Kind::Query | Kind::Function) => {
                    break front;
                }
                Some(front) if front.kind == Kind::CopyEnd => {}
                _ => return Err(FrameError::Tag(b'Z')),
            }
        };
        self.ready_due -= 1;
        self.asking &= expected.way != Way::Ask;
        let swallowed = expected.way.is_own() || expected.way == Way::Inside;
        watch.ready(Ready {
            status,
            swallowed,
            due: self.ready_due,
            failed: self.failed,
            statement: expected.statement,
        });
        let hidden = swallowed || expected.way == Way::Ahead;
        self.failed = false;
        self.skipping = false;
        self.copy_in = false;
        Ok(hidden)
    }
}

/// Whether a message is a part of the answer: not what a server tells at any time.
fn is_answer(tag: u8) -> bool {
    !matches!(tag, b'S' | b'A' | b'N')
}

fn undo(first: u64, last: u64, watch: &mut impl Watch) {
    if last > 0 {
        watch.not_changed(first..=last);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Forward,
    Swallow,
    Intercept,
}

impl Fate {
    fn forward_if(forward: bool) -> Fate {
        if forward { Fate::Forward } else { Fate::Swallow }
    }
}

/// How much of a message must be there before it can be matched.
fn bytes_needed(head: frame::Head, looks: bool) -> usize {
    match head.tag {
        b'D' | b'T' | b'C' if looks => head.bytes.min(INSPECT_BYTES_MAX),
        b'S' | b'E' | b'Z' | b'A' => head.bytes.min(INSPECT_BYTES_MAX),
        _ => HEAD_BYTES,
    }
}

#[cfg(test)]
#[path = "replies_tests.rs"]
mod tests;
