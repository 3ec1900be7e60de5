//! Every decoder of a connection's start, fed with the same bytes: for the fuzzer and its driver.

use super::auth::{AuthMessage, parse_password, parse_sasl_initial};
use super::error::ServerError;
use super::scram::{
    Binding, ClientExchange, ClientKeys, NONCE_BYTES, Offer, ServerExchange, Verifier,
};
use super::startup::{self, Packet};
use bytes::BytesMut;

/// Decodes the bytes in every way that a peer could make us try. Panics when a decoder does, or
/// when what was understood does not survive being written and read again.
pub fn fuzz_startup(bytes: &[u8]) {
    packets(bytes);
    messages(bytes);
    let (first, last) = bytes.split_at(bytes.len() / 2);
    scram_of_a_client(first, last);
    scram_of_a_server(first, last);
}

fn packets(bytes: &[u8]) {
    if let Some((length, _)) = bytes.split_first_chunk::<4>()
        && let Ok(body) = startup::body_length(u32::from_be_bytes(*length))
    {
        assert!(body < startup::STARTUP_BYTES_MAX);
    }
    let _ = startup::parse_negotiation(bytes);
    let mut out = BytesMut::new();
    match startup::parse(bytes) {
        Ok(Packet::Cancel { process_id, key }) => {
            startup::encode_cancel_request(&mut out, process_id, &key);
            assert_eq!(&out[4..], bytes);
        }
        Ok(Packet::Startup(read)) => {
            assert!(read.minor == 0 || read.minor == startup::MINOR_MAX);
            let who = [(&b"user"[..], &*read.user), (b"database", &*read.database)];
            let rest = read.parameters.iter().map(|(name, value)| (&**name, &**value));
            startup::encode_startup(&mut out, read.minor, who.into_iter().chain(rest));
            let Ok(Packet::Startup(again)) = startup::parse(&out[4..]) else {
                panic!("what was written cannot be read");
            };
            assert_eq!((again.user, again.parameters), (read.user, read.parameters));
        }
        Ok(Packet::Ssl | Packet::GssEnc) | Err(_) => {}
    }
}

fn messages(bytes: &[u8]) {
    let mut out = BytesMut::new();
    if let Some(message) = AuthMessage::parse(bytes) {
        message.encode(&mut out);
        assert_eq!(AuthMessage::parse(&out[5..]), Some(message));
    }
    let _ = parse_password(bytes);
    let _ = parse_sasl_initial(bytes);
    let _ = ServerError::parse(bytes);
    let _ = std::str::from_utf8(bytes).map(Verifier::parse);
}

fn scram_of_a_client(first: &[u8], last: &[u8]) {
    let verifier = Verifier::mock(&[1; 32], b"user");
    for (end_point, plus) in [(None, false), (Some(&b"hash"[..]), false), (Some(b"hash"), true)] {
        let offer = Offer { end_point, plus };
        if let Ok(exchange) = ServerExchange::begin(first, offer, &verifier, &[2; NONCE_BYTES]) {
            assert!(exchange.finish(last).is_err(), "nobody knows a password that does not exist");
        }
    }
}

fn scram_of_a_server(first: &[u8], last: &[u8]) {
    let keys = ClientKeys { client_key: [3; 32], server_key: [4; 32] };
    let exchange = ClientExchange::begin(Binding::EndPoint(b"hash"), &[5; NONCE_BYTES]);
    if let Ok(challenged) = exchange.challenged(first) {
        // A server that does not know the key cannot sign, except by chance.
        assert!(challenged.prove(&keys).finish(last).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::fuzz_driver;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    fn corpus() -> Vec<Vec<u8>> {
        let ours = BASE64.encode([5; NONCE_BYTES]);
        let pair = |first: String, last: String| {
            let width = first.len().max(last.len());
            format!("{first:,<width$}{last:,<width$}").into_bytes()
        };
        vec![
            b"\0\x03\0\0user\0u\0database\0d\0options\0-c a=b\0_pq_.x\x001\0\0".to_vec(),
            b"\0\x03\0\x02user\0u\0replication\0true\0\0".to_vec(),
            b"\x04\xd2\x16\x2e\0\0\0\x07abcd".to_vec(),
            b"\x04\xd2\x16\x2f".to_vec(),
            b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0".to_vec(),
            b"\0\0\0\x05salt".to_vec(),
            b"SCRAM-SHA-256\0\0\0\0\x0an,,n=,r=ab".to_vec(),
            b"SFATAL\0VFATAL\0C28P01\0Mno\0Dd\0Hh\0\0".to_vec(),
            b"\0\x03\0\0\0\0\0\x01_pq_.x\0".to_vec(),
            postgres_protocol::password::scram_sha_256(b"x").into_bytes(),
            pair("n,,n=,r=abc".into(), format!("c=biws,r=abc,p={}", BASE64.encode([0; 32]))),
            pair("p=tls-server-end-point,,n=,r=abc".into(), "c=cA==,r=abc,p=AAAA".into()),
            pair(format!("r={ours}x,s=AAAA,i=4096"), format!("v={}", BASE64.encode([0; 32]))),
            pair(format!("r={ours}x,s=AAAA,i=1"), "e=other-error".into()),
        ]
    }

    #[test]
    fn no_bytes_upset_the_decoders() {
        fuzz_driver::drive(&corpus(), fuzz_startup);
    }
}
