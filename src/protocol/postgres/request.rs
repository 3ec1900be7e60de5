//! What a client sends after start-up (manual, section 55.7), read and written.

use super::frame::{FrameError, body, c_string, put};

/// A portal or a prepared statement, in Describe and Close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    Statement,
    Portal,
}

/// One complete message, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    Query(&'a [u8]),
    Parse {
        name: &'a [u8],
        sql: &'a [u8],
        /// Count and parameter type OIDs as they stand in the message.
        types: &'a [u8],
    },
    Bind {
        portal: &'a [u8],
        statement: &'a [u8],
        /// Formats, values and result formats, untouched.
        rest: &'a [u8],
    },
    Describe(Object, &'a [u8]),
    Close(Object, &'a [u8]),
    Execute {
        portal: &'a [u8],
    },
    Sync,
    Flush,
    Function,
    CopyData,
    CopyDone,
    CopyFail,
    Terminate,
}

/// Whether a client may send this tag after start-up.
pub fn is_request_tag(tag: u8) -> bool {
    matches!(
        tag,
        b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'S' | b'H' | b'F' | b'd' | b'c' | b'f' | b'X'
    )
}

/// Reads one complete message.
pub fn read(message: &[u8]) -> Result<Request<'_>, FrameError> {
    let tag = message.first().copied().unwrap_or_default();
    let body = body(message);
    Ok(match tag {
        b'Q' => Request::Query(text(body)?),
        b'P' => {
            let (name, rest) = c_string(body)?;
            let (sql, types) = c_string(rest)?;
            Request::Parse { name, sql, types }
        }
        b'B' => {
            let (portal, statement, rest) = bind_head(body)?;
            Request::Bind { portal, statement, rest }
        }
        b'D' => object(body).map(|(object, name)| Request::Describe(object, name))?,
        b'C' => object(body).map(|(object, name)| Request::Close(object, name))?,
        b'E' => Request::Execute { portal: c_string(body)?.0 },
        b'S' => Request::Sync,
        b'H' => Request::Flush,
        b'F' => Request::Function,
        b'd' => Request::CopyData,
        b'c' => Request::CopyDone,
        b'f' => Request::CopyFail,
        b'X' => Request::Terminate,
        other => return Err(FrameError::Tag(other)),
    })
}

/// Portal, statement, and what follows.
pub type BindHead<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Portal, statement and the rest of a Bind's body, which need not be complete.
pub fn bind_head(body: &[u8]) -> Result<BindHead<'_>, FrameError> {
    let (portal, rest) = c_string(body)?;
    let (statement, rest) = c_string(rest)?;
    Ok((portal, statement, rest))
}

/// A body that is one string and nothing more.
fn text(body: &[u8]) -> Result<&[u8], FrameError> {
    match body {
        // An inner NUL ends the string for the server too; more bytes behind it are an error.
        [text @ .., 0] if memchr::memchr(0, text).is_none() => Ok(text),
        _ => Err(FrameError::Body),
    }
}

fn object(body: &[u8]) -> Result<(Object, &[u8]), FrameError> {
    let (&kind, rest) = body.split_first().ok_or(FrameError::Body)?;
    let object = match kind {
        b'S' => Object::Statement,
        b'P' => Object::Portal,
        _ => return Err(FrameError::Body),
    };
    Ok((object, c_string(rest)?.0))
}

pub fn put_query(out: &mut Vec<u8>, sql: &[u8]) {
    put(out, b'Q', |out| {
        out.extend_from_slice(sql);
        out.push(0);
    });
}

/// `types` is the count and the OIDs, as [`Request::Parse`] gives them.
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u8]) {
    put(out, b'P', |out| {
        for part in [name, sql] {
            out.extend_from_slice(part);
            out.push(0);
        }
        out.extend_from_slice(types);
    });
}

/// The first part of a Bind of which `missing` more bytes follow from elsewhere.
pub fn put_bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: &[u8], missing: usize) {
    let at = out.len() + 1;
    put(out, b'B', |out| {
        for part in [portal, statement] {
            out.extend_from_slice(part);
            out.push(0);
        }
        out.extend_from_slice(rest);
    });
    let length = u32::try_from(out.len() - at + missing).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Describe or Close, by its tag, of a portal.
pub fn put_portal(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    put(out, tag, |out| {
        out.push(b'P');
        out.extend_from_slice(name);
        out.push(0);
    });
}

/// Execute of a portal, all rows.
pub fn put_execute(out: &mut Vec<u8>, portal: &[u8]) {
    put(out, b'E', |out| {
        out.extend_from_slice(portal);
        out.extend_from_slice(&[0; 5]);
    });
}

/// Describe (`b'D'`) or Close (`b'C'`) of a prepared statement.
pub fn put_statement(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    put(out, tag, |out| {
        out.push(b'S');
        out.extend_from_slice(name);
        out.push(0);
    });
}

pub const SYNC: &[u8] = b"S\0\0\0\x04";
pub const FLUSH: &[u8] = b"H\0\0\0\x04";
pub const TERMINATE: &[u8] = b"X\0\0\0\x04";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_message() {
        let table: &[(&[u8], Result<Request<'_>, FrameError>)] = &[
            (b"Q\0\0\0\x0dSELECT 1\0", Ok(Request::Query(b"SELECT 1"))),
            (b"Q\0\0\0\x06ab", Err(FrameError::Body)),
            (b"Q\0\0\0\x08a\0b\0", Err(FrameError::Body)),
            (
                b"P\0\0\0\x0an\0q\0\0\0",
                Ok(Request::Parse { name: b"n", sql: b"q", types: b"\0\0" }),
            ),
            (b"B\0\0\0\x08p\0s\0", Ok(Request::Bind { portal: b"p", statement: b"s", rest: b"" })),
            (b"B\0\0\0\x06ps", Err(FrameError::Body)),
            (b"D\0\0\0\x07Ss\0", Ok(Request::Describe(Object::Statement, b"s"))),
            (b"C\0\0\0\x07Pp\0", Ok(Request::Close(Object::Portal, b"p"))),
            (b"C\0\0\0\x07Xp\0", Err(FrameError::Body)),
            (b"E\0\0\0\x09\0\0\0\0\0", Ok(Request::Execute { portal: b"" })),
            (b"S\0\0\0\x04", Ok(Request::Sync)),
            (b"?\0\0\0\x04", Err(FrameError::Tag(b'?'))),
            (b"", Err(FrameError::Tag(0))),
        ];
        for (bytes, expected) in table {
            assert_eq!(&read(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        let mut out = vec![];
        put_parse(&mut out, b"n", b"SELECT $1", b"\0\x01\0\0\0\x17");
        assert_eq!(
            read(&out),
            Ok(Request::Parse { name: b"n", sql: b"SELECT $1", types: b"\0\x01\0\0\0\x17" })
        );
        out.clear();
        put_bind(&mut out, b"", b"s", b"xy", 10);
        assert_eq!(out[1..5], 19u32.to_be_bytes());
        out.clear();
        put_statement(&mut out, b'C', b"s");
        assert_eq!(read(&out), Ok(Request::Close(Object::Statement, b"s")));
    }
}
