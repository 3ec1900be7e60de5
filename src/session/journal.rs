//! What is kept of an open transaction, so that it can run again on another server: its requests,
//! and a checksum of what each of them was answered.
//!
//! Pure, and the same for every protocol: a request is whatever the frontend can send again, an
//! answer the bytes that its client gets. If all of them are the same as before, the transaction
//! has seen nothing that has changed, and goes on; otherwise it has failed.
//!
//! ```text
//! steps:   [request] [request request] [request]
//! answers:    sum           sum         so far: n bytes and their sum
//! ```
//!
//! Requests that are sent before the last one is answered are one step with it.

use aws_lc_rs::digest::{Context, SHA256};

/// Of a SHA-256 checksum: that two different answers have the same one is as good as impossible.
const SUM_BYTES: usize = 16;

/// The checksum of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum([u8; SUM_BYTES]);

/// How much is kept of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub statements_max: usize,
    pub bytes_max: usize,
}

/// How large a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub statements: usize,
    pub bytes: usize,
}

/// Requests that are answered together.
#[derive(Debug)]
pub struct Step<P> {
    pub parts: Vec<P>,
    /// Of the whole answer; `None`: it has not come.
    pub sum: Option<Sum>,
}

/// What a client has had of an answer whose end has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub bytes: u64,
    sum: Sum,
    /// It ends inside of a message.
    pub is_cut: bool,
}

/// The requests of one transaction.
#[derive(Debug)]
pub struct Journal<P> {
    steps: Vec<Step<P>>,
    statements: usize,
    bytes: usize,
    answer: Answer,
    /// The answer that comes must begin with this.
    heard: Option<Heard>,
    differs: bool,
    /// Why it cannot run again.
    spoilt: Option<&'static str>,
}

/// The answer that comes.
struct Answer {
    context: Context,
    bytes: u64,
}

