//! A client of MySQL's protocol that hides nothing: it sends commands and keeps every packet of
//! their replies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tiffin::cli::sandbox::servers::Login;
use tiffin::protocol::mysql::capabilities::{Capabilities, Status};
use tiffin::protocol::mysql::handshake::{
    AuthMessage, Greeting, HandshakeResponse, Scramble, switched_scramble,
};
use tiffin::protocol::mysql::lenenc::Reader;
use tiffin::protocol::mysql::{auth, command, packet};

/// A packet as it came: its number and what is in it.
pub struct Packet {
    pub sequence: u8,
    pub payload: Vec<u8>,
    /// The EOF behind the definitions of columns, which only clients without DEPRECATE_EOF get.
    pub ends_definitions: bool,
}

impl Packet {
    fn new(sequence: u8, payload: Vec<u8>) -> Packet {
        Packet { sequence, payload, ends_definitions: false }
    }
}

/// What a client says that it can do, beside what each case adds.
const ALWAYS: [Capabilities; 11] = [
    Capabilities::LONG_PASSWORD,
    Capabilities::LONG_FLAG,
    Capabilities::CONNECT_WITH_DB,
    Capabilities::PROTOCOL_41,
    Capabilities::TRANSACTIONS,
    Capabilities::SECURE_CONNECTION,
    Capabilities::MULTI_STATEMENTS,
    Capabilities::MULTI_RESULTS,
    Capabilities::PS_MULTI_RESULTS,
    Capabilities::PLUGIN_AUTH,
    Capabilities::LOCAL_FILES,
];
/// utf8mb4_general_ci, which both engines know.
const COLLATION: u8 = 45;
/// Longer than any statement of the cases takes on a busy machine.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);
const PACKET_BYTES_MAX: u32 = 1 << 24;

pub struct Wire {
    stream: TcpStream,
    deprecates_eof: bool,
    /// By which the other side asked for the last proof.
    plugin: Vec<u8>,
    scramble: Scramble,
}

