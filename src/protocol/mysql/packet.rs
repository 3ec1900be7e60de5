//! Packets: a length of three bytes, a sequence id, and the payload. A payload of 2^24-1 bytes or
//! more goes on in the next packet ("MySQL Packets").

/// Length and sequence id.
pub const HEAD_BYTES: usize = 4;

/// A packet with so many bytes is followed by the rest of its payload, even if that is empty.
pub const PAYLOAD_BYTES_MAX: usize = 0xFF_FFFF;

/// Start of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Without the head itself.
    pub payload: usize,
    pub sequence: u8,
}

impl Head {
    /// The whole packet.
    pub fn bytes(self) -> usize {
        HEAD_BYTES + self.payload
    }

    /// Whether the next packet goes on with this one's payload.
    pub fn is_continued(self) -> bool {
        self.payload == PAYLOAD_BYTES_MAX
    }
}

/// The head of the first packet, or `None` while fewer than four bytes are there.
#[inline]
pub fn head(bytes: &[u8]) -> Option<Head> {
    let &[a, b, c, sequence] = bytes.first_chunk::<HEAD_BYTES>()?;
    Some(Head { payload: u32::from_le_bytes([a, b, c, 0]) as usize, sequence })
}

/// The first packet, and the bytes after it. `None` while it is not complete.
pub fn split(bytes: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let head = head(bytes)?;
    let (packet, rest) = bytes.split_at_checked(head.bytes())?;
    Some((head, &packet[HEAD_BYTES..], rest))
}

/// Appends a payload that `fill` writes, in as many packets as it takes. `sequence` is the first
/// one's id, and becomes that of the packet to follow.
pub fn put(out: &mut Vec<u8>, sequence: &mut u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut at = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    fill(out);
    loop {
        let left = out.len() - at - HEAD_BYTES;
        put_head(&mut out[at..], left.min(PAYLOAD_BYTES_MAX), *sequence);
        *sequence = sequence.wrapping_add(1);
        if left < PAYLOAD_BYTES_MAX {
            return;
        }
        at += HEAD_BYTES + PAYLOAD_BYTES_MAX;
        out.splice(at..at, [0; HEAD_BYTES]);
    }
}

/// Writes a head over the first bytes; the caller knows that they are there.
fn put_head(bytes: &mut [u8], payload: usize, sequence: u8) {
    let length = (payload as u32).to_le_bytes();
    bytes[..HEAD_BYTES].copy_from_slice(&[length[0], length[1], length[2], sequence]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        assert_eq!(head(b"\x01\0\0"), None);
        assert_eq!(head(b"\x01\x02\0\x07"), Some(Head { payload: 513, sequence: 7 }));
        assert_eq!(
            split(b"\x01\0\0\x07ab"),
            Some((Head { payload: 1, sequence: 7 }, &b"a"[..], &b"b"[..]))
        );
        assert_eq!(split(b"\x02\0\0\x07a"), None);
    }

    #[test]
    fn long_payloads_go_on_in_the_next_packet() {
        let max = PAYLOAD_BYTES_MAX;
        let cases: &[(usize, &[usize])] = &[
            (0, &[0]),
            (5, &[5]),
            (max - 1, &[max - 1]),
            (max, &[max, 0]),
            (max + 1, &[max, 1]),
            (2 * max, &[max, max, 0]),
        ];
        for (length, packets) in cases {
            let (mut out, mut sequence) = (vec![9], 254);
            put(&mut out, &mut sequence, |out| out.resize(out.len() + length, b'x'));
            let mut rest = &out[1..];
            let mut expected_sequence = 254_u8;
            for payload in *packets {
                let (head, body, after) = split(rest).unwrap();
                assert_eq!(head, Head { payload: *payload, sequence: expected_sequence });
                assert!(body.iter().all(|byte| *byte == b'x'));
                expected_sequence = expected_sequence.wrapping_add(1);
                rest = after;
            }
            assert!(rest.is_empty(), "{length}");
            assert_eq!(sequence, expected_sequence);
        }
    }
}
