//! How what a server has sent gets to the client: past the scan, or through `local` where something
//! stands in between.

use super::expected::{Expected, Kind, Way};
use super::replies::Replies;
use super::watch::Watch;
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::frame;

impl Replies {
    /// Rows for the client that are complete in the buffer, and of a simple query their description
    /// and their end: most of what a server sends, and nothing in them is of interest.
    pub(super) fn pass_rows(&mut self, read: &Buffer, watch: &mut impl Watch) {
        let Some(Expected { way: Way::Forward, kind, .. }) = self.queue.front() else { return };
        let is_query = match kind {
            // Of COPY its end is.
            Kind::Query => !self.is_copy_in(),
            Kind::Execute => false,
            _ => return,
        };
        if self.heard > 0 {
            return;
        }
        let passes = |tag| match tag {
            b'D' | b'd' => true,
            b'T' | b'C' | b'I' => is_query,
            _ => false,
        };
        let unscanned = &read.filled()[self.forwardable..];
        let mut rest = unscanned;
        while let Ok(Some(head)) = frame::head(rest)
            && passes(head.tag)
            && let Some(behind) = rest.get(head.bytes..)
        {
            rest = behind;
        }
        let passed = unscanned.len() - rest.len();
        watch.told(&unscanned[..passed]);
        self.forwardable += passed;
    }

    /// Moves `count` bytes of the current message, behind the forwardable ones, to where they
    /// belong.
    pub(super) fn deliver(
        &mut self,
        count: usize,
        read: &mut Buffer,
        local: &mut Buffer,
        watch: &mut impl Watch,
    ) {
        if self.passing_swallowed {
            self.swallow(count, read, local);
            return;
        }
        let mut heard = 0;
        if self.passing_answer {
            watch.told(&read.filled()[self.forwardable..][..count]);
            heard = self.hear(count);
        }
        if heard > 0 {
            self.swallow(heard, read, local);
        }
        self.forwardable += count - heard;
    }

    /// What stands for a message of the server's.
    pub(super) fn tell(&mut self, bytes: &[u8], local: &mut Buffer, watch: &mut impl Watch) {
        watch.told(bytes);
        let heard = self.hear(bytes.len());
        local.extend(&bytes[heard..]);
    }

    /// How many of the answer's next `count` bytes the client has had before.
    fn hear(&mut self, count: usize) -> usize {
        let heard = usize::try_from(self.heard).unwrap_or(usize::MAX).min(count);
        self.heard -= heard as u64;
        heard
    }

    fn swallow(&mut self, count: usize, read: &mut Buffer, local: &mut Buffer) {
        self.settle(read, local);
        read.consume(count);
    }

    /// Copies what is forwardable so far to `local`, because something else comes after it.
    pub(super) fn settle(&mut self, read: &mut Buffer, local: &mut Buffer) {
        if self.forwardable > 0 {
            local.extend(&read.filled()[..self.forwardable]);
            read.consume(self.forwardable);
            self.forwardable = 0;
        }
    }

    /// Answers whatever is at the front of the queue and was never sent.
    pub(super) fn simulate(
        &mut self,
        read: &mut Buffer,
        local: &mut Buffer,
        watch: &mut impl Watch,
    ) {
        while self.passing == 0 {
            match self.queue.front() {
                // After an error the server skips to Sync, and so does what stands for it: all of
                // that is taken back together, the newest first.
                Some(Expected { way: Way::Simulate(_), .. }) if self.failed => return,
                Some(Expected { way: Way::Simulate(bytes), change, .. }) => {
                    let (bytes, change): (&'static [u8], u64) = (bytes, *change);
                    self.settle(read, local);
                    self.tell(bytes, local, watch);
                    watch.changed(change);
                }
                Some(Expected { kind: Kind::CopyEnd, .. }) => {}
                _ => return,
            }
            self.queue.pop_front();
        }
    }
}
