//! COM_STMT_EXECUTE, MariaDB's COM_STMT_BULK_EXECUTE, and the query attributes that clients of
//! MySQL may put before a text or behind an execution's parameters ("COM_STMT_EXECUTE",
//! "COM_QUERY" and `CLIENT_QUERY_ATTRIBUTES` of MySQL's source documentation; MariaDB's knowledge
//! base, "COM_STMT_BULK_EXECUTE").

use super::PacketError;
use super::capabilities::Capabilities;
use super::command::{QUERY, STMT_BULK_EXECUTE, STMT_EXECUTE};
use super::lenenc::{Reader, put_int};

/// COM_STMT_EXECUTE's flags for cursors: read-only, for update, scrollable.
const CURSOR_TYPES: u16 = 1 | 2 | 4;

/// COM_STMT_EXECUTE's flag: the number of parameters is given, as there are attributes.
const PARAMETER_COUNT_AVAILABLE: u16 = 8;

/// COM_STMT_BULK_EXECUTE's flag: the parameters' types are given.
const BULK_TYPES: u16 = 128;

/// COM_STMT_EXECUTE's number of iterations; there has never been another.
const ITERATIONS: u32 = 1;

/// Attributes of one text that are read.
const ATTRIBUTES_MAX: u64 = 64;

/// An execution of a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// For an array of values: MariaDB's own command.
    pub bulk: bool,
    pub id: u32,
    /// Which cursor, and what is given of the parameters.
    pub flags: u16,
    /// The client has agreed on query attributes.
    pub attributes: bool,
    /// NULL bitmap, types and values; their shape depends on the number of parameters.
    pub rest: &'a [u8],
}

/// The fields of COM_STMT_EXECUTE behind its flags.
struct Fields<'a> {
    count: u64,
    nulls: &'a [u8],
    types: Option<&'a [u8]>,
    values: Reader<'a>,
}

impl<'a> Execute<'a> {
    pub fn parse(payload: &'a [u8], client: Capabilities) -> Result<Execute<'a>, PacketError> {
        let mut reader = Reader::new(payload);
        let bulk = reader.u8()? == STMT_BULK_EXECUTE;
        let id = reader.u32()?;
        let flags = if bulk { reader.u16()? } else { reader.u8()?.into() };
        if !bulk {
            reader.u32()?;
        }
        let attributes = !bulk && client.has(Capabilities::QUERY_ATTRIBUTES);
        Ok(Execute { bulk, id, flags, attributes, rest: reader.rest() })
    }

    /// Whether rows are to be fetched from a cursor.
    pub fn opens_cursor(&self) -> bool {
        !self.bulk && self.flags & CURSOR_TYPES != 0
    }

    /// Whether the number of parameters is given: there may be more than the statement has.
    fn is_counted(&self, parameters: u16) -> bool {
        self.attributes && (parameters > 0 || self.flags & PARAMETER_COUNT_AVAILABLE != 0)
    }

    /// `None`: there are no parameters.
    fn fields(&self, parameters: u16) -> Result<Option<Fields<'a>>, PacketError> {
        let mut reader = Reader::new(self.rest);
        let count = if self.is_counted(parameters) { reader.int()? } else { u64::from(parameters) };
        if count == 0 {
            return Ok(None);
        }
        let nulls = usize::try_from(count.div_ceil(8)).map_err(|_| PacketError::Short)?;
        let nulls = reader.take(nulls)?;
        let given = reader.u8()? != 0;
        let types = if given { Some(self.skip_types(&mut reader, count)?) } else { None };
        Ok(Some(Fields { count, nulls, types, values: reader }))
    }

    /// Two bytes each, and a name where there may be attributes.
    fn skip_types(&self, reader: &mut Reader<'a>, count: u64) -> Result<&'a [u8], PacketError> {
        let types = reader.clone().rest();
        for _ in 0..count {
            reader.take(2)?;
            if self.attributes {
                reader.bytes()?;
            }
        }
        Ok(&types[..types.len() - reader.left()])
    }

    /// The types of the parameters. `None`: the client sends none and means those of the last
    /// execution.
    pub fn types(&self, parameters: u16) -> Result<Option<&'a [u8]>, PacketError> {
        if !self.bulk {
            return Ok(self.fields(parameters)?.and_then(|fields| fields.types));
        }
        let given = self.flags & BULK_TYPES != 0;
        given.then(|| Reader::new(self.rest).take(usize::from(parameters) * 2)).transpose()
    }

