//! The decoders of the command phase, fed with any bytes: for the fuzzer and its driver.

use super::capabilities::Capabilities;
use super::command::{Command, set_statement_id};
use super::execute::QueryAttributes;
use super::replies::{Awaits, Reply, Told};
use super::reply::{ErrPacket, OkPacket};
use super::translate::{Translation, Visible};

/// Any payload, as a command and as a reply's packet. What is read and written again reads the
/// same.
pub fn fuzz_packets(bytes: &[u8]) {
    for client in [Capabilities::NONE, Capabilities::QUERY_ATTRIBUTES] {
        fuzz_command(bytes, client);
    }
    if let Ok(ok) = OkPacket::parse(bytes) {
        let _ = ok.tracked().count();
        let (mut out, mut sequence) = (Vec::new(), 0);
        ok.put(&mut out, &mut sequence, Capabilities::SESSION_TRACK);
        let again = OkPacket::parse(&out[4..]).map(|again| (again.info, again.track));
        assert_eq!(again, Ok((ok.info, ok.track)));
    }
    if let Ok(err) = ErrPacket::parse(bytes) {
        let (mut out, mut sequence) = (Vec::new(), 0);
        err.put(&mut out, &mut sequence);
        assert_eq!(ErrPacket::parse(&out[4..]), Ok(err));
    }
}

fn fuzz_command(bytes: &[u8], client: Capabilities) {
    let Ok(command) = Command::parse(bytes, client) else { return };
    let _ = (command.awaits(), command.statement_id());
    if let Command::Execute(execute) = command {
        let parameters = u16::from(bytes[1]);
        let _ = execute.types(parameters);
        let _ = execute.put_with_types(&mut Vec::new(), 7, parameters, b"\x03\0");
        let _ = execute.attributes(parameters).texts().count();
    }
    if let Ok((attributes, _)) = QueryAttributes::before(bytes) {
        let _ = attributes.texts().count();
    }
    let mut payload = bytes.to_vec();
    if command.statement_id().is_some() && set_statement_id(&mut payload, 7).is_ok() {
        assert_eq!(Command::parse(&payload, client).map(|it| it.statement_id()), Ok(Some(7)));
    }
}

/// The first byte says which reply is awaited and what the client negotiated, the rest is what the
/// server says. What the client gets, and what the proxy learns, must not depend on the pieces in
/// which it arrives.
pub fn fuzz_replies(bytes: &[u8]) {
    let Some((&request, said)) = bytes.split_first() else { return };
    let whole = run(request, said, said.len().max(1));
    for step in [1, 3, 7, 64] {
        assert_eq!(run(request, said, step), whole, "in pieces of {step}");
    }
    let as_it_came = run(request | OLD_CLIENT | NO_TRACK, said, 5);
    assert_eq!(as_it_came.end, whole.end, "the reply does not depend on the client");
}

/// A client without `DEPRECATE_EOF`.
const OLD_CLIENT: u8 = 0x40;
const NO_TRACK: u8 = 0x80;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What the client got.
    pub client: Vec<u8>,
    /// What the proxy was told.
    pub told: Vec<String>,
    pub end: End,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Refused,
    Over,
    Awaited,
}

pub(super) fn run(request: u8, said: &[u8], step: usize) -> Outcome {
    const AWAITS: [Awaits; 8] = [
        Awaits::Nothing,
        Awaits::Ok,
        Awaits::Results,
        Awaits::Prepare,
        Awaits::Rows,
        Awaits::Fields,
        Awaits::Text,
        Awaits::Binlog,
    ];
    let mut capabilities = Capabilities::NONE;
    if request & OLD_CLIENT == 0 {
        capabilities = capabilities | Capabilities::DEPRECATE_EOF;
    }
    if request & NO_TRACK == 0 {
        capabilities = capabilities | Capabilities::SESSION_TRACK;
    }
    let mut reply = Reply::new(AWAITS[usize::from(request & 7)]);
    let mut relay = Relay {
        translation: Translation::new(capabilities),
        outcome: Outcome { client: Vec::new(), told: Vec::new(), end: End::Awaited },
    };
    let mut read = Vec::new();
    for piece in said.chunks(step) {
        read.extend_from_slice(piece);
        if relay.pass(&mut reply, &mut read).is_err() {
            relay.outcome.end = End::Refused;
            return relay.outcome;
        }
    }
    if reply.is_over() {
        relay.outcome.end = End::Over;
    }
    relay.outcome
}

struct Relay {
    translation: Translation,
    outcome: Outcome,
}

impl Relay {
    /// As a conversation does it.
    fn pass(&mut self, reply: &mut Reply, read: &mut Vec<u8>) -> Result<(), super::PacketError> {
        loop {
            let step = reply.step(read)?;
            let (bytes, told) = (step.bytes, step.told);
            if bytes == 0 && told.is_none() {
                return Ok(());
            }
            match told {
                None => {
                    self.translation.plain(&mut read[..bytes]);
                    self.outcome.client.extend_from_slice(&read[..bytes]);
                }
                Some(told) => {
                    self.outcome.told.push(line(&told));
                    let packet = &read[..bytes];
                    let out = &mut self.outcome.client;
                    if !self.translation.told(&told, packet, &Visible::default(), out) {
                        out.extend_from_slice(packet);
                    }
                }
            }
            read.drain(..bytes);
        }
    }
}

fn line(told: &Told<'_>) -> String {
    let text = String::from_utf8_lossy;
    match told {
        Told::Ok(ok) => format!(
            "{} {} {} {:x} {} {} {:?}",
            if ok.header == 0 { "ok" } else { "end" },
            ok.affected_rows,
            ok.last_insert_id,
            ok.status.0,
            ok.warnings,
            text(ok.info),
            ok.tracked().collect::<Vec<_>>()
        ),
        Told::Err(err) => format!("err {} {}", err.errno, text(err.message)),
        Told::DefinitionsEnd => "definitions".to_owned(),
        Told::LocalInfile(name) => format!("infile {:?}", text(name)),
        Told::Prepared(p) => {
            format!("prepared {} {} {} {}", p.id, p.columns, p.parameters, p.warnings)
        }
        Told::Text(said) => format!("text {}", text(said)),
        Told::BinlogEof => "eof".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fuzz_driver;
    use crate::protocol::mysql::replies::tests::{CASES, wire};

    #[test]
    fn no_bytes_upset_the_following_of_replies() {
        let corpus: Vec<Vec<u8>> = CASES
            .iter()
            .flat_map(|(_, request, packets, ..)| {
                let said = wire(packets);
                [0, OLD_CLIENT, OLD_CLIENT | NO_TRACK]
                    .map(|how| [&[request | how], &said[..]].concat())
            })
            .collect();
        fuzz_driver::drive(&corpus, fuzz_replies);
    }

    #[test]
    fn no_payload_upsets_the_decoders() {
        let corpus = [
            &b"\x17\x01\0\0\0\x01\x01\0\0\0\0\x01\x03\0\x2a\0\0\0"[..],
            b"\x18\x01\0\0\0\x02\0abc",
            b"\x04t\0c%",
            b"\0\xfc\x2c\x01\x07\x02\x40\x02\0\x0fRows matched: 1\x04\x01\x02\x01d",
            b"\0\0\0\x02\x40\0\0\0\x10\x00\x07\x01a\x04utf8\x03\x05\x00\x03u:1",
            b"\xff\x15\x04#28000no",
        ];
        fuzz_driver::drive(&corpus.map(<[u8]>::to_vec), fuzz_packets);
    }
}
