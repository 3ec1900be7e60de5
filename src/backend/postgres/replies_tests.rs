use super::*;
use crate::sql::Statement;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Writes down what it is told.
#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    intercept: bool,
    told: Vec<u8>,
}

impl Watch for Notes {
    fn parameter(&mut self, name: &[u8], value: &[u8], _: (bool, Option<&Statement>)) -> bool {
        self.lines.push(format!("{}={}", text(name), text(value)));
        false
    }

    fn error(&mut self, fields: &ErrorFields<'_>, front: Option<(Kind, Way)>) -> OnError {
        let swallowed = matches!(front, Some((_, Way::Swallow)));
        self.lines.push(format!("error {} {swallowed}", text(fields.sqlstate)));
        if self.intercept { OnError::Intercept } else { OnError::Forward }
    }

    fn before_ready(&mut self, _: &mut Vec<u8>) {}

    fn executed(&mut self, _: Arc<Statement>) {
        self.lines.push("executed".to_owned());
    }

    fn ready(&mut self, ready: Ready) {
        self.lines.push(format!(
            "ready {:?} swallowed={} failed={}",
            ready.status, ready.swallowed, ready.failed
        ));
    }

    fn renamed(&mut self, _: &[u8], named: u64) -> Option<Box<[u8]>> {
        (named == 1).then(|| message(b'E', b"Mrenamed\0\0").into())
    }

    fn own_answered(&mut self, _: &mut Buffer) {
        self.lines.push("own answered".to_owned());
    }

    fn changed(&mut self, change: u64) {
        if change > 0 {
            self.lines.push(format!("changed {change}"));
        }
    }

    fn not_changed(&mut self, changes: RangeInclusive<u64>) {
        self.lines.push(format!("not changed {changes:?}"));
    }

    fn not_prepared(&mut self, id: u64, why: NotPrepared) {
        self.lines.push(format!("not prepared {id}: {why:?}"));
    }

    fn described(&mut self, of: ShapeOf, _: u64) {
        self.lines.push(format!("described {}", of.named));
    }

    fn notification(&mut self, sender: i32, _: Option<&Arc<Statement>>) -> Option<i32> {
        (sender != 1).then_some(if sender == 2 { 20 } else { sender })
    }

    fn told(&mut self, answer: &[u8]) {
        self.told.extend_from_slice(answer);
    }

    fn row(&mut self, message: &[u8]) {
        self.lines.push(format!("row {}", text(&message[HEAD_BYTES..])));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A message with an empty or given body.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    frame::put(&mut out, tag, |out| out.extend_from_slice(body));
    out
}

fn server(messages: &[(u8, &[u8])]) -> Vec<u8> {
    messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect()
}

/// Feeds `bytes` in pieces of `step` bytes and returns what the client gets.
fn feed(replies: &mut Replies, bytes: &[u8], step: usize, notes: &mut Notes) -> Vec<u8> {
    let (mut read, mut local, mut client) = (Buffer::default(), Buffer::default(), vec![]);
    for piece in bytes.chunks(step) {
        read.extend(piece);
        replies.scan(&mut read, &mut local, notes).expect("valid");
        client.extend_from_slice(local.filled());
        local.clear();
        let count = replies.forwardable();
        client.extend_from_slice(&read.filled()[..count]);
        read.consume(count);
        replies.forwarded(count);
    }
    client
}

struct Case {
    name: &'static str,
    expected: &'static [(Kind, Way)],
    server: &'static [(u8, &'static [u8])],
    client: &'static [(u8, &'static [u8])],
    notes: &'static [&'static str],
}

const ERROR: &[u8] = b"SERROR\0C42P01\0Mno\0\0";
const SIM: Way = Way::Simulate(reply::PARSE_COMPLETE);

