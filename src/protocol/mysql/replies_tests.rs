use super::super::replies_fuzz::{End, run};
use super::*;

/// Which reply is awaited, by its number in the fuzzer's table.
const OK_: u8 = 1;
const RESULTS: u8 = 2;
const PREPARE: u8 = 3;
const ROWS: u8 = 4;
const FIELDS: u8 = 5;
const TEXT: u8 = 6;
const BINLOG: u8 = 7;

/// Payloads as the server sends them, from sequence id 1 on.
pub(in super::super) fn wire(payloads: &[&[u8]]) -> Vec<u8> {
    let (mut out, mut sequence) = (Vec::new(), 1);
    for payload in payloads {
        packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(payload));
    }
    out
}

const DEFINITION: &[u8] = b"\x03def\0\0\0\x011\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
const MORE: &[u8] = b"\xfe\0\0\x0a\0\0\0";
const END: &[u8] = b"\xfe\0\0\x02\0\0\0";
const DONE: &[u8] = b"\0\0\0\x02\0\0\0";
const ERROR: &[u8] = b"\xff\x7a\x04#42S02gone";

type Case = (&'static str, u8, &'static [&'static [u8]], &'static [&'static str]);

/// What the server says and what is told of it. Each is a whole reply.
pub(in super::super) const CASES: &[Case] = &[
    ("a write", RESULTS, &[b"\0\x01\x05\x03\0\0\0"], &["ok 1 5 3 0  []"]),
    ("an error", RESULTS, &[ERROR], &["err 1146 gone"]),
    ("no columns", OK_, &[DONE], &["ok 0 0 2 0  []"]),
    ("COM_SET_OPTION", OK_, &[END], &["end 0 0 2 0  []"]),
    (
        "rows; one begins with NULL, one with an empty string",
        RESULTS,
        &[b"\x01", DEFINITION, b"\xfb", b"\0", b"\x011", END],
        &["definitions", "end 0 0 2 0  []"],
    ),
    (
        "no rows",
        RESULTS,
        &[b"\x02", DEFINITION, DEFINITION, END],
        &["definitions", "end 0 0 2 0  []"],
    ),
    (
        "an error after rows",
        RESULTS,
        &[b"\x01", DEFINITION, b"\x011", ERROR],
        &["definitions", "err 1146 gone"],
    ),
    (
        "an error before rows",
        RESULTS,
        &[b"\x01", DEFINITION, ERROR],
        &["definitions", "err 1146 gone"],
    ),
    (
        "several results, as of a CALL",
        RESULTS,
        &[
            b"\x01",
            DEFINITION,
            b"\x011",
            MORE,
            b"\0\x01\0\x0a\0\0\0",
            b"\x01",
            DEFINITION,
            MORE,
            DONE,
        ],
        &[
            "definitions",
            "end 0 0 a 0  []",
            "ok 1 0 a 0  []",
            "definitions",
            "end 0 0 a 0  []",
            "ok 0 0 2 0  []",
        ],
    ),
    (
        "trackers after rows",
        RESULTS,
        &[b"\x01", DEFINITION, b"\x011", b"\xfe\0\0\x02\x40\0\0\0\x04\x01\x02\x01d"],
        &["definitions", "end 0 0 4002 0  [Schema([100])]"],
    ),
    (
        "a cursor is opened",
        RESULTS,
        &[b"\x01", DEFINITION, b"\xfe\0\0\x42\0\0\0"],
        &["end 0 0 42 0  []"],
    ),
    (
        "rows of a cursor",
        ROWS,
        &[b"\0\0\x01", b"\0\0\x02", b"\xfe\0\0\x82\0\0\0"],
        &["end 0 0 82 0  []"],
    ),
    ("no such cursor", ROWS, &[ERROR], &["err 1146 gone"]),
    (
        "a file is wanted, and another one",
        RESULTS,
        &[b"\xfb/a", b"\0\x03\0\x0a\0\0\0", b"\xfb/b", DONE],
        &["infile \"/a\"", "ok 3 0 a 0  []", "infile \"/b\"", "ok 0 0 2 0  []"],
    ),
    (
        "prepared, with parameters and columns",
        PREPARE,
        &[b"\0\x07\0\0\0\x01\0\x02\0\0\x03\0", DEFINITION, DEFINITION, DEFINITION],
        &["prepared 7 1 2 3", "definitions", "definitions"],
    ),
    (
        "prepared, with columns",
        PREPARE,
        &[b"\0\x07\0\0\0\x01\0\0\0\0\0\0", DEFINITION],
        &["prepared 7 1 0 0", "definitions"],
    ),
    (
        "prepared, with parameters",
        PREPARE,
        &[b"\0\x07\0\0\0\0\0\x01\0\0\0\0", DEFINITION],
        &["prepared 7 0 1 0", "definitions"],
    ),
    ("prepared, with neither", PREPARE, &[b"\0\x07\0\0\0\0\0\0\0\0\0\0"], &["prepared 7 0 0 0"]),
    ("not prepared", PREPARE, &[ERROR], &["err 1146 gone"]),
    ("columns of a table", FIELDS, &[DEFINITION, DEFINITION, END], &["end 0 0 2 0  []"]),
    ("no such table", FIELDS, &[ERROR], &["err 1146 gone"]),
    ("statistics", TEXT, &[b"Uptime: 7"], &["text Uptime: 7"]),
    ("events", BINLOG, &[b"\0\x01\x02", b"\0", b"\xfe\0\0\x02\0"], &["eof"]),
    ("events, lost", BINLOG, &[b"\0\x01\x02", ERROR], &["err 1146 gone"]),
];

#[test]
fn replies_are_followed_to_their_end() {
    for (name, request, payloads, told) in CASES {
        let said = wire(payloads);
        let outcome = run(*request, &said, said.len());
        assert_eq!(outcome.told, *told, "{name}");
        assert_eq!(outcome.end, End::Over, "{name}");
        let tells_trackers = payloads.iter().any(|payload| payload.len() > 7 && payload[4] == 0x40);
        if !tells_trackers {
            assert_eq!(outcome.client, said, "{name}: a client that negotiated all gets all");
        }
        let short = run(*request, &said[..said.len() - 1], said.len());
        assert_eq!(short.end, End::Awaited, "{name}: the last byte is missing");
    }
}

#[test]
fn what_comes_after_the_end_is_left() {
    let mut reply = Reply::new(Awaits::Ok);
    let said = wire(&[DONE, DONE]);
    let step = reply.step(&said).unwrap();
    assert_eq!((step.bytes, reply.is_over(), reply.sequence()), (DONE.len() + 4, true, 1));
    assert_eq!(reply.step(&said[step.bytes..]), Ok(Step { bytes: 0, told: None }));
    let mut nothing = Reply::new(Awaits::Nothing);
    assert_eq!(nothing.step(&said), Ok(Step { bytes: 0, told: None }));
}

#[test]
fn rows_longer_than_a_packet_do_not_end_the_reply() {
    // The first column has 16 MiB: its length begins with 0xFE. What follows it in the next packet
    // looks like an end and like an error.
    let max = packet::PAYLOAD_BYTES_MAX;
    for (front, rest) in [(b"\xfe", &b"\xfe\0\0\x02\0"[..]), (b"\xfd", ERROR), (b"\x01", b"")] {
        let mut row = vec![0; max];
        row[0] = front[0];
        row.extend_from_slice(rest);
        let said = wire(&[b"\x01", DEFINITION, &row, END]);
        let outcome = run(RESULTS, &said, 1 << 20);
        assert_eq!(outcome.told, ["definitions", "end 0 0 2 0  []"]);
        assert_eq!((outcome.client == said, outcome.end), (true, End::Over));
    }
}

#[test]
fn what_is_no_reply_is_refused() {
    let cases: &[(u8, &[&[u8]])] = &[
        (RESULTS, &[b""]),
        (RESULTS, &[b"\xfc"]),
        (RESULTS, &[b"\x01\x01"]),
        (RESULTS, &[b"\xfc\0\0"]),
        (RESULTS, &[b"\x0123456789ab"]),
        (OK_, &[b"\x01"]),
        (OK_, &[b"\0"]),
        (PREPARE, &[b"\0\x07"]),
        (PREPARE, &[b"\x05"]),
    ];
    for (request, payloads) in cases {
        let said = wire(payloads);
        assert_eq!(run(*request, &said, said.len()).end, End::Refused, "{payloads:?}");
    }
    // Too long to be looked at as a whole, said by its head alone.
    assert_eq!(run(OK_, b"\0\0\x20\x01\0", 5).end, End::Refused);
}
