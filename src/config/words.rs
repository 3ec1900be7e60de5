//! The words that the file uses for the enums of the checked configuration.

use super::{
    AuthMethod, Balance, ClientTlsMode, Coordination, Discovery, Engine, FailoverMode, LogFormat,
    OnLag, PoolMode, Quorum, ServerTlsMode, Switch,
};
use crate::sql::Consistency;

/// An enum that the file writes as one word.
pub trait Word: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
    }

    /// The word for this value.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }
}

/// The words of an enum, for the table of keys.
pub(super) fn words<T: Word>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(name, _)| *name).collect()
}

impl Word for ClientTlsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", ClientTlsMode::Disable),
        ("allow", ClientTlsMode::Allow),
        ("require", ClientTlsMode::Require),
        ("verify-ca", ClientTlsMode::VerifyCa),
        ("verify-full", ClientTlsMode::VerifyFull),
    ];
}

impl Word for ServerTlsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", ServerTlsMode::Disable),
        ("prefer", ServerTlsMode::Prefer),
        ("require", ServerTlsMode::Require),
        ("verify-ca", ServerTlsMode::VerifyCa),
        ("verify-full", ServerTlsMode::VerifyFull),
    ];
}

impl Word for AuthMethod {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("scram-sha-256", AuthMethod::ScramSha256),
        ("md5", AuthMethod::Md5),
        ("password", AuthMethod::Password),
        ("cert", AuthMethod::Cert),
        ("trust", AuthMethod::Trust),
    ];
}

impl Word for Engine {
    const WORDS: &'static [(&'static str, Self)] =
        &[("postgres", Engine::Postgres), ("mysql", Engine::Mysql), ("mariadb", Engine::Mariadb)];
}

impl Word for PoolMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("transaction", PoolMode::Transaction), ("session", PoolMode::Session)];
}

impl Word for Consistency {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("eventual", Consistency::Eventual),
        ("bounded", Consistency::Bounded),
        ("session", Consistency::Session),
        ("strong", Consistency::Strong),
    ];
}

impl Word for Balance {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("least_lag", Balance::LeastLag),
        ("least_connections", Balance::LeastConnections),
        ("latency", Balance::Latency),
        ("weighted", Balance::Weighted),
    ];
}

impl Word for OnLag {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("primary", OnLag::Primary),
        ("wait", OnLag::Wait),
        ("error", OnLag::Error),
        ("stale", OnLag::Stale),
    ];
}

impl Word for FailoverMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("observe", FailoverMode::Observe), ("promote", FailoverMode::Promote)];
}

impl Word for Quorum {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Quorum::Off), ("majority", Quorum::Majority)];
}

impl Word for Discovery {
    const WORDS: &'static [(&'static str, Self)] =
        &[("static", Discovery::Static), ("patroni", Discovery::Patroni)];
}

impl Word for Switch {
    const WORDS: &'static [(&'static str, Self)] = &[("off", Switch::Off), ("on", Switch::On)];
}

impl Word for Coordination {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Coordination::None), ("etcd", Coordination::Etcd)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}