const CASES: &[Case] = &[
    Case {
        name: "a simple query is forwarded",
        expected: &[(Kind::Query, Way::Forward)],
        server: &[(b'T', b"x"), (b'D', b"row"), (b'C', b"SELECT 1\0"), (b'Z', b"I")],
        client: &[(b'T', b"x"), (b'D', b"row"), (b'C', b"SELECT 1\0"), (b'Z', b"I")],
        notes: &["ready Idle swallowed=false failed=false"],
    },
    Case {
        name: "what the proxy asked is swallowed, what the client asked is not",
        expected: &[(Kind::Query, Way::Swallow), (Kind::Query, Way::Forward)],
        server: &[(b'S', b"a\0b\0"), (b'C', b"SET\0"), (b'Z', b"I"), (b'C', b"X\0"), (b'Z', b"T")],
        client: &[(b'C', b"X\0"), (b'Z', b"T")],
        notes: &[
            "a=b",
            "ready Idle swallowed=true failed=false",
            "own answered",
            "ready Open swallowed=false failed=false",
        ],
    },
    Case {
        name: "a Parse that was not needed is answered in its place",
        expected: &[
            (Kind::Close, Way::Forward),
            (Kind::Parse, SIM),
            (Kind::Bind, Way::Forward),
            (Kind::Execute, Way::Forward),
            (Kind::Parse, SIM),
            (Kind::Sync, Way::Forward),
        ],
        server: &[(b'3', b""), (b'2', b""), (b'C', b"SELECT 0\0"), (b'Z', b"I")],
        client: &[
            (b'3', b""),
            (b'1', b""),
            (b'2', b""),
            (b'C', b"SELECT 0\0"),
            (b'1', b""),
            (b'Z', b"I"),
        ],
        notes: &["ready Idle swallowed=false failed=false"],
    },
    Case {
        name: "an error skips to Sync, simulated replies with it",
        expected: &[
            (Kind::Parse, Way::Forward),
            (Kind::Parse, SIM),
            (Kind::Execute, Way::Forward),
            (Kind::Sync, Way::Forward),
            (Kind::Parse, Way::Forward),
            (Kind::Sync, Way::Forward),
        ],
        server: &[(b'E', ERROR), (b'Z', b"I"), (b'1', b""), (b'Z', b"I")],
        client: &[(b'E', ERROR), (b'Z', b"I"), (b'1', b""), (b'Z', b"I")],
        notes: &[
            "error 42P01 false",
            "ready Idle swallowed=false failed=true",
            "ready Idle swallowed=false failed=false",
        ],
    },
    Case {
        name: "a Sync ahead of COPY data gets no reply",
        expected: &[
            (Kind::Execute, Way::Forward),
            (Kind::Sync, Way::Forward),
            (Kind::CopyEnd, Way::Forward),
            (Kind::Sync, Way::Forward),
        ],
        server: &[(b'G', b"\0\0\0"), (b'C', b"COPY 1\0"), (b'Z', b"I")],
        client: &[(b'G', b"\0\0\0"), (b'C', b"COPY 1\0"), (b'Z', b"I")],
        notes: &["ready Idle swallowed=false failed=false"],
    },
];

#[test]
fn replies_reach_the_client_in_order_however_the_bytes_arrive() {
    for case in CASES {
        for step in [1, 2, 7, 4096] {
            let mut replies = Replies::default();
            for (kind, way) in case.expected {
                replies.push(Expected::new(*kind, *way));
            }
            let mut notes = Notes::default();
            let client = feed(&mut replies, &server(case.server), step, &mut notes);
            assert_eq!(client, server(case.client), "{} in steps of {step}", case.name);
            assert_eq!(notes.lines, case.notes, "{}", case.name);
            assert!(replies.is_quiet() && replies.ready_due() == 0, "{}", case.name);
        }
    }
}

#[test]
fn an_intercepted_error_swallows_the_rest() {
    let mut replies = Replies::default();
    for kind in [Kind::Parse, Kind::Bind, Kind::Execute, Kind::Sync] {
        replies.push(Expected::new(kind, Way::Forward));
    }
    let mut notes = Notes { intercept: true, ..Notes::default() };
    let client = feed(&mut replies, &server(&[(b'E', ERROR), (b'Z', b"I")]), 3, &mut notes);
    assert!(client.is_empty() && replies.is_quiet());
}

#[test]
fn a_failed_parse_is_told() {
    let mut replies = Replies::default();
    replies.push(Expected { prepared: Some(7), ..Expected::new(Kind::Parse, Way::Forward) });
    replies.push(Expected::new(Kind::Sync, Way::Forward));
    let mut notes = Notes::default();
    feed(&mut replies, &server(&[(b'E', ERROR), (b'Z', b"I")]), 4096, &mut notes);
    assert_eq!(notes.lines[1], "not prepared 7: Failed");
}

