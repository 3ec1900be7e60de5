//! Every decoder of messages after the start, fed with the same bytes: for the fuzzer and its
//! driver.

use super::error::{ErrorFields, ServerError};
use super::frame;
use super::reply;
use super::request::{self, Request};

/// Takes the bytes for what a client or a server sends, message by message. Panics when a decoder
/// does, or when what was understood does not survive being written and read again.
pub fn fuzz_messages(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some(head)) = frame::head(rest) {
        // Decoders are given whole messages and the fronts of long ones.
        let message = &rest[..head.bytes.min(rest.len())];
        of_a_client(message);
        of_a_server(message);
        rest = &rest[message.len()..];
    }
}

fn of_a_client(message: &[u8]) {
    let Ok(read) = request::read(message) else { return };
    assert!(request::is_request_tag(message[0]));
    let mut out = Vec::new();
    match read {
        Request::Query(sql) => request::put_query(&mut out, sql),
        Request::Parse { name, sql, types } => request::put_parse(&mut out, name, sql, types),
        Request::Bind { portal, statement, rest } => {
            request::put_bind(&mut out, portal, statement, rest, 0);
        }
        _ => return,
    }
    assert_eq!(request::read(&out), Ok(read));
}

fn of_a_server(message: &[u8]) {
    let fields = ErrorFields::of_message(message);
    let kept = ServerError::parse(frame::body(message));
    assert_eq!(kept.sqlstate, String::from_utf8_lossy(fields.sqlstate));
    let _ = reply::ready_status(message).map(|status| assert_eq!(status.as_byte(), message[5]));
    if let Ok((name, value)) = reply::parameter_status(message) {
        let mut out = Vec::new();
        reply::put_parameter_status(&mut out, name, value);
        assert_eq!(reply::parameter_status(&out), Ok((name, value)));
    }
    let _ = reply::command_tag(message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fuzz_driver;

    #[test]
    fn no_bytes_upset_the_decoders() {
        let corpus = [
            &b"Q\0\0\0\x0dSELECT 1\0"[..],
            b"P\0\0\0\x14s\0SELECT $1\0\0\x01\0\0\0\x17D\0\0\0\x07Ss\0",
            b"B\0\0\0\x0e\0s\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04",
            b"C\0\0\0\x07Ss\0H\0\0\0\x04d\0\0\0\x06xxc\0\0\0\x04f\0\0\0\x06n\0X\0\0\0\x04",
            b"E\0\0\0\x24SFATAL\0VFATAL\0C28P01\0Mno\0Dd\0Hh\0\0Z\0\0\0\x05E",
            b"S\0\0\0\x0eTimeZone\0UTC\0C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I",
        ];
        fuzz_driver::drive(&corpus.map(<[u8]>::to_vec), fuzz_messages);
    }
}