impl Default for Answer {
    fn default() -> Answer {
        Answer { context: Context::new(&SHA256), bytes: 0 }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Answer {
    fn add(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn sum(&self) -> Sum {
        let mut sum = [0; SUM_BYTES];
        sum.copy_from_slice(&self.context.clone().finish().as_ref()[..SUM_BYTES]);
        Sum(sum)
    }
}

impl<P> Default for Journal<P> {
    fn default() -> Journal<P> {
        Journal {
            steps: Vec::new(),
            statements: 0,
            bytes: 0,
            answer: Answer::default(),
            heard: None,
            differs: false,
            spoilt: None,
        }
    }
}

impl<P> Journal<P> {
    /// Keeps a request that is about to be sent. `joins`: the one before is not answered yet.
    pub fn push(&mut self, part: P, size: Size, joins: bool, limits: Limits) {
        if self.spoilt.is_some() {
            return;
        }
        self.statements += size.statements;
        self.bytes += size.bytes;
        if self.statements > limits.statements_max {
            return self.spoil("it has more statements than failover.replay_statements_max");
        }
        if self.bytes > limits.bytes_max {
            return self.spoil("its requests are longer than failover.replay_bytes_max");
        }
        match self.steps.last_mut().filter(|_| joins) {
            Some(step) => step.parts.push(part),
            None => {
                self.finish();
                self.steps.push(Step { parts: vec![part], sum: None });
            }
        }
    }

    /// It cannot run again; what was kept of it is forgotten.
    pub fn spoil(&mut self, why: &'static str) {
        self.spoilt.get_or_insert(why);
        self.steps = Vec::new();
    }

    pub fn spoilt(&self) -> Option<&'static str> {
        self.spoilt
    }

    /// The client gets these bytes next.
    pub fn told(&mut self, bytes: &[u8]) {
        if self.spoilt.is_some() {
            return;
        }
        let mut rest = bytes;
        if let Some(heard) = self.heard
            && let Some(left) = heard.bytes.checked_sub(self.answer.bytes)
            && left > 0
        {
            let left = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let before;
            (before, rest) = bytes.split_at(left);
            self.answer.add(before);
            if self.answer.bytes == heard.bytes {
                self.differs |= self.answer.sum() != heard.sum;
            }
        }
        self.answer.add(rest);
    }

    /// The answer of the last step is whole.
    fn finish(&mut self) {
        let answer = std::mem::take(&mut self.answer);
        self.heard = None;
        if let Some(step) = self.steps.last_mut()
            && step.sum.is_none()
        {
            step.sum = Some(answer.sum());
        }
    }

    /// The server is lost: what the client has had of an answer that is not whole. `is_whole`:
    /// nothing was under way. `is_cut`: the client was left inside of a message.
    pub fn interrupted(&mut self, is_whole: bool, is_cut: bool) -> Option<Heard> {
        if is_whole {
            self.finish();
            return None;
        }
        let answer = std::mem::take(&mut self.answer);
        let differs = std::mem::take(&mut self.differs);
        let before = self.heard.take().filter(|heard| differs || heard.bytes > answer.bytes);
        before.or_else(|| Some(Heard { bytes: answer.bytes, sum: answer.sum(), is_cut }))
    }

    /// It runs again from its first step on; on the server before it may not have come to its end.
    pub fn begin_again(&mut self) {
        self.answer = Answer::default();
        self.differs = false;
        self.heard = None;
    }

    /// An answer has come again: whether it is the one of this step.
    pub fn is_as_before(&mut self, step: usize) -> bool {
        let answer = std::mem::take(&mut self.answer);
        self.steps.get(step).is_some_and(|step| step.sum == Some(answer.sum()))
    }

    /// The last step is sent again, of whose answer the client has had this.
    pub fn resume(&mut self, heard: Heard) {
        self.answer = Answer::default();
        self.differs = false;
        self.heard = Some(heard);
    }

    /// Whether the answer that comes has turned out to be another one. `is_whole`: it has ended.
    pub fn differs(&self, is_whole: bool) -> bool {
        let is_short = || self.heard.is_some_and(|heard| self.answer.bytes < heard.bytes);
        self.differs || (is_whole && is_short())
    }

    pub fn steps(&self) -> &[Step<P>] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { statements_max: 3, bytes_max: 10 };

    fn size(bytes: usize) -> Size {
        Size { statements: 1, bytes }
    }

    /// Two requests, the first answered with `1`, the second so far with `23`.
    fn journal() -> Journal<&'static str> {
        let mut journal = Journal::default();
        journal.push("a", size(1), false, LIMITS);
        journal.told(b"1");
        journal.push("b", size(1), false, LIMITS);
        journal.push("c", size(1), true, LIMITS);
        journal.told(b"2");
        journal.told(b"3");
        journal
    }

    #[test]
    fn requests_that_overlap_are_answered_together() {
        let mut journal = journal();
        let parts: Vec<_> = journal.steps().iter().map(|step| step.parts.clone()).collect();
        assert_eq!(parts, [vec!["a"], vec!["b", "c"]]);
        assert!(journal.interrupted(true, false).is_none());
        assert!(journal.steps().iter().all(|step| step.sum.is_some()));
    }

    #[test]
    fn answers_are_compared_whatever_their_pieces() {
        let table: &[(&[&[u8]], bool)] =
            &[(&[b"2", b"3"], true), (&[b"23"], true), (&[b"24"], false), (&[b"234"], false)];
        for (pieces, same) in table {
            let mut journal = journal();
            journal.interrupted(true, false);
            pieces.iter().for_each(|piece| journal.told(piece));
            assert_eq!(journal.is_as_before(1), *same, "{pieces:?}");
            journal.told(b"1");
            assert!(journal.is_as_before(0), "each answer is compared for itself");
        }
    }

    #[test]
    fn the_rest_of_an_answer_must_continue_what_was_heard() {
        // Pieces, whether the answer has ended, whether it is another one.
        let table: &[(&[&[u8]], bool, bool)] = &[
            (&[b"2"], false, false),
            (&[b"2"], true, true),
            (&[b"234"], true, false),
            (&[b"2", b"34"], true, false),
            (&[b"2", b"4"], false, true),
            (&[b"324"], false, true),
            (&[], true, true),
        ];
        for (pieces, ended, differs) in table {
            let mut journal = journal();
            let heard = journal.interrupted(false, false).unwrap();
            assert_eq!(heard.bytes, 2);
            journal.resume(heard);
            pieces.iter().for_each(|piece| journal.told(piece));
            assert_eq!(journal.differs(*ended), *differs, "{pieces:?}");
        }
    }

    #[test]
    fn what_was_heard_is_not_forgotten_when_the_next_server_is_lost_as_well() {
        let mut journal = journal();
        let first = journal.interrupted(false, true).unwrap();
        journal.resume(first);
        journal.told(b"2");
        assert_eq!(journal.interrupted(false, false), Some(first));
        journal.resume(first);
        journal.told(b"234");
        let second = journal.interrupted(false, false).unwrap();
        assert!(second.bytes == 3 && !second.is_cut);
        journal.resume(second);
        journal.told(b"2345");
        journal.push("d", Size { statements: 0, bytes: 0 }, false, LIMITS);
        assert!(journal.steps()[1].sum.is_some() && !journal.differs(true));
    }

    #[test]
    fn what_a_lost_server_has_answered_does_not_count_on_the_next() {
        let mut journal = journal();
        journal.interrupted(true, false);
        journal.told(b"1");
        assert!(journal.is_as_before(0));
        journal.told(b"2");
        journal.begin_again();
        journal.told(b"1");
        assert!(journal.is_as_before(0));
        journal.told(b"23");
        assert!(journal.is_as_before(1));
    }

    #[test]
    fn what_is_too_much_is_not_kept() {
        let table: &[(&[usize], bool)] =
            &[(&[5, 5], false), (&[5, 6], true), (&[1, 1, 1, 1], true), (&[11], true)];
        for (sizes, spoilt) in table {
            let mut journal = Journal::default();
            sizes.iter().for_each(|bytes| journal.push((), size(*bytes), false, LIMITS));
            assert_eq!(journal.spoilt().is_some(), *spoilt, "{sizes:?}");
            assert_eq!(journal.steps().is_empty(), *spoilt, "{sizes:?}");
        }
    }
}