/// Statements that the client changes: the first Parse stands, the second fails, the Close and
/// the simple query behind it are skipped, and what comes after the Sync counts again.
#[test]
fn an_error_undoes_what_stands_behind_it() {
    let mut replies = Replies::default();
    let of = |kind, change| Expected { change, ..Expected::new(kind, Way::Forward) };
    let skipped_parse = Expected { prepared: Some(9), ..of(Kind::Parse, 5) };
    let messages = [
        of(Kind::Parse, 1),
        of(Kind::Parse, 2),
        of(Kind::Bind, 0),
        Expected { change: 3, ..Expected::new(Kind::Close, SIM) },
        of(Kind::Query, 0),
        skipped_parse,
        of(Kind::Sync, 0),
        Expected { change: 6, ..Expected::new(Kind::Parse, SIM) },
        of(Kind::Sync, 0),
    ];
    messages.into_iter().for_each(|message| replies.push(message));
    let mut notes = Notes::default();
    let bytes = server(&[(b'1', b""), (b'E', ERROR), (b'Z', b"I"), (b'Z', b"I")]);
    let client = feed(&mut replies, &bytes, 4096, &mut notes);
    let expected = [(b'1', &b""[..]), (b'E', ERROR), (b'Z', b"I"), (b'1', b""), (b'Z', b"I")];
    assert_eq!(client, server(&expected));
    assert_eq!(
        notes.lines,
        [
            "changed 1",
            "error 42P01 false",
            "not prepared 9: Skipped",
            "not changed 2..=5",
            "ready Idle swallowed=false failed=true",
            "changed 6",
            "ready Idle swallowed=false failed=false",
        ]
    );
    assert!(replies.is_quiet() && !replies.is_skipping());
}

#[test]
fn an_error_can_be_worded_anew() {
    for (named, client) in [(0, ERROR), (1, &b"Mrenamed\0\0"[..]), (2, ERROR)] {
        let mut replies = Replies::default();
        replies.push(Expected { named, ..Expected::new(Kind::Bind, Way::Forward) });
        replies.push(Expected::new(Kind::Sync, Way::Forward));
        let bytes = server(&[(b'E', ERROR), (b'Z', b"I")]);
        let got = feed(&mut replies, &bytes, 4096, &mut Notes::default());
        assert_eq!(got, server(&[(b'E', client), (b'Z', b"I")]));
    }
}

#[test]
fn after_an_error_without_a_sync_the_server_waits_for_one() {
    let mut replies = Replies::default();
    replies.push(Expected::new(Kind::Parse, Way::Forward));
    replies.push(Expected::new(Kind::Query, Way::Forward));
    let mut notes = Notes::default();
    feed(&mut replies, &server(&[(b'E', ERROR)]), 4096, &mut notes);
    assert!(replies.is_quiet() && replies.is_skipping());
    replies.push(Expected::new(Kind::Query, Way::Forward));
    replies.push(Expected::new(Kind::Sync, Way::Forward));
    assert!(!replies.is_skipping(), "it is on its way");
    feed(&mut replies, &server(&[(b'Z', b"I")]), 4096, &mut notes);
    assert!(replies.is_quiet() && replies.ready_due() == 0);
}

/// What the proxy sends by itself in front of a message that is skipped is skipped as well.
#[test]
fn the_end_of_what_is_skipped_is_the_clients() {
    let mut replies = Replies::default();
    replies.push(Expected::new(Kind::Parse, Way::Forward));
    let mut notes = Notes::default();
    feed(&mut replies, &server(&[(b'E', ERROR)]), 4096, &mut notes);
    for (kind, way) in
        [(Kind::Close, Way::Swallow), (Kind::Bind, Way::Forward), (Kind::Sync, Way::Forward)]
    {
        replies.push(Expected::new(kind, way));
    }
    let client = feed(&mut replies, &server(&[(b'Z', b"I")]), 4096, &mut notes);
    assert_eq!(client, server(&[(b'Z', b"I")]));
}

/// A Close and a Parse of one name behind an error that has been answered already.
#[test]
fn what_is_skipped_is_taken_back_together() {
    let mut replies = Replies::default();
    replies.push(Expected::new(Kind::Execute, Way::Forward));
    let mut notes = Notes::default();
    feed(&mut replies, &server(&[(b'E', ERROR)]), 4096, &mut notes);
    for (change, kind, way) in [(2, Kind::Close, SIM), (3, Kind::Parse, Way::Forward)] {
        replies.push(Expected { change, ..Expected::new(kind, way) });
    }
    replies.push(Expected::new(Kind::Sync, Way::Forward));
    feed(&mut replies, &server(&[(b'Z', b"I")]), 4096, &mut notes);
    let undone: Vec<_> = notes.lines.iter().filter(|line| line.contains("not changed")).collect();
    assert_eq!(undone.len(), 1, "{:?}", notes.lines);
}

