//! Messages that are passed on as they come: COPY data, and whatever is longer than what is held.

use super::active::Active;
use super::conversation::Conversation;
use super::encode::large_bind;
use super::fault::Fault;
use super::send::encoder_for;
use super::statements::UNSEEN_STATEMENT;
use super::unseen::{foreign, too_large};
use crate::backend::postgres::replies::{Expected, Kind, Way};
use crate::protocol::postgres::frame::{self, FrameError, HEAD_BYTES};
use crate::protocol::postgres::request;
use crate::sql::Pin;
use std::sync::Arc;

impl Conversation {
    /// A message that is too long to be held, or COPY data: its head is looked at, the rest is
    /// passed on as it comes.
    pub(super) fn begin_streaming(&mut self, hold: usize) -> Result<bool, Fault> {
        let bytes = &self.inbox.filled()[self.taken..];
        let Some(head) = frame::head(bytes)? else { return Ok(false) };
        if head.tag != b'd' && (head.bytes <= hold || bytes.len() < hold) {
            return Ok(false);
        }
        let Some(mut active) = self.active.take() else { return Ok(false) };
        if let Some(record) = &mut active.progress.record {
            record.journal.spoil("it copies data in, or has a request that is too long to be kept");
        }
        let begun = self.long_message(head, &mut active, hold);
        self.active = Some(active);
        let seen = begun?;
        self.streaming = head.bytes - seen;
        self.inbox.consume(self.taken + seen);
        self.taken = 0;
        self.stream();
        Ok(true)
    }

    /// Sends what must be known of a long message; gives how many of its bytes that took.
    fn long_message(
        &mut self,
        head: frame::Head,
        active: &mut Active,
        hold: usize,
    ) -> Result<usize, FrameError> {
        let bytes = &self.inbox.filled()[self.taken..];
        let statements = &mut self.statements;
        let unseen = |statement| Some(Arc::new(statement));
        match head.tag {
            b'd' => return Ok(0),
            b'B' => {
                let part = &bytes[HEAD_BYTES..hold];
                let bound = request::bind_head(part)?;
                let missing = head.bytes - hold;
                statements.bind(bound.0, None, 0);
                let statements = &self.statements;
                if let Some((mut encoder, _)) =
                    encoder_for(active, statements, &self.session.startup, self.encoding())
                {
                    large_bind(&mut encoder, statements, bound, missing);
                }
                active.progress.writing = true;
                active.progress.wrote = true;
                active.progress.segment_open = true;
                return Ok(hold);
            }
            b'Q' => {
                let statement = unseen(too_large());
                active
                    .replies
                    .push(Expected { statement, ..Expected::new(Kind::Query, Way::Forward) });
                self.session.pins.insert(Pin::Unknown);
            }
            b'P' => {
                // Not kept for other connections: the session stays on this one.
                active.replies.push(Expected::new(Kind::Parse, Way::Forward));
                self.session.pins.insert(Pin::Unknown);
                if bytes.get(HEAD_BYTES) == Some(&0) {
                    statements.replace_unnamed(UNSEEN_STATEMENT);
                    statements.bind(b"", Some(&Arc::new(foreign())), 0);
                }
            }
            b'F' => active.replies.push(Expected::new(Kind::Function, Way::Forward)),
            _ => return Err(FrameError::Length),
        }
        if let Some(connection) = active.connection() {
            connection.unnamed = None;
        }
        active.progress.writing = true;
        active.progress.wrote = true;
        active.progress.segment_open = head.tag == b'P';
        Ok(0)
    }

    /// Passes on what has come of a long message.
    pub(super) fn stream(&mut self) -> bool {
        let Some(active) = &mut self.active else { return false };
        let count = self.streaming.min(self.inbox.len());
        active.outbox.extend(&self.inbox.filled()[..count]);
        self.inbox.consume(count);
        self.streaming -= count;
        count > 0
    }
}
