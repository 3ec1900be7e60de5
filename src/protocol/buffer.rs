//! The buffer that streams read into and write from.

/// Bytes between a reader that appends and a writer that consumes. The memory behind it is
/// initialised once, so that sockets can read into it without unsafe code, and is kept when the
/// buffer goes back to its worker's pool.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub fn with_capacity(capacity: usize) -> Buffer {
        Buffer { bytes: vec![0; capacity], start: 0, end: 0 }
    }

    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Forgets all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start + count);
    }

    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Room of at least `room` bytes behind the filled part, to read into. Moves the bytes to the
    /// front or grows where that is needed.
    pub fn spare(&mut self, room: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < room {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.bytes.len() - self.end < room {
                let grown = (self.end + room).max(self.bytes.len() * 2);
                self.bytes.resize(grown, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// Whether `spare` could give `room` bytes without growing.
    pub fn has_room(&self, room: usize) -> bool {
        self.bytes.len() - self.len() >= room
    }

    /// Counts `count` bytes, written into what `spare` gave, as filled.
    pub fn advance(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    pub fn extend(&mut self, bytes: &[u8]) {
        self.spare(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.advance(bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::Buffer;

    #[test]
    fn keeps_order_over_growth_and_compaction() {
        let mut buffer = Buffer::with_capacity(4);
        buffer.extend(b"abcd");
        buffer.consume(2);
        buffer.extend(b"ef");
        assert_eq!((buffer.filled(), buffer.capacity()), (&b"cdef"[..], 4));
        buffer.extend(b"ghij");
        assert_eq!(buffer.filled(), b"cdefghij");
        buffer.truncate(3);
        assert_eq!(buffer.filled(), b"cde");
        buffer.consume(9);
        assert!(buffer.is_empty() && buffer.has_room(buffer.capacity()));
    }
}
