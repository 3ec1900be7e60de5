//! What a client is still owed of a reply whose server is gone, when it is known to have gone well.

use super::expected::{Expected, Kind, Way};
use super::replies::Replies;
use crate::protocol::postgres::reply::{
    BIND_COMPLETE, CLOSE_COMPLETE, NO_DATA, PARSE_COMPLETE, Status, put_command_complete, put_ready,
};

impl Replies {
    /// Writes the rest of a reply to a single COMMIT, or to a statement that was answered but for
    /// the end of its transaction. False if a message is left in its middle.
    pub fn put_rest(&self, tag: &str, out: &mut Vec<u8>) -> bool {
        if self.passing > 0 {
            return false;
        }
        out.extend_from_slice(self.kept.as_deref().unwrap_or_default());
        for Expected { kind, way, .. } in &self.queue {
            match (kind, way) {
                (_, Way::Swallow | Way::Ask | Way::Refuse(_)) | (Kind::CopyEnd, _) => {}
                (_, Way::Simulate(bytes)) => out.extend_from_slice(bytes),
                (Kind::Parse, _) => out.extend_from_slice(PARSE_COMPLETE),
                (Kind::Bind, _) => out.extend_from_slice(BIND_COMPLETE),
                (Kind::Close, _) => out.extend_from_slice(CLOSE_COMPLETE),
                (Kind::Describe, _) => out.extend_from_slice(NO_DATA),
                (Kind::Execute, _) => put_command_complete(out, tag),
                (Kind::Query, Way::Ends) => put_ready(out, Status::Idle),
                (Kind::Query, _) => {
                    put_command_complete(out, tag);
                    put_ready(out, Status::Idle);
                }
                (Kind::Sync | Kind::Function, _) => put_ready(out, Status::Idle),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is still owed, and the bytes for it.
    type Case<'a> = (&'a [(Kind, Way)], &'a [u8]);

    #[test]
    fn the_rest_of_a_commit() {
        let table: &[Case<'_>] = &[
            (&[(Kind::Query, Way::Forward)], b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I"),
            (
                &[
                    (Kind::Bind, Way::Swallow),
                    (Kind::Execute, Way::Ask),
                    (Kind::Sync, Way::Swallow),
                    (Kind::Parse, Way::Simulate(PARSE_COMPLETE)),
                    (Kind::Bind, Way::Forward),
                    (Kind::Describe, Way::Forward),
                    (Kind::Execute, Way::Forward),
                    (Kind::Sync, Way::Forward),
                ],
                b"1\0\0\0\x042\0\0\0\x04n\0\0\0\x04C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I",
            ),
            (&[(Kind::Query, Way::Ends)], b"Z\0\0\0\x05I"),
            (&[(Kind::Sync, Way::Forward)], b"Z\0\0\0\x05I"),
        ];
        for (queue, expected) in table {
            let mut replies = Replies::default();
            queue.iter().for_each(|(kind, way)| replies.push(Expected::new(*kind, *way)));
            let mut out = Vec::new();
            assert!(replies.put_rest("COMMIT", &mut out));
            assert_eq!(&out, expected, "{queue:?}");
        }
    }
}
