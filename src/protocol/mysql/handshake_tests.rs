use super::*;
use crate::protocol::fuzz_driver;

const SCRAMBLE: Scramble = *b"abcdefghijklmnopqrst";

fn payload(put: impl FnOnce(&mut Vec<u8>, &mut u8)) -> Vec<u8> {
    let (mut out, mut sequence) = (Vec::new(), 0);
    put(&mut out, &mut sequence);
    let (head, body, rest) = packet::split(&out).unwrap();
    assert_eq!((head.sequence, rest.len(), sequence), (0, 0, 1));
    body.to_vec()
}

fn greeting(version: &'static [u8], capabilities: Capabilities) -> Greeting<'static> {
    Greeting {
        version,
        connection_id: 7,
        scramble: SCRAMBLE,
        capabilities,
        collation: 45,
        status: Status::AUTOCOMMIT,
        plugin: b"mysql_native_password",
    }
}

/// As MariaDB 10.11 sends it, but for its scramble.
const MARIADB: &[u8] = b"\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\0\x07\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0ijklmnopqrst\0mysql_native_password\0";

#[test]
fn greetings() {
    let mariadb = Greeting::parse(MARIADB).unwrap();
    let expected = greeting(b"5.5.5-10.11.19-MariaDB-0+deb12u1", Capabilities(0x1d_81ff_f7fe));
    assert_eq!(mariadb, expected);
    assert_eq!(
        (mariadb.is_mariadb(), mariadb.shown_version()),
        (true, &b"10.11.19-MariaDB-0+deb12u1"[..])
    );
    assert!(mariadb.capabilities.has(Capabilities::BULK | Capabilities::NEEDED_OF_SERVERS));
    assert_eq!(payload(|out, sequence| mariadb.put(out, sequence)), MARIADB);

    let mysql = greeting(b"9.4.0", Capabilities::OFFERED);
    let bytes = payload(|out, sequence| mysql.put(out, sequence));
    assert_eq!(Greeting::parse(&bytes), Ok(mysql.clone()));
    assert_eq!((mysql.is_mariadb(), mysql.shown_version()), (false, &b"9.4.0"[..]));
    for length in 0..bytes.len() - mysql.plugin.len() - 1 {
        assert!(Greeting::parse(&bytes[..length]).is_err(), "{length}");
    }
    assert!(Greeting::parse(b"\x09old").is_err());
}

fn response() -> HandshakeResponse<'static> {
    HandshakeResponse {
        capabilities: Capabilities::OFFERED.without(Capabilities::PLUGIN_AUTH_LENENC),
        packet_bytes_max: 1 << 24,
        collation: 45,
        user: b"app",
        proof: b"12345678901234567890",
        database: Some(b"shop"),
        plugin: b"caching_sha2_password",
        attributes: vec![(b"_os", b"Linux"), (b"program_name", b"mysql")],
        zstd_level: 0,
    }
}

#[test]
fn responses_in_each_shape() {
    let none = Capabilities::NONE;
    let less = |capability| response().capabilities.without(capability);
    let cases = [
        response(),
        HandshakeResponse { capabilities: Capabilities::OFFERED, ..response() },
        HandshakeResponse {
            capabilities: Capabilities::OFFERED | Capabilities::ZSTD,
            zstd_level: 3,
            ..response()
        },
        HandshakeResponse {
            capabilities: less(Capabilities::CONNECT_WITH_DB),
            database: None,
            ..response()
        },
        HandshakeResponse {
            capabilities: less(Capabilities::PLUGIN_AUTH | Capabilities::CONNECT_ATTRS),
            plugin: b"",
            attributes: Vec::new(),
            ..response()
        },
        HandshakeResponse {
            capabilities: none | Capabilities::PROTOCOL_41,
            proof: b"",
            database: None,
            plugin: b"",
            attributes: Vec::new(),
            ..response()
        },
        // MariaDB's client: no CLIENT_MYSQL, extended capabilities instead.
        HandshakeResponse {
            capabilities: less(Capabilities::LONG_PASSWORD) | Capabilities::BULK,
            ..response()
        },
    ];
    for expected in cases {
        let bytes = payload(|out, sequence| expected.put(out, sequence));
        assert_eq!(FirstPacket::parse(&bytes), Ok(FirstPacket::Response(expected.clone())));
        for length in 0..33 {
            assert!(!matches!(FirstPacket::parse(&bytes[..length]), Ok(FirstPacket::Response(_))));
        }
    }
}