    /// Appends the command with these types put in, for a connection that has not seen them: the
    /// client has sent them before.
    pub fn put_with_types(
        &self,
        out: &mut Vec<u8>,
        id: u32,
        parameters: u16,
        types: &[u8],
    ) -> Result<(), PacketError> {
        if self.types(parameters)?.is_some() {
            return Err(PacketError::Shape);
        }
        if self.bulk {
            out.push(STMT_BULK_EXECUTE);
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&(self.flags | BULK_TYPES).to_le_bytes());
            out.extend_from_slice(types);
            out.extend_from_slice(self.rest);
            return Ok(());
        }
        let mut fields = self.fields(parameters)?.ok_or(PacketError::Shape)?;
        out.push(STMT_EXECUTE);
        out.extend_from_slice(&id.to_le_bytes());
        out.push(self.flags as u8);
        out.extend_from_slice(&ITERATIONS.to_le_bytes());
        if self.is_counted(parameters) {
            put_int(out, fields.count);
        }
        out.extend_from_slice(fields.nulls);
        out.push(1);
        out.extend_from_slice(types);
        out.extend_from_slice(fields.values.rest());
        Ok(())
    }

    /// The attributes that stand behind so many parameters; none where they cannot be read.
    pub fn attributes(&self, parameters: u16) -> QueryAttributes<'a> {
        let found = || {
            let fields = self.fields(parameters).ok()??;
            let names = fields.types?;
            let Fields { count, nulls, values, .. } = fields;
            Some(QueryAttributes { count, nulls, names, values, skip: parameters.into() })
        };
        if self.attributes { found().unwrap_or_default() } else { QueryAttributes::default() }
    }
}

/// Names and values that a client sends along with a text.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueryAttributes<'a> {
    count: u64,
    nulls: &'a [u8],
    /// Types and names.
    names: &'a [u8],
    values: Reader<'a>,
    /// So many of them are a statement's parameters.
    skip: u64,
}

impl<'a> QueryAttributes<'a> {
    /// Those before the text of a COM_QUERY, whose first byte is read already; then the text.
    pub fn before(rest: &'a [u8]) -> Result<(QueryAttributes<'a>, &'a [u8]), PacketError> {
        let mut reader = Reader::new(rest);
        let count = reader.int()?;
        // How many sets of them: always one.
        reader.int()?;
        if count == 0 {
            return Ok((QueryAttributes::default(), reader.rest()));
        }
        let nulls = usize::try_from(count.div_ceil(8)).map_err(|_| PacketError::Short)?;
        let nulls = reader.take(nulls)?;
        if reader.u8()? != 1 {
            return Err(PacketError::Shape);
        }
        let names = reader.clone().rest();
        for _ in 0..count {
            reader.take(2)?;
            reader.bytes()?;
        }
        let (values, mut kinds) = (reader, Reader::new(names));
        for number in 0..count {
            let [kind, _] = kinds.array()?;
            kinds.bytes()?;
            if !is_null(nulls, number) {
                take_value(&mut reader, kind)?;
            }
        }
        let found = QueryAttributes { count, nulls, names, values, skip: 0 };
        Ok((found, reader.rest()))
    }

    /// Names and values of those that are texts.
    pub fn texts(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let QueryAttributes { count, nulls, names, mut values, skip } = self;
        let mut names = Reader::new(names);
        (0..count.min(skip.saturating_add(ATTRIBUTES_MAX)))
            .map_while(move |number| {
                let [kind, _] = names.array().ok()?;
                let name = names.bytes().ok()?;
                let value = match is_null(nulls, number) {
                    true => None,
                    false => take_value(&mut values, kind).ok()?,
                };
                Some((number >= skip).then_some(name).zip(value))
            })
            .flatten()
    }
}

fn is_null(nulls: &[u8], number: u64) -> bool {
    let byte = usize::try_from(number / 8).ok().and_then(|at| nulls.get(at));
    byte.is_some_and(|byte| byte >> (number % 8) & 1 == 1)
}

/// Passes over a value; gives it if it is a text ("Binary Protocol Value", `enum_field_types`).
fn take_value<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<Option<&'a [u8]>, PacketError> {
    let fixed = match kind {
        6 => 0,
        1 => 1,
        2 | 13 => 2,
        3 | 4 | 9 => 4,
        5 | 8 => 8,
        7 | 10 | 11 | 12 => reader.u8()?.into(),
        _ => return reader.bytes().map(Some),
    };
    reader.take(fixed).map(|_| None)
}

