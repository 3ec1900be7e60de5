//! The packets of a connection's start ("Connection Phase"): the server's greeting, the client's
//! SSLRequest and handshake response, what authentication goes on with, and COM_CHANGE_USER, which
//! begins it again.
//!
//! Only `CLIENT_PROTOCOL_41` is spoken. Everything that is read borrows; the caller has bounded
//! the packet.

use super::PacketError;
use super::capabilities::{Capabilities, Status};
use super::lenenc::{Reader, put_bytes, put_c_string};
use super::packet;

/// What a proof is mixed with. On the wire a zero byte follows.
pub type Scramble = [u8; SCRAMBLE_BYTES];
pub const SCRAMBLE_BYTES: usize = 20;

const VERSION_10: u8 = 10;
/// The part of the scramble that stands before the capabilities.
const SCRAMBLE_FRONT_BYTES: usize = 8;
/// Scramble and zero byte: what the greeting says of their length.
const SCRAMBLE_AND_END_BYTES: u8 = SCRAMBLE_BYTES as u8 + 1;

pub const AUTH_SWITCH: u8 = 0xFE;
pub const AUTH_MORE: u8 = 0x01;

/// An SSLRequest is the front of a handshake response, up to the user's name.
const SSL_REQUEST_BYTES: usize = 32;

/// Attributes of a client that are read; the rest is left out. The server's
/// `performance_schema_session_connect_attrs_size` is 512 bytes by default.
pub const ATTRIBUTES_MAX: usize = 64;

/// The server's first packet ("Protocol::HandshakeV10").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting<'a> {
    pub version: &'a [u8],
    pub connection_id: u32,
    pub scramble: Scramble,
    pub capabilities: Capabilities,
    pub collation: u8,
    pub status: Status,
    pub plugin: &'a [u8],
}

impl<'a> Greeting<'a> {
    pub fn parse(payload: &'a [u8]) -> Result<Greeting<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != VERSION_10 {
            return Err(PacketError::Shape);
        }
        let (version, connection_id) = (reader.c_string()?, reader.u32()?);
        let mut scramble = [0; SCRAMBLE_BYTES];
        scramble[..SCRAMBLE_FRONT_BYTES].copy_from_slice(reader.take(SCRAMBLE_FRONT_BYTES)?);
        reader.u8()?;
        let low = reader.u16()?;
        let (collation, status) = (reader.u8()?, Status(reader.u16()?));
        let high = reader.u16()?;
        let length = reader.u8()?;
        reader.take(6)?;
        let extended = reader.u32()?;
        let mut capabilities = Capabilities(u64::from(low) | u64::from(high) << 16);
        if !capabilities.has(Capabilities::LONG_PASSWORD) {
            capabilities = capabilities | Capabilities(u64::from(extended) << 32);
        }
        // A scramble of another length is of a plugin that nobody here knows.
        if length != SCRAMBLE_AND_END_BYTES {
            return Err(PacketError::Shape);
        }
        scramble[SCRAMBLE_FRONT_BYTES..]
            .copy_from_slice(reader.take(SCRAMBLE_BYTES - SCRAMBLE_FRONT_BYTES)?);
        reader.u8()?;
        // Servers up to 5.5.10 leave the last zero byte out.
        let plugin = reader.rest();
        let plugin = plugin.strip_suffix(b"\0").unwrap_or(plugin);
        Ok(Greeting { version, connection_id, scramble, capabilities, collation, status, plugin })
    }

    pub fn put(&self, out: &mut Vec<u8>, sequence: &mut u8) {
        let flags = self.capabilities.lower().to_le_bytes();
        let (front, back) = self.scramble.split_at(SCRAMBLE_FRONT_BYTES);
        packet::put(out, sequence, |out| {
            out.push(VERSION_10);
            put_c_string(out, self.version);
            out.extend_from_slice(&self.connection_id.to_le_bytes());
            out.extend_from_slice(front);
            out.push(0);
            out.extend_from_slice(&flags[..2]);
            out.push(self.collation);
            out.extend_from_slice(&self.status.0.to_le_bytes());
            out.extend_from_slice(&flags[2..]);
            out.push(SCRAMBLE_AND_END_BYTES);
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&self.capabilities.extended().to_le_bytes());
            out.extend_from_slice(back);
            out.push(0);
            put_c_string(out, self.plugin);
        });
    }

    /// Whether the server is a MariaDB: it says so in its version, which before 11 begins with
    /// `5.5.5-` for the sake of old replicas.
    pub fn is_mariadb(&self) -> bool {
        self.version.windows(7).any(|window| window.eq_ignore_ascii_case(b"MariaDB"))
    }

    /// The version as people know it.
    pub fn shown_version(&self) -> &'a [u8] {
        if !self.is_mariadb() {
            return self.version;
        }
        self.version.strip_prefix(b"5.5.5-").unwrap_or(self.version)
    }
}