#[test]
fn requests_for_tls_and_clients_that_are_too_old() {
    let asked = Capabilities::OFFERED | Capabilities::SSL;
    let bytes = payload(|out, sequence| put_ssl_request(out, sequence, asked, 45));
    assert_eq!(FirstPacket::parse(&bytes), Ok(FirstPacket::Ssl(asked)));
    assert_eq!(FirstPacket::parse(b"\x05\0\0\0\0user\0"), Ok(FirstPacket::TooOld));
    assert_eq!(FirstPacket::parse(b"\x05"), Err(PacketError::Short));
}

#[test]
fn change_user() {
    let all = Capabilities::OFFERED;
    let mut bytes = b"app\0\x03abcshop\0\x2d\0mysql_native_password\0".to_vec();
    put_attributes(&mut bytes, &[(b"a", b"b")]);
    let expected = ChangeUser {
        user: b"app",
        proof: b"abc",
        database: Some(b"shop"),
        collation: 45,
        plugin: b"mysql_native_password",
        attributes: vec![(b"a", b"b")],
    };
    assert_eq!(ChangeUser::parse(&bytes, all), Ok(expected));
    let short = ChangeUser::parse(b"app\0\0\0", all).unwrap();
    assert_eq!((short.database, short.collation, short.plugin), (None, 0, &b""[..]));
    assert_eq!(ChangeUser::parse(b"app\0\x09a", all), Err(PacketError::Short));
}

#[test]
fn what_authentication_goes_on_with() {
    let bytes = payload(|out, sequence| put_auth_switch(out, sequence, b"p", &SCRAMBLE));
    let switch = AuthMessage::Switch { plugin: b"p", data: &[&SCRAMBLE[..], b"\0"].concat() };
    assert_eq!(AuthMessage::parse(&bytes), Ok(switch));
    let bytes = payload(|out, sequence| put_auth_more(out, sequence, b"\x04"));
    assert_eq!(AuthMessage::parse(&bytes), Ok(AuthMessage::More(b"\x04")));
    assert_eq!(AuthMessage::parse(b"\0"), Ok(AuthMessage::Other));
    // mysql_old_password: a switch without a name.
    assert_eq!(AuthMessage::parse(b"\xfe"), Err(PacketError::Short));
}

#[test]
fn attributes_are_bounded() {
    let many: Vec<(&[u8], &[u8])> = vec![(b"n", b"v"); ATTRIBUTES_MAX + 1];
    let capabilities = Capabilities::OFFERED;
    let full = HandshakeResponse { capabilities, attributes: many, ..response() };
    let bytes = payload(|out, sequence| full.put(out, sequence));
    let Ok(FirstPacket::Response(read)) = FirstPacket::parse(&bytes) else { panic!() };
    assert_eq!(read.attributes.len(), ATTRIBUTES_MAX);
}

#[test]
fn no_bytes_upset_the_decoders_of_the_start() {
    let corpus = vec![
        MARIADB.to_vec(),
        payload(|out, sequence| response().put(out, sequence)),
        payload(|out, sequence| {
            HandshakeResponse { capabilities: Capabilities::OFFERED, ..response() }
                .put(out, sequence);
        }),
        b"app\0\x03abcshop\0\x2d\0mysql_native_password\0\x04\x01a\x01b".to_vec(),
        payload(|out, sequence| put_auth_switch(out, sequence, b"p", &SCRAMBLE)),
    ];
    fuzz_driver::drive(&corpus, fuzz_handshake);
}