#[test]
fn copy_in_lasts_until_the_client_ends_it() {
    let mut replies = Replies::default();
    replies.push(Expected::new(Kind::Query, Way::Forward));
    let mut notes = Notes::default();
    feed(&mut replies, &server(&[(b'G', b"\0\0\0")]), 1, &mut notes);
    assert!(replies.is_copy_in() && !replies.is_quiet());
    replies.push(Expected::new(Kind::CopyEnd, Way::Forward));
    feed(&mut replies, &server(&[(b'C', b"COPY 0\0"), (b'Z', b"I")]), 1, &mut notes);
    assert!(replies.is_quiet());
}

#[test]
fn a_reply_that_nobody_asked_for_is_an_error() {
    let mut replies = Replies::default();
    let mut read = Buffer::default();
    read.extend(&message(b'Z', b"I"));
    assert!(replies.scan(&mut read, &mut Buffer::default(), &mut Notes::default()).is_err());
}

#[test]
fn large_rows_pass_in_parts() {
    let mut replies = Replies::default();
    replies.push(Expected::new(Kind::Query, Way::Forward));
    let row = vec![7; 300_000];
    let bytes = server(&[(b'D', &row), (b'C', b"SELECT 1\0"), (b'Z', b"I")]);
    let client = feed(&mut replies, &bytes, 1000, &mut Notes::default());
    assert_eq!(client, bytes);
}

/// The client has had a part of this answer from another server.
#[test]
fn what_the_client_has_had_is_not_told_again() {
    let said = server(&[
        (b'S', b"a\0b\0"),
        (b'D', b"one"),
        (b'N', b"notice"),
        (b'D', b"two"),
        (b'C', b"SELECT 2\0"),
        (b'Z', b"T"),
    ]);
    let answer = server(&[
        (b'1', b""),
        (b'2', b""),
        (b'D', b"one"),
        (b'D', b"two"),
        (b'C', b"SELECT 2\0"),
        (b'Z', b"T"),
    ]);
    let bound = server(&[(b'2', b"")]);
    for heard in 0..=answer.len() {
        for step in [1, 3, 1000] {
            let mut replies = Replies { heard: heard as u64, ..Replies::default() };
            replies.push(Expected::new(Kind::Parse, SIM));
            for kind in [Kind::Bind, Kind::Execute, Kind::Sync] {
                replies.push(Expected::new(kind, Way::Forward));
            }
            let mut notes = Notes::default();
            let mut client = feed(&mut replies, &[&bound[..], &said].concat(), step, &mut notes);
            // Told at any time, and again only where the client is behind what it has had.
            let notice = message(b'N', b"notice");
            if let Some(at) = client.windows(notice.len()).position(|part| part == notice) {
                client.drain(at..at + notice.len());
            }
            assert_eq!(client, answer[heard..], "{heard} heard, in pieces of {step}");
            assert_eq!(notes.told, answer);
        }
    }
}

/// What the server skips for want of a Sync, and a CopyDone that ends nothing.
#[test]
fn what_nobody_answers_is_not_kept() {
    let (mut replies, mut notes) = (Replies::default(), Notes::default());
    replies.push(Expected::new(Kind::Parse, Way::Forward));
    feed(&mut replies, &server(&[(b'E', b"SERROR\0C42601\0\0")]), 1000, &mut notes);
    for change in 1..100 {
        replies.push(Expected { change, ..Expected::new(Kind::Close, Way::Forward) });
        replies.scan(&mut Buffer::default(), &mut Buffer::default(), &mut notes).unwrap();
        assert_eq!(replies.owed(), 0);
        assert_eq!(notes.lines.pop().unwrap(), format!("not changed {change}..={change}"));
    }
    replies.push(Expected::new(Kind::Sync, Way::Forward));
    feed(&mut replies, &server(&[(b'Z', b"I")]), 1000, &mut notes);
    assert!(replies.is_quiet());
    replies.push(Expected::new(Kind::CopyEnd, Way::Forward));
    replies.push(Expected::new(Kind::CopyEnd, Way::Forward));
    assert_eq!(replies.owed(), 1);
}
