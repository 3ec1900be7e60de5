//! Commands of MySQL's protocol as lines, and what comes back in words. The lines are those of
//! `integration/data/differential_mysql/README.md`.

use super::mysql_wire::{Packet, Wire};
use tiffin::protocol::mysql::command;
use tiffin::protocol::mysql::lenenc::put_bytes;

/// The id of a statement that is not there.
const NOBODYS: u32 = 0x00ff_ffff;

/// A client that plays lines.
pub struct Player {
    pub wire: Wire,
    /// Of the statements that it has prepared.
    ids: Vec<u32>,
    /// What the next LOAD DATA LOCAL gets.
    file: Vec<u8>,
}

impl Player {
    pub fn new(wire: Wire) -> Player {
        Player { wire, ids: Vec::new(), file: Vec::new() }
    }

    /// The statements are gone, by a reset or a change of the user: others may get their ids.
    pub fn forget(&mut self) {
        self.ids.clear();
    }

    /// Sends a line's command; the packets of its reply, a line each.
    pub fn play(&mut self, line: &str) -> Vec<String> {
        let (letter, rest) = (line.get(..1).unwrap_or_default(), line.get(2..).unwrap_or_default());
        if letter == "D" {
            self.file = rest.replace("\\n", "\n").into_bytes();
            return Vec::new();
        }
        let payload = payload(letter, rest, &self.ids);
        let mut packets = self.wire.run(&payload, &self.file);
        if letter == "P" {
            // One that could not be prepared has a number as well.
            self.ids.push(prepared_id(packets.first_mut()).unwrap_or(NOBODYS));
        }
        packets.iter_mut().map(in_words).map(without_id).collect()
    }
}

/// Errors name a statement by the server's id.
fn without_id(words: String) -> String {
    let Some((before, behind)) = words.split_once("The statement (") else { return words };
    let behind = behind.trim_start_matches(|digit: char| digit.is_ascii_digit());
    format!("{before}The statement ({behind}")
}

/// The id of a statement that was prepared, which becomes zero in the packet.
fn prepared_id(packet: Option<&mut Packet>) -> Option<u32> {
    let payload = &mut packet?.payload;
    let place = payload.get_mut(1..5)?;
    let id = u32::from_le_bytes(place.try_into().ok()?);
    if payload[0] != 0 {
        return None;
    }
    payload[1..5].fill(0);
    Some(id)
}

fn payload(letter: &str, rest: &str, ids: &[u32]) -> Vec<u8> {
    let words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
    let id = ids.get(number(0).wrapping_sub(1)).copied().unwrap_or(NOBODYS).to_le_bytes();
    let with = |command: u8, bytes: &[u8]| [&[command][..], bytes].concat();
    match letter {
        "Q" => with(command::QUERY, rest.as_bytes()),
        "P" => with(command::STMT_PREPARE, rest.as_bytes()),
        "E" => execute(id, &words[1..], 0, true),
        "A" => execute(id, &words[1..], 0, false),
        "K" => execute(id, &words[1..], 1, true),
        "T" => with(command::STMT_FETCH, &[id, (number(1) as u32).to_le_bytes()].concat()),
        "L" => {
            let parameter = (number(1) as u16).to_le_bytes();
            let data = [&id[..], &parameter, words[2].as_bytes()].concat();
            with(command::STMT_SEND_LONG_DATA, &data)
        }
        "C" => with(command::STMT_CLOSE, &id),
        "R" => with(command::STMT_RESET, &id),
        "U" => with(command::INIT_DB, rest.as_bytes()),
        "F" => with(command::FIELD_LIST, &[rest.as_bytes(), b"\0"].concat()),
        "I" => vec![command::PING],
        "O" => with(command::SET_OPTION, &(number(0) as u16).to_le_bytes()),
        "X" => vec![command::RESET_CONNECTION],
        "Z" => (0..rest.len() / 2)
            .map(|at| u8::from_str_radix(&rest[2 * at..2 * at + 2], 16).expect("hex"))
            .collect(),
        _ => panic!("{letter} is no command"),
    }
}

const TYPE_LONGLONG: u8 = 8;
const TYPE_NULL: u8 = 6;
const TYPE_VAR_STRING: u8 = 253;

fn execute(id: [u8; 4], values: &[&str], cursor: u8, types: bool) -> Vec<u8> {
    let mut out = [&[command::STMT_EXECUTE][..], &id, &[cursor, 1, 0, 0, 0]].concat();
    if values.is_empty() {
        return out;
    }
    let mut nulls = vec![0; values.len().div_ceil(8)];
    let (mut kinds, mut data) = (Vec::new(), Vec::new());
    for (at, value) in values.iter().enumerate() {
        let text = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        match (text, value.parse::<i64>()) {
            (Some(text), _) => {
                kinds.extend([TYPE_VAR_STRING, 0]);
                put_bytes(&mut data, text.as_bytes());
            }
            (None, Ok(number)) => {
                kinds.extend([TYPE_LONGLONG, 0]);
                data.extend(number.to_le_bytes());
            }
            // It was sent before.
            _ if *value == "long" => kinds.extend([TYPE_VAR_STRING, 0]),
            _ => {
                kinds.extend([TYPE_NULL, 0]);
                nulls[at / 8] |= 1 << (at % 8);
            }
        }
    }
    out.extend(nulls);
    out.push(u8::from(types));
    if types {
        out.extend(kinds);
    }
    out.extend(data);
    out
}

/// What the EOF in front of the rows says and the server tells the proxy only behind them: whether
/// a transaction is open and another result follows, whether an index was used, whether columns
/// have changed, and the number of warnings.
const TOLD_LATER: u16 = 0x0001 | 0x0008 | 0x0010 | 0x0020 | 0x0400 | 0x0800;

fn in_words(packet: &mut Packet) -> String {
    if let (true, [_, warnings @ .., low, high]) =
        (packet.ends_definitions, &mut packet.payload[..])
    {
        warnings.fill(0);
        let status = u16::from_le_bytes([*low, *high]) & !TOLD_LATER;
        [*low, *high] = status.to_le_bytes();
    }
    format!("  {}: {}", packet.sequence, packet.payload.escape_ascii())
}