impl Wire {
    /// Logs in. Without TLS a MySQL server has to know the password already: somebody has logged
    /// in by it since the server started.
    pub fn connect(port: u16, login: &Login, schema: &str, deprecates_eof: bool) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let scramble = Scramble::default();
        let mut wire = Wire { stream, deprecates_eof, plugin: Vec::new(), scramble };
        let first = wire.receive();
        let greeting = Greeting::parse(&first.payload).expect("a greeting");
        (wire.plugin, wire.scramble) = (greeting.plugin.to_vec(), greeting.scramble);
        let eof = if deprecates_eof { Capabilities::DEPRECATE_EOF } else { Capabilities::NONE };
        let capabilities = ALWAYS.into_iter().fold(eof, |all, one| all | one);
        let proof = proof(greeting.plugin, &greeting.scramble, login);
        let response = HandshakeResponse {
            capabilities,
            packet_bytes_max: PACKET_BYTES_MAX,
            collation: COLLATION,
            user: login.user.as_bytes(),
            proof: &proof,
            database: Some(schema.as_bytes()),
            plugin: greeting.plugin,
            attributes: Vec::new(),
            zstd_level: 0,
        };
        let mut out = Vec::new();
        response.put(&mut out, &mut (first.sequence + 1));
        wire.stream.write_all(&out).unwrap();
        let last = wire.finish_login(login);
        let told = String::from_utf8_lossy(&last.payload);
        assert_eq!(last.payload.first(), Some(&0x00), "refused: {told}");
        wire
    }

    /// Waits this long for a packet.
    pub fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// Becomes this user, in this schema; what the other side says of it.
    pub fn change_user(&mut self, login: &Login, schema: &str) -> Packet {
        let proof = proof(&self.plugin, &self.scramble, login);
        let length = u8::try_from(proof.len()).unwrap();
        let mut payload =
            [&[command::CHANGE_USER], login.user.as_bytes(), b"\0", &[length]].concat();
        payload.extend(
            [&proof, schema.as_bytes(), b"\0", &[COLLATION, 0], &self.plugin, b"\0"].concat(),
        );
        self.put(0, &payload);
        self.finish_login(login)
    }

    /// The end of a login: an OK, or an error.
    fn finish_login(&mut self, login: &Login) -> Packet {
        loop {
            let packet = self.receive();
            if matches!(packet.payload.first(), Some(0x00 | 0xff)) {
                return packet;
            }
            match AuthMessage::parse(&packet.payload).expect("a message of the login") {
                AuthMessage::Switch { plugin, data } => {
                    self.scramble = switched_scramble(data).expect("a scramble");
                    self.plugin = plugin.to_vec();
                    let proof = proof(plugin, &self.scramble, login);
                    self.put(packet.sequence + 1, &proof);
                }
                AuthMessage::More([auth::FAST_OK]) => {}
                _ => panic!("the server does not know the password yet"),
            }
        }
    }

    /// Sends a packet of this number.
    pub fn put(&mut self, sequence: u8, payload: &[u8]) {
        let (mut out, mut sequence) = (Vec::new(), sequence);
        packet::put(&mut out, &mut sequence, |out| out.extend_from_slice(payload));
        // If the other side has closed, that is seen when nothing comes.
        let _ = self.stream.write_all(&out);
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet.
    pub fn next(&mut self) -> Packet {
        self.receive()
    }

    /// Says good-bye, and waits until the other side has closed.
    pub fn leave(&mut self) {
        self.put(0, &[command::QUIT]);
        self.read_rest();
    }

    /// Everything until the other side closes, or nothing more comes.
    pub fn read_rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // An end or a reset, both are fine.
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    /// The next packet. If none comes, one that looks like an error and says so.
    fn receive(&mut self) -> Packet {
        let none = || Packet::new(0, b"\xff<nothing came>".to_vec());
        let mut head = [0; packet::HEAD_BYTES];
        if self.stream.read_exact(&mut head).is_err() {
            return none();
        }
        let head = packet::head(&head).expect("a head");
        let mut payload = vec![0; head.payload];
        match self.stream.read_exact(&mut payload) {
            Ok(()) => Packet::new(head.sequence, payload),
            Err(_) => none(),
        }
    }

    /// Sends a command and receives all of its reply. `file` is sent when a file is asked for.
    pub fn run(&mut self, payload: &[u8], file: &[u8]) -> Vec<Packet> {
        self.put(0, payload);
        let mut seen = Vec::new();
        match payload.first().copied().unwrap_or_default() {
            command::STMT_CLOSE | command::STMT_SEND_LONG_DATA | command::QUIT => {}
            command::QUERY | command::STMT_EXECUTE => while self.result(&mut seen, file) {},
            command::STMT_PREPARE => self.prepared(&mut seen),
            command::STMT_FETCH | command::FIELD_LIST => {
                self.rows(&mut seen);
            }
            _ => seen.push(self.receive()),
        }
        seen
    }

    /// One result; whether another one follows.
    fn result(&mut self, seen: &mut Vec<Packet>, file: &[u8]) -> bool {
        let packet = self.receive();
        let (first, payload) = (packet.payload.first().copied(), packet.payload.clone());
        let next = packet.sequence + 1;
        seen.push(packet);
        match first {
            Some(0x00) => return has_more(status_of_ok(&payload)),
            Some(0xff) => return false,
            Some(0xfb) => {
                self.put(next, file);
                if !file.is_empty() {
                    self.put(next + 1, b"");
                }
                return self.result(seen, file);
            }
            _ => {}
        }
        // A packet that is none of these stays as it is, for whoever compares.
        let Ok(columns) = Reader::new(&payload).int() else { return false };
        for _ in 0..columns {
            let definition = self.receive();
            let is_none = definition.payload.starts_with(b"\xff");
            seen.push(definition);
            if is_none {
                return false;
            }
        }
        let mut has_parameters = false;
        if !self.deprecates_eof {
            let mut end = self.receive();
            let Some(Ok(status)) = end.payload.get(3..5).map(<[u8; 2]>::try_from) else {
                seen.push(end);
                return false;
            };
            end.ends_definitions = true;
            let status = Status(u16::from_le_bytes(status));
            // With a cursor there are no rows here.
            seen.push(end);
            if status.has(Status::CURSOR_EXISTS) {
                return false;
            }
            // MySQL forgets to say behind them that an OK follows.
            has_parameters = status.has(Status::PS_OUT_PARAMS);
        }
        self.rows(seen).is_some_and(|status| has_parameters || has_more(status))
    }

    /// Packets to the end of rows; its status, if it is no error.
    fn rows(&mut self, seen: &mut Vec<Packet>) -> Option<Status> {
        loop {
            let packet = self.receive();
            let payload = packet.payload.clone();
            seen.push(packet);
            match payload.first() {
                Some(0xff) => return None,
                Some(0xfe) if payload.len() == 5 => {
                    return Some(Status(u16::from_le_bytes([payload[3], payload[4]])));
                }
                Some(0xfe) if self.deprecates_eof => return Some(status_of_ok(&payload)),
                _ => {}
            }
        }
    }

    fn prepared(&mut self, seen: &mut Vec<Packet>) {
        let packet = self.receive();
        let payload = packet.payload.clone();
        seen.push(packet);
        if payload.first() != Some(&0x00) {
            return;
        }
        let columns = u16::from_le_bytes([payload[5], payload[6]]);
        let parameters = u16::from_le_bytes([payload[7], payload[8]]);
        for count in [parameters, columns].into_iter().filter(|count| *count > 0) {
            for _ in 0..count {
                seen.push(self.receive());
            }
            if !self.deprecates_eof {
                seen.push(Packet { ends_definitions: true, ..self.receive() });
            }
        }
    }
}

fn has_more(status: Status) -> bool {
    status.has(Status::MORE_RESULTS)
}

fn status_of_ok(payload: &[u8]) -> Status {
    let mut reader = Reader::new(&payload[1..]);
    reader.int().expect("affected rows");
    reader.int().expect("an insert id");
    Status(reader.u16().expect("a status"))
}

fn proof(plugin: &[u8], scramble: &Scramble, login: &Login) -> Vec<u8> {
    let password = login.password.as_bytes();
    match std::str::from_utf8(plugin) {
        Ok(auth::NATIVE) => auth::native_proof(&auth::native_key(password), scramble).to_vec(),
        Ok(auth::CACHING_SHA2) => auth::sha2_proof(password, scramble).to_vec(),
        _ => panic!("{} is not known here", String::from_utf8_lossy(plugin)),
    }
}
