//! The matching of replies, fed with any bytes: for the fuzzer and its driver.

use super::replies::{Expected, Kind, NotPrepared, OnError, Ready, Replies, ShapeOf, Watch, Way};
use crate::protocol::buffer::Buffer;
use crate::protocol::postgres::error::{ErrorFields, with_other_name};
use crate::protocol::postgres::reply::PARSE_COMPLETE;
use crate::sql::Statement;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The first byte is how many requests are outstanding (up to 15), the bytes after it which ones;
/// the rest is what the server says. What the client gets, and what the proxy learns, must not
/// depend on the pieces in which it arrives.
pub fn fuzz_replies(bytes: &[u8]) {
    let Some((&count, rest)) = bytes.split_first() else { return };
    let (requests, said) = rest.split_at(usize::from(count & 15).min(rest.len()));
    let whole = run(requests, said, said.len().max(1));
    for step in [1, 3, 7, 64] {
        assert_eq!(run(requests, said, step), whole, "in pieces of {step}");
    }
}

/// What the client got, of that the answers, what else the proxy was told, and whether the bytes
/// were refused.
type Outcome = (Vec<u8>, Vec<u8>, Vec<String>, bool);

fn run(requests: &[u8], said: &[u8], step: usize) -> Outcome {
    let mut replies = Replies::default();
    let intercepts = requests.first() == Some(&0xFF);
    let mut notes = Notes { lines: Vec::new(), intercepts, told: Vec::new() };
    for (request, number) in requests.iter().zip(1..) {
        let of_statement = matches!(request & 15, 1 | 2 | 5);
        let change = if of_statement { number } else { 0 };
        let shape = Some(ShapeOf { named: change, plans: 0, compares: false });
        replies.push(Expected { change, named: change, shape, ..expected(*request) });
    }
    let (mut read, mut local, mut client) = (Buffer::default(), Buffer::default(), Vec::new());
    for piece in said.chunks(step) {
        read.extend(piece);
        let scanned = replies.scan(&mut read, &mut local, &mut notes);
        client.extend_from_slice(local.filled());
        local.clear();
        let count = replies.forwardable();
        client.extend_from_slice(&read.filled()[..count]);
        read.consume(count);
        replies.forwarded(count);
        if scanned.is_err() {
            return (client, notes.told, notes.lines, true);
        }
    }
    (client, notes.told, notes.lines, false)
}

fn expected(request: u8) -> Expected {
    const KINDS: [Kind; 9] = [
        Kind::Query,
        Kind::Parse,
        Kind::Bind,
        Kind::Describe,
        Kind::Execute,
        Kind::Close,
        Kind::Function,
        Kind::Sync,
        Kind::CopyEnd,
    ];
    let kind = KINDS[usize::from(request & 15) % KINDS.len()];
    let way = match request >> 6 {
        0 | 1 => Way::Forward,
        2 => Way::Swallow,
        // Only what is not sent is simulated, and a ReadyForQuery never is.
        _ if kind == Kind::Parse => Way::Simulate(PARSE_COMPLETE),
        _ => Way::Swallow,
    };
    Expected {
        prepared: (kind == Kind::Parse).then_some(u64::from(request)),
        ..Expected::new(kind, way)
    }
}

/// Writes down what it is told.
struct Notes {
    lines: Vec<String>,
    intercepts: bool,
    told: Vec<u8>,
}

impl Watch for Notes {
    fn parameter(
        &mut self,
        name: &[u8],
        value: &[u8],
        (own, _): (bool, Option<&Statement>),
    ) -> bool {
        self.lines.push(format!("{name:?}={value:?} {own}"));
        name.len().is_multiple_of(2)
    }

    fn error(&mut self, fields: &ErrorFields<'_>, front: Option<(Kind, Way)>) -> OnError {
        self.lines.push(format!("error {:?} {front:?}", fields.sqlstate));
        match front {
            Some((_, Way::Swallow)) => OnError::Swallow,
            _ if self.intercepts => OnError::Intercept,
            _ => OnError::Forward,
        }
    }

    fn before_ready(&mut self, _: &mut Vec<u8>) {}

    fn executed(&mut self, _: Arc<Statement>) {
        self.lines.push("executed".to_owned());
    }

    fn ready(&mut self, ready: Ready) {
        let Ready { status, swallowed, failed, .. } = ready;
        self.lines.push(format!("ready {status:?} {swallowed} {failed}"));
    }

    fn renamed(&mut self, error: &[u8], named: u64) -> Option<Box<[u8]>> {
        with_other_name(error, b"C", b"other").filter(|_| named > 1).map(Vec::into_boxed_slice)
    }

    fn own_answered(&mut self, out: &mut Buffer) {
        self.lines.push("own answered".to_owned());
        out.extend(b"S\0\0\0\x08a\0b\0");
    }

    fn changed(&mut self, change: u64) {
        self.lines.push(format!("changed {change}"));
    }

    fn not_changed(&mut self, changes: RangeInclusive<u64>) {
        self.lines.push(format!("not changed {changes:?}"));
    }

    fn not_prepared(&mut self, id: u64, why: NotPrepared) {
        self.lines.push(format!("not prepared {id} {why:?}"));
    }

    fn notification(&mut self, sender: i32, _: Option<&Arc<Statement>>) -> Option<i32> {
        self.lines.push("notification".to_owned());
        (sender != 0).then_some(sender)
    }

    fn described(&mut self, of: ShapeOf, columns: u64) {
        self.lines.push(format!("described {of:?} {columns}"));
    }

    fn told(&mut self, answer: &[u8]) {
        self.told.extend_from_slice(answer);
    }

    fn row(&mut self, message: &[u8]) {
        self.lines.push(format!("row {message:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fuzz_driver;

    #[test]
    fn no_bytes_upset_the_matching() {
        // Simple; extended, forwarded, simulated and swallowed; COPY; an error; a notice between.
        let corpus = [
            &b"\x01\x00T\0\0\0\x06\0\0D\0\0\0\x06\0\0C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"[..],
            b"\x04\x01\x02\x04\x071\0\0\0\x042\0\0\0\x04C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
            b"\x05\xc1\x02\x03\x04\x072\0\0\0\x04n\0\0\0\x04s\0\0\0\x04Z\0\0\0\x05T",
            b"\x06\x80\x81\x82\x84\x87\x00Z\0\0\0\x05I1\0\0\0\x04E\0\0\0\x09C42\0\0Z\0\0\0\x05EZ\0\0\0\x05I",
            b"\x04\x01\x04\x08\x07G\0\0\0\x07\0\0\0C\0\0\0\x08COP\0Z\0\0\0\x05I",
            b"\x02\xff\x00E\0\0\0\x0bC25006\0\0N\0\0\0\x06M\0S\0\0\0\x08a\0b\0A\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
        ];
        fuzz_driver::drive(&corpus.map(<[u8]>::to_vec), fuzz_replies);
    }
}
