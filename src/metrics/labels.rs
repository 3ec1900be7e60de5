//! The fixed sets of label values of worker counters. A label never takes a value that a client
//! chose: the number of series is known when the program starts.

macro_rules! label_values {
    ($(#[$about:meta])* pub enum $enum:ident { $($(#[$doc:meta])* $name:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $enum { $($(#[$doc])* $name,)+ }

        impl $enum {
            pub const ALL: &'static [$enum] = &[$($enum::$name,)+];
            pub const COUNT: usize = $enum::ALL.len();

            pub const fn as_str(self) -> &'static str {
                match self { $($enum::$name => $word,)+ }
            }
        }
    };
}

label_values! {
    /// Why a statement that might be a read was not taken for one.
    pub enum UnsafeReason {
        ParseError = "parse_error",
        /// Longer than `limits.parse_bytes_max`.
        TooLarge = "too_large",
        /// Nested deeper than the parser goes.
        TooDeep = "too_deep",
        /// Parsed, with a part that is not on the list of what is known.
        UnknownSyntax = "unknown_syntax",
        UnknownFunction = "unknown_function",
        UnknownRelation = "unknown_relation",
        UnknownType = "unknown_type",
        /// The catalog is not loaded.
        CatalogUnknown = "catalog_unknown",
        /// EXECUTE of a statement that the session did not prepare through the proxy.
        UnknownPrepared = "unknown_prepared",
        /// A reason that this table does not know.
        Other = "other",
    }
}

impl UnsafeReason {
    /// From the classifier's reason code; what is not in the list is `Other`.
    pub fn from_code(code: &str) -> UnsafeReason {
        let known = UnsafeReason::ALL.iter().copied().find(|reason| reason.as_str() == code);
        known.unwrap_or(UnsafeReason::Other)
    }
}

label_values! {
    /// Who made an error that a client received.
    pub enum ErrorOrigin {
        Server = "server",
        Proxy = "proxy",
    }
}

label_values! {
    /// Why a client was not let in.
    pub enum AuthFailure {
        UnknownUser = "unknown_user",
        WrongPassword = "wrong_password",
        UnknownDatabase = "unknown_database",
        /// No certificate, one that does not verify, or one with another name.
        Certificate = "certificate",
        /// The configuration demands TLS and the client does not speak it.
        TlsRequired = "tls_required",
        /// Not within `limits.startup_timeout`.
        Timeout = "timeout",
        /// `auth.query` could not be run.
        QueryFailed = "query_failed",
        /// Messages out of order, bad SCRAM attributes.
        Protocol = "protocol",
    }
}

label_values! {
    /// How a wait at the gate ended.
    pub enum GateOutcome {
        /// A primary was there in time.
        Opened = "opened",
        /// `gate.hold` passed.
        TimedOut = "timed_out",
        /// More than `gate.waiting_max` would have waited.
        Full = "full",
        /// The client went away.
        Abandoned = "abandoned",
    }
}

label_values! {
    /// What became of a commit that was under way when its server was lost.
    pub enum CommitOutcome {
        Committed = "committed",
        /// It is not there, and never will be: the client may try again.
        Absent = "absent",
        /// Nobody can tell.
        Unknown = "unknown",
    }
}

label_values! {
    /// What became of an open transaction whose primary was lost.
    pub enum ReplayOutcome {
        Done = "done",
        /// Something was answered in another way.
        Differs = "differs",
        /// More than is kept, or more on the lost server than can be brought back.
        NotKept = "not_kept",
        TooLong = "too_long",
        NoServer = "no_server",
    }
}

label_values! {
    /// How a read's wait for commits ended that a replica may have shown before the primary does.
    pub enum CommitWait {
        /// All were answered.
        Answered = "answered",
        /// The servers say that the primary shows what the replica has shown.
        Shown = "shown",
        /// Neither within the limit; the read went on.
        GivenUp = "given_up",
    }
}