/// Appends a COM_QUERY of the proxy's own, on a connection that was opened with `agreed`.
pub fn put_query(out: &mut Vec<u8>, agreed: Capabilities, sql: &str) {
    out.push(QUERY);
    if agreed.has(Capabilities::QUERY_ATTRIBUTES) {
        // No attributes, in one set.
        out.extend_from_slice(&[0, 1]);
    }
    out.extend_from_slice(sql.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn execute(rest: &[u8]) -> Execute<'_> {
        Execute { bulk: false, id: 1, flags: 0, attributes: false, rest }
    }

    #[test]
    fn types_are_found_and_put_in() {
        let with = execute(b"\0\x01\x03\0\xfd\0\x2a\0\0\0\x01x");
        let without = execute(b"\0\0\x2a\0\0\0\x01x");
        assert_eq!(with.types(2), Ok(Some(&b"\x03\0\xfd\0"[..])));
        assert_eq!(without.types(2), Ok(None));
        assert_eq!(with.types(0), Ok(None));
        assert_eq!(execute(b"\0\x01\x03").types(2), Err(PacketError::Short));
        let mut out = Vec::new();
        without.put_with_types(&mut out, 9, 2, b"\x03\0\xfd\0").unwrap();
        let again = Execute::parse(&out, Capabilities::NONE);
        assert_eq!(again, Ok(Execute { id: 9, ..with }));
        assert!(with.put_with_types(&mut out, 9, 2, b"").is_err());
    }

    #[test]
    fn types_of_arrays_are_found_and_put_in() {
        let payload = b"\xfa\x01\0\0\0\xc0\0\x03\0\xfd\0\0\x07\0\0\0\0\x01x";
        let with = Execute::parse(payload, Capabilities::QUERY_ATTRIBUTES).unwrap();
        assert_eq!(with.types(2), Ok(Some(&b"\x03\0\xfd\0"[..])));
        let without = Execute { flags: 0x40, rest: &with.rest[4..], ..with };
        assert_eq!(without.types(2), Ok(None));
        let mut out = Vec::new();
        without.put_with_types(&mut out, 1, 2, b"\x03\0\xfd\0").unwrap();
        assert_eq!(out, payload);
    }

    /// A statement with one parameter, 42, and the attributes a = 'x' and b = NULL.
    const COUNTED: &[u8] = b"\x03\x04\x01\x03\0\0\xfe\0\x01a\x06\0\x01b\x2a\0\0\0\x01x";

    #[test]
    fn attributes_stand_behind_parameters() {
        let with = Execute { attributes: true, flags: 8, ..execute(COUNTED) };
        let types = &b"\x03\0\0\xfe\0\x01a\x06\0\x01b"[..];
        assert_eq!(with.types(1), Ok(Some(types)));
        let texts: Vec<_> = with.attributes(1).texts().collect();
        assert_eq!(texts, [(&b"a"[..], &b"x"[..])]);
        let without = Execute { rest: b"\x03\x04\0\x2a\0\0\0\x01x", ..with };
        let mut out = Vec::new();
        without.put_with_types(&mut out, 1, 1, types).unwrap();
        assert_eq!(Execute::parse(&out, Capabilities::QUERY_ATTRIBUTES), Ok(with));
        // Without any, the number is given all the same.
        let one = Execute { rest: b"\x01\0\x01\x03\0\0\x2a\0\0\0", ..with };
        assert_eq!(one.types(1), Ok(Some(&b"\x03\0\0"[..])));
        assert_eq!(one.attributes(1).texts().count(), 0);
        let none = Execute { flags: 0, rest: b"", ..with };
        assert_eq!((none.types(0), none.attributes(0).texts().count()), (Ok(None), 0));
    }

    #[test]
    fn attributes_stand_before_texts() {
        let (none, text) = QueryAttributes::before(b"\0\x01SELECT 1").unwrap();
        assert_eq!((none.texts().count(), text), (0, &b"SELECT 1"[..]));
        let bytes = b"\x03\x01\x02\x01\xfe\0\x01a\x06\0\x01b\x08\0\x01c\x01x\x07\0\0\0\0\0\0\0DO 1";
        let (some, text) = QueryAttributes::before(bytes).unwrap();
        let texts: Vec<_> = some.texts().collect();
        assert_eq!((texts, text), (vec![(&b"a"[..], &b"x"[..])], &b"DO 1"[..]));
        for end in 0..bytes.len() - 4 {
            assert!(QueryAttributes::before(&bytes[..end]).is_err(), "{end}");
        }
    }
}
