//! Errors of servers in the words that a client expects: with its own ids of statements, and of a
//! replica what the primary would have said.

use super::active::Progress;
use super::conversation::Conversation;
use super::errors::{Code, NO_OPEN_CURSOR, READ_ONLY_TRANSACTION, UNKNOWN_STATEMENT, is_read_only};
use crate::protocol::mysql::packet;
use crate::protocol::mysql::replies::Told;
use crate::protocol::mysql::reply::ErrPacket;

/// ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, as MySQL words it. MariaDB has no full stop.
const READ_ONLY: &[u8] = b"Cannot execute statement in a READ ONLY transaction.";

impl Conversation {
    /// Appends what the client gets in the place of a server's packet, if that is not the same.
    pub(super) fn reword(
        &mut self,
        told: &Told<'_>,
        packet: &[u8],
        progress: &Progress,
        out: &mut Vec<u8>,
    ) -> bool {
        let reworded = progress.reworded(told, packet);
        let differs =
            self.translation.told(told, reworded.as_deref().unwrap_or(packet), &self.visible, out);
        if let Some(reworded) = reworded.filter(|_| !differs) {
            out.extend_from_slice(&reworded);
            return true;
        }
        differs
    }
}

impl Progress {
    /// The packet, with its head, in the place of this one.
    fn reworded(&self, told: &Told<'_>, packet: &[u8]) -> Option<Vec<u8>> {
        let Told::Err(error) = told else { return None };
        let mut sequence = packet::head(packet)?.sequence;
        let mut out = Vec::new();
        if self.refused_as_read_only && is_read_only(error.errno, error.message) {
            let Code { errno, sqlstate } = READ_ONLY_TRANSACTION;
            let mariadb = error.message.windows(7).any(|part| part == b"MariaDB");
            let message = if mariadb { &READ_ONLY[..READ_ONLY.len() - 1] } else { READ_ONLY };
            ErrPacket { errno, sqlstate, message }.put(&mut out, &mut sequence);
            return Some(out);
        }
        let of_statement = [UNKNOWN_STATEMENT.errno, NO_OPEN_CURSOR.errno];
        let id = self.names.filter(|_| of_statement.contains(&error.errno))?;
        let message = with_id(error.message, id)?;
        ErrPacket { message: &message, ..*error }.put(&mut out, &mut sequence);
        Some(out)
    }
}

/// The message with another number in its first parentheses. A name in there is of SQL's PREPARE,
/// in a procedure that the statement calls.
fn with_id(message: &[u8], id: u32) -> Option<Vec<u8>> {
    let opens = message.iter().position(|byte| *byte == b'(')? + 1;
    let (front, rest) = message.split_at(opens);
    let closes = rest.iter().position(|byte| *byte == b')')?;
    if !rest[..closes].iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some([front, id.to_string().as_bytes(), &rest[closes..]].concat())
}

#[cfg(test)]
mod tests {
    use super::with_id;

    #[test]
    fn statements_have_the_clients_ids() {
        let cases: &[(&str, Option<&str>)] = &[
            (
                "The statement (17) has no open cursor.",
                Some("The statement (5) has no open cursor."),
            ),
            ("(1) (2)", Some("(5) (2)")),
            ("Unknown prepared statement handler (p) given to EXECUTE", None),
            ("no id", None),
            ("(", None),
            (")(", None),
            ("", None),
        ];
        for (message, expected) in cases {
            let changed = with_id(message.as_bytes(), 5);
            assert_eq!(changed.as_deref(), expected.map(str::as_bytes), "{message}");
        }
    }
}