label_values! {
    /// Why a connection to a server was closed.
    pub enum ServerClosed {
        /// Idle for longer than `pool.idle_timeout`.
        Idle = "idle",
        /// Older than `pool.lifetime_max`.
        Lifetime = "lifetime",
        /// The server closed it, or reading or writing failed.
        Broken = "broken",
        /// Opened under an older epoch: it must never write again.
        Epoch = "epoch",
        /// ALTER ROLE or ALTER DATABASE has set other defaults since it was opened.
        Defaults = "defaults",
        /// Its state could not be cleaned for the next session.
        Dirty = "dirty",
        /// The client went away in the middle of a statement.
        Abandoned = "abandoned",
        /// The node left the configuration, or the program ends.
        Shutdown = "shutdown",
    }
}

/// The words of pins (`sql::Pin::as_str`); the last one takes what is not in the list.
pub const PINS: [&str; 12] = [
    "temporary_table",
    "advisory_lock",
    "listen",
    "hold_cursor",
    "sequence",
    "prepared_statement",
    "setting",
    "variable",
    "table_lock",
    "distributed_transaction",
    "found_rows",
    "unknown",
];

/// Index of a pin's word in [`PINS`].
pub fn pin_index(word: &str) -> usize {
    PINS.iter().position(|pin| *pin == word).unwrap_or(PINS.len() - 1)
}

/// The classes of SQLSTATE as PostgreSQL 17's `src/backend/utils/errcodes.txt` lists them.
const SQLSTATE_CLASSES: [&str; 43] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23",
    "24", "25", "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42",
    "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
];

/// Number of counters for SQLSTATE classes: the known ones and `other`.
pub const SQLSTATE_CLASS_COUNT: usize = SQLSTATE_CLASSES.len() + 1;

/// Index of the counter for an SQLSTATE (only its first two characters count).
pub fn sqlstate_class_index(sqlstate: &[u8]) -> usize {
    let class = sqlstate.get(..2).unwrap_or_default();
    SQLSTATE_CLASSES
        .iter()
        .position(|known| known.as_bytes() == class)
        .unwrap_or(SQLSTATE_CLASSES.len())
}

/// The label of a counter for SQLSTATE classes.
pub fn sqlstate_class_label(index: usize) -> &'static str {
    SQLSTATE_CLASSES.get(index).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstate_classes_are_found_and_unknown_ones_are_other() {
        let cases: &[(&[u8], &str)] = &[
            (b"23505", "23"),
            (b"08006", "08"),
            (b"XX000", "XX"),
            (b"57P01", "57"),
            (b"99999", "other"),
            (b"2", "other"),
            (b"", "other"),
            (b"\xff\xff\xff\xff\xff", "other"),
        ];
        for (sqlstate, class) in cases {
            assert_eq!(sqlstate_class_label(sqlstate_class_index(sqlstate)), *class);
        }
    }

    #[test]
    fn unknown_words_have_a_place() {
        assert_eq!(UnsafeReason::from_code("parse_error"), UnsafeReason::ParseError);
        assert_eq!(UnsafeReason::from_code("never heard of"), UnsafeReason::Other);
        assert_eq!(PINS[pin_index("listen")], "listen");
        assert_eq!(PINS[pin_index("never heard of")], "unknown");
    }

    #[test]
    fn the_page_tells_each_word() {
        let page = include_str!("../../docs/metrics.md");
        let words = (UnsafeReason::ALL.iter().map(|reason| reason.as_str()))
            .chain(ErrorOrigin::ALL.iter().map(|origin| origin.as_str()))
            .chain(AuthFailure::ALL.iter().map(|reason| reason.as_str()))
            .chain(GateOutcome::ALL.iter().map(|outcome| outcome.as_str()))
            .chain(CommitOutcome::ALL.iter().map(|outcome| outcome.as_str()))
            .chain(ReplayOutcome::ALL.iter().map(|outcome| outcome.as_str()))
            .chain(CommitWait::ALL.iter().map(|outcome| outcome.as_str()))
            .chain(ServerClosed::ALL.iter().map(|reason| reason.as_str()))
            .chain(PINS);
        for word in words {
            assert!(page.contains(&format!("`{word}`")), "docs/metrics.md lacks `{word}`");
        }
    }
}
