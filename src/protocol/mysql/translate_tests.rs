use super::super::packet;
use super::super::replies_fuzz::{End, run};
use super::*;

/// A client without `DEPRECATE_EOF`, and one without trackers too.
const OLD: u8 = 0x40;
const OLDEST: u8 = 0xC0;
const NO_TRACK: u8 = 0x80;
const RESULTS: u8 = 2;
const PREPARE: u8 = 3;
const FIELDS: u8 = 5;

const ROW: &[u8] = b"\x011";
const DEFINITION: &[u8] = b"\x03def\0";
const EOF_: &[u8] = b"\xfe\0\0\x02\0";
const END: &[u8] = b"\xfe\0\0\x02\0\0\0";
const ERROR: &[u8] = b"\xff\x7a\x04#42S02gone";
/// Schema `d`, and a GTID.
const TOLD: &[u8] = b"\0\0\0\x02\x40\0\0\0\x0b\x01\x02\x01d\x03\x05\0\x03u:1";

type Case = (&'static str, u8, &'static [&'static [u8]], &'static [&'static [u8]]);

/// What the server says, and what the client gets.
const CASES: &[Case] = &[
    (
        "an EOF behind definitions, and one for the end",
        RESULTS | OLD,
        &[b"\x01", DEFINITION, ROW, ROW, END],
        &[b"\x01", DEFINITION, EOF_, ROW, ROW, EOF_],
    ),
    ("no rows", RESULTS | OLD, &[b"\x01", DEFINITION, END], &[b"\x01", DEFINITION, EOF_, EOF_]),
    (
        "warnings and flags are the server's",
        RESULTS | OLD,
        &[b"\x01", DEFINITION, b"\xfe\0\0\x22\x40\x05\0\0\x04\x01\x02\x01d"],
        &[b"\x01", DEFINITION, EOF_, b"\xfe\x05\0\x22\0"],
    ),
    (
        "an error after rows is renumbered",
        RESULTS | OLD,
        &[b"\x01", DEFINITION, ROW, ERROR],
        &[b"\x01", DEFINITION, EOF_, ROW, ERROR],
    ),
    (
        "a second result goes on with the numbers, and says its own end",
        RESULTS | OLD,
        &[b"\x01", DEFINITION, b"\xfe\0\0\x0a\0\0\0", b"\x01", DEFINITION, ROW, END],
        &[b"\x01", DEFINITION, EOF_, b"\xfe\0\0\x0a\0", b"\x01", DEFINITION, EOF_, ROW, EOF_],
    ),
    (
        "a cursor: one EOF",
        RESULTS | OLD,
        &[b"\x01", DEFINITION, b"\xfe\0\0\x42\0\0\0"],
        &[b"\x01", DEFINITION, b"\xfe\0\0\x42\0"],
    ),
    (
        "prepared: an EOF behind parameters and one behind columns",
        PREPARE | OLD,
        &[b"\0\x07\0\0\0\x01\0\x01\0\0\0\0", DEFINITION, DEFINITION],
        &[b"\0\x07\0\0\0\x01\0\x01\0\0\0\0", DEFINITION, EOF_, DEFINITION, EOF_],
    ),
    ("columns of a table", FIELDS | OLD, &[DEFINITION, END], &[DEFINITION, EOF_]),
    ("a file is wanted", RESULTS | OLD, &[b"\xfb/a", ERROR], &[b"\xfb/a", ERROR]),
    ("trackers that were asked for", RESULTS, &[TOLD], &[b"\0\0\0\x02\x40\0\0\0\x04\x01\x02\x01d"]),
    ("no trackers", RESULTS | NO_TRACK, &[TOLD], &[b"\0\0\0\x02\0\0\0"]),
    (
        "a text without trackers",
        RESULTS | OLDEST,
        &[b"\0\0\0\x02\x40\0\0\x02hi\x04\x01\x02\x01d"],
        &[b"\0\0\0\x02\0\0\0\x02hi"],
    ),
    (
        "nothing is left of the trackers",
        RESULTS,
        &[b"\0\0\0\x02\x40\0\0\0\x07\x03\x05\0\x03u:1"],
        &[b"\0\0\0\x02\0\0\0"],
    ),
];

fn wire(payloads: &[&[u8]]) -> Vec<u8> {
    let (mut out, mut sequence) = (Vec::new(), 1);
    for payload in payloads {
        packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(payload));
    }
    out
}

#[test]
fn clients_get_what_they_negotiated() {
    for (name, request, said, expected) in CASES {
        let outcome = run(*request, &wire(said), 6);
        assert_eq!(outcome.client, wire(expected), "{name}");
        assert_eq!(outcome.end, End::Over, "{name}");
    }
}

/// A client that reads CURSOR_EXISTS behind definitions waits for no rows.
#[test]
fn what_was_said_of_an_earlier_statement_is_not_said_again() {
    let mut translation = Translation::new(Capabilities::NONE);
    let status = Status(0xFFFF);
    let (told, mut out) = (Told::Ok(OkPacket::plain(status)), Vec::new());
    translation.told(&told, &wire(&[b"\0"]), &Visible::default(), &mut out);
    out.clear();
    translation.begin();
    translation.told(&Told::DefinitionsEnd, b"", &Visible::default(), &mut out);
    assert_eq!(out[4..], *b"\xfe\0\0\x03\xa2");
}

#[test]
fn variables_are_shown_by_name() {
    let these = VisibleVariables::These([Box::from(&b"last_gtid"[..])].into());
    let shows =
        |visible: &Visible, name| visible.shows(Some(Tracked::Variable { name, value: b"" }));
    let asked = Visible { variables: these, ..Visible::default() };
    let all = Visible { variables: VisibleVariables::All, ..Visible::default() };
    assert!(shows(&asked, b"last_gtid") && !shows(&asked, b"autocommit"));
    assert!(shows(&all, b"sql_mode") && !shows(&Visible::default(), b"sql_mode"));
    assert!(shows(&Visible::default(), b"autocommit"));
}

#[test]
fn what_a_client_sends_within_a_reply_is_numbered_for_the_server() {
    let mut translation = Translation::new(Capabilities::NONE);
    let mut out = Vec::new();
    translation.plain(&mut wire(&[b"\x01", DEFINITION]));
    assert!(translation.told(&Told::DefinitionsEnd, b"", &Visible::default(), &mut out));
    assert_eq!(out, b"\x05\0\0\x03\xfe\0\0\x02\0");
    assert_eq!((translation.to_client(3), translation.to_server(5)), (4, 4));
    translation.begin();
    assert_eq!(translation.to_server(5), 5);
}