/// The client's first packet, if it is none that asks for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeResponse<'a> {
    pub capabilities: Capabilities,
    pub packet_bytes_max: u32,
    pub collation: u8,
    pub user: &'a [u8],
    pub proof: &'a [u8],
    pub database: Option<&'a [u8]>,
    /// Empty: not said.
    pub plugin: &'a [u8],
    pub attributes: Attributes<'a>,
    /// With `ZSTD`.
    pub zstd_level: u8,
}

/// What a client's first packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket<'a> {
    /// It goes on with TLS.
    Ssl(Capabilities),
    Response(HandshakeResponse<'a>),
    /// Without `CLIENT_PROTOCOL_41`.
    TooOld,
}

impl<'a> FirstPacket<'a> {
    pub fn parse(payload: &'a [u8]) -> Result<FirstPacket<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        let low = reader.u16()?;
        if !Capabilities(low.into()).has(Capabilities::PROTOCOL_41) {
            return Ok(FirstPacket::TooOld);
        }
        let high = reader.u16()?;
        let mut capabilities = Capabilities(u64::from(low) | u64::from(high) << 16);
        let packet_bytes_max = reader.u32()?;
        let collation = reader.u8()?;
        reader.take(19)?;
        let extended = reader.u32()?;
        if !capabilities.has(Capabilities::LONG_PASSWORD) {
            capabilities = capabilities | Capabilities(u64::from(extended) << 32);
        }
        if capabilities.has(Capabilities::SSL) && payload.len() == SSL_REQUEST_BYTES {
            return Ok(FirstPacket::Ssl(capabilities));
        }
        let user = reader.c_string()?;
        let proof = read_proof(&mut reader, capabilities)?;
        let database = capabilities.has(Capabilities::CONNECT_WITH_DB);
        let database = database.then(|| reader.c_string()).transpose()?;
        let plugin = match capabilities.has(Capabilities::PLUGIN_AUTH) && !reader.is_empty() {
            true => reader.c_string()?,
            false => b"",
        };
        let attributes = read_attributes(&mut reader, capabilities)?;
        let zstd = capabilities.has(Capabilities::ZSTD) && !reader.is_empty();
        let zstd_level = if zstd { reader.u8()? } else { 0 };
        Ok(FirstPacket::Response(HandshakeResponse {
            capabilities,
            packet_bytes_max,
            collation,
            user,
            proof,
            database: database.filter(|name| !name.is_empty()),
            plugin,
            attributes,
            zstd_level,
        }))
    }
}

fn read_proof<'a>(
    reader: &mut Reader<'a>,
    capabilities: Capabilities,
) -> Result<&'a [u8], PacketError> {
    if capabilities.has(Capabilities::PLUGIN_AUTH_LENENC) {
        reader.bytes()
    } else if capabilities.has(Capabilities::SECURE_CONNECTION) {
        let length = reader.u8()?;
        reader.take(length.into())
    } else {
        reader.c_string()
    }
}

/// Names and values that a client tells of itself.
pub type Attributes<'a> = Vec<(&'a [u8], &'a [u8])>;

fn read_attributes<'a>(
    reader: &mut Reader<'a>,
    capabilities: Capabilities,
) -> Result<Attributes<'a>, PacketError> {
    let mut attributes = Vec::new();
    if capabilities.has(Capabilities::CONNECT_ATTRS) && !reader.is_empty() {
        let mut pairs = Reader::new(reader.bytes()?);
        while !pairs.is_empty() && attributes.len() < ATTRIBUTES_MAX {
            attributes.push((pairs.bytes()?, pairs.bytes()?));
        }
    }
    Ok(attributes)
}

fn put_attributes(out: &mut Vec<u8>, attributes: &[(&[u8], &[u8])]) {
    let mut pairs = Vec::new();
    for (name, value) in attributes {
        put_bytes(&mut pairs, name);
        put_bytes(&mut pairs, value);
    }
    put_bytes(out, &pairs);
}

/// Appends an SSLRequest.
pub fn put_ssl_request(
    out: &mut Vec<u8>,
    sequence: &mut u8,
    capabilities: Capabilities,
    collation: u8,
) {
    packet::put(out, sequence, |out| put_front(out, capabilities, PACKET_BYTES_MAX, collation));
}

/// What is said of the longest packet that will be sent: as much as there can be.
pub const PACKET_BYTES_MAX: u32 = 1 << 30;

fn put_front(out: &mut Vec<u8>, capabilities: Capabilities, packet_max: u32, collation: u8) {
    out.extend_from_slice(&capabilities.lower().to_le_bytes());
    out.extend_from_slice(&packet_max.to_le_bytes());
    out.push(collation);
    out.extend_from_slice(&[0; 19]);
    out.extend_from_slice(&capabilities.extended().to_le_bytes());
}

