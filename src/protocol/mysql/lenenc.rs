//! The fields of packets: little-endian integers, length-encoded integers and strings ("Basic
//! Data Types").

use super::PacketError;

/// Reads fields from the front of a payload.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Reader<'a> {
        Reader { rest: payload }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], PacketError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(PacketError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(PacketError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, PacketError> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, PacketError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, PacketError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length-encoded integer. The first bytes 0xFB (NULL) and 0xFF (an error) are none.
    pub fn int(&mut self) -> Result<u64, PacketError> {
        Ok(match self.u8()? {
            small @ ..=0xFA => small.into(),
            0xFC => self.u16()?.into(),
            0xFD => {
                let [a, b, c] = self.array()?;
                u32::from_le_bytes([a, b, c, 0]).into()
            }
            0xFE => u64::from_le_bytes(self.array()?),
            0xFB | 0xFF => return Err(PacketError::Shape),
        })
    }

    /// A length-encoded string.
    pub fn bytes(&mut self) -> Result<&'a [u8], PacketError> {
        let length = usize::try_from(self.int()?).map_err(|_| PacketError::Short)?;
        self.take(length)
    }

    /// A string that ends with a zero byte.
    pub fn c_string(&mut self) -> Result<&'a [u8], PacketError> {
        let end = memchr::memchr(0, self.rest).ok_or(PacketError::Short)?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }

    /// Says that nothing may be left.
    pub fn end(&self) -> Result<(), PacketError> {
        if self.rest.is_empty() { Ok(()) } else { Err(PacketError::Long) }
    }
}

/// Appends a length-encoded integer.
pub fn put_int(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        ..=0xFA => out.push(bytes[0]),
        0xFB..=0xFFFF => {
            out.push(0xFC);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(0xFD);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(0xFE);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Appends a length-encoded string.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_int(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends bytes and their terminator. A zero byte inside would end the field early and let the
/// rest pass for another field, so it is left out.
pub fn put_c_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().filter(|byte| **byte != 0));
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_take_as_many_bytes_as_they_need() {
        let cases: &[(u64, &[u8])] = &[
            (0, b"\0"),
            (250, b"\xfa"),
            (251, b"\xfc\xfb\0"),
            (0xFFFF, b"\xfc\xff\xff"),
            (0x1_0000, b"\xfd\0\0\x01"),
            (0xFF_FFFF, b"\xfd\xff\xff\xff"),
            (0x100_0000, b"\xfe\0\0\0\x01\0\0\0\0"),
            (u64::MAX, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff"),
        ];
        for (value, bytes) in cases {
            let mut out = Vec::new();
            put_int(&mut out, *value);
            assert_eq!(out, *bytes);
            let mut reader = Reader::new(bytes);
            assert_eq!((reader.int(), reader.end()), (Ok(*value), Ok(())));
        }
    }

    #[test]
    fn what_is_no_field_is_refused() {
        let int = |bytes| Reader::new(bytes).int();
        assert_eq!(int(b""), Err(PacketError::Short));
        assert_eq!(int(b"\xfc\0"), Err(PacketError::Short));
        assert_eq!(int(b"\xfb"), Err(PacketError::Shape));
        assert_eq!(int(b"\xff"), Err(PacketError::Shape));
        assert_eq!(Reader::new(b"\x02a").bytes(), Err(PacketError::Short));
        let huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xffa";
        assert_eq!(Reader::new(huge).bytes(), Err(PacketError::Short));
        assert_eq!(Reader::new(b"ab").c_string(), Err(PacketError::Short));
        assert_eq!(Reader::new(b"ab\0c").c_string(), Ok(&b"ab"[..]));
        assert_eq!(Reader::new(b"a").end(), Err(PacketError::Long));
    }

    #[test]
    fn a_zero_byte_does_not_end_a_string_early() {
        let mut out = Vec::new();
        put_c_string(&mut out, b"a\0b");
        assert_eq!(out, b"ab\0");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value: u64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_int(&mut out, value);
            put_bytes(&mut out, &bytes);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.int(), Ok(value));
            prop_assert_eq!(reader.bytes(), Ok(&bytes[..]));
            prop_assert!(reader.is_empty());
        }
    }
}