impl HandshakeResponse<'_> {
    pub fn put(&self, out: &mut Vec<u8>, sequence: &mut u8) {
        let has = |capability| self.capabilities.has(capability);
        packet::put(out, sequence, |out| {
            put_front(out, self.capabilities, self.packet_bytes_max, self.collation);
            put_c_string(out, self.user);
            if has(Capabilities::PLUGIN_AUTH_LENENC) {
                put_bytes(out, self.proof);
            } else if has(Capabilities::SECURE_CONNECTION) {
                out.push(self.proof.len() as u8);
                out.extend_from_slice(self.proof);
            } else {
                put_c_string(out, self.proof);
            }
            if has(Capabilities::CONNECT_WITH_DB) {
                put_c_string(out, self.database.unwrap_or_default());
            }
            if has(Capabilities::PLUGIN_AUTH) {
                put_c_string(out, self.plugin);
            }
            if has(Capabilities::CONNECT_ATTRS) {
                put_attributes(out, &self.attributes);
            }
            if has(Capabilities::ZSTD) {
                out.push(self.zstd_level);
            }
        });
    }
}

/// COM_CHANGE_USER without its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeUser<'a> {
    pub user: &'a [u8],
    pub proof: &'a [u8],
    pub database: Option<&'a [u8]>,
    pub collation: u16,
    pub plugin: &'a [u8],
    pub attributes: Attributes<'a>,
}

impl<'a> ChangeUser<'a> {
    pub fn parse(
        payload: &'a [u8],
        capabilities: Capabilities,
    ) -> Result<ChangeUser<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        let user = reader.c_string()?;
        let length = reader.u8()?;
        let proof = reader.take(length.into())?;
        let database = Some(reader.c_string()?).filter(|name| !name.is_empty());
        let collation = if reader.is_empty() { 0 } else { reader.u16()? };
        let named = capabilities.has(Capabilities::PLUGIN_AUTH) && !reader.is_empty();
        let plugin = if named { reader.c_string()? } else { b"" };
        let attributes = read_attributes(&mut reader, capabilities)?;
        Ok(ChangeUser { user, proof, database, collation, plugin, attributes })
    }
}

/// What a server says while a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMessage<'a> {
    /// Prove it by this plugin. Behind a scramble of 20 bytes a zero byte follows.
    Switch {
        plugin: &'a [u8],
        data: &'a [u8],
    },
    More(&'a [u8]),
    Other,
}

impl<'a> AuthMessage<'a> {
    pub fn parse(payload: &'a [u8]) -> Result<AuthMessage<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        Ok(match reader.u8()? {
            AUTH_SWITCH => {
                let plugin = reader.c_string()?;
                AuthMessage::Switch { plugin, data: reader.rest() }
            }
            AUTH_MORE => AuthMessage::More(reader.rest()),
            _ => AuthMessage::Other,
        })
    }
}

/// The scramble of a switch, for the plugins that have one of 20 bytes.
pub fn switched_scramble(data: &[u8]) -> Option<Scramble> {
    data.strip_suffix(b"\0").unwrap_or(data).try_into().ok()
}

/// Appends an AuthSwitchRequest.
pub fn put_auth_switch(out: &mut Vec<u8>, sequence: &mut u8, plugin: &[u8], scramble: &Scramble) {
    packet::put(out, sequence, |out| {
        out.push(AUTH_SWITCH);
        put_c_string(out, plugin);
        out.extend_from_slice(scramble);
        out.push(0);
    });
}

/// Appends an AuthMoreData.
pub fn put_auth_more(out: &mut Vec<u8>, sequence: &mut u8, data: &[u8]) {
    packet::put(out, sequence, |out| {
        out.push(AUTH_MORE);
        out.extend_from_slice(data);
    });
}

/// Any bytes as each packet of a connection's start: for the fuzzer and its driver.
pub fn fuzz_handshake(bytes: &[u8]) {
    if let Ok(greeting) = Greeting::parse(bytes) {
        let _ = (greeting.is_mariadb(), greeting.shown_version());
        let (mut out, mut sequence) = (Vec::new(), 0);
        greeting.put(&mut out, &mut sequence);
        let again = Greeting::parse(&out[packet::HEAD_BYTES..]).map(|again| again.scramble);
        assert_eq!(again, Ok(greeting.scramble));
    }
    if let Ok(FirstPacket::Response(response)) = FirstPacket::parse(bytes) {
        let (mut out, mut sequence) = (Vec::new(), 0);
        response.put(&mut out, &mut sequence);
        if let Ok(FirstPacket::Response(again)) = FirstPacket::parse(&out[packet::HEAD_BYTES..]) {
            assert_eq!((again.user, again.database), (response.user, response.database));
        }
    }
    let _ = ChangeUser::parse(bytes, Capabilities(u64::MAX));
    let _ = ChangeUser::parse(bytes, Capabilities::NONE);
    let _ = AuthMessage::parse(bytes);
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
