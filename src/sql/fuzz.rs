//! One input of the fuzz target, and of its driver on the stable toolchain.

use super::catalog::{Catalog, FunctionRules};
use super::classifier::{Classifier, Limits};
use super::classify::classify;
use super::dialect::Dialect;
use super::lex::{Kind, Lexer, Token};
use super::mysql;
use super::statement::Effect;

/// Long enough for what a fuzzer makes.
const LIMITS: Limits = Limits { cache_max: 4, parse_bytes_max: 1 << 16 };

/// Classifies the bytes as SQL and checks what must hold of any text. Panics if it does not.
pub fn fuzz_one(bytes: &[u8]) {
    let catalog = Catalog::empty();
    for standard_strings in [true, false] {
        let tokens = Lexer::new(bytes, standard_strings).collect();
        check(bytes, Dialect::Postgres { standard_strings }, &catalog, tokens);
    }
    for engine in [mysql::Engine::MySql, mysql::Engine::MariaDb] {
        let catalog = Catalog::empty_of(engine, FunctionRules::default());
        let plain = mysql::Reading::new(engine);
        for reading in [plain, plain.with_sql_mode("ANSI_QUOTES,NO_BACKSLASH_ESCAPES")] {
            let tokens = mysql::lex::Lexer::executing(bytes, reading, &[]).collect();
            check(bytes, Dialect::MySql(reading), &catalog, tokens);
        }
    }
}

fn check(bytes: &[u8], dialect: Dialect, catalog: &Catalog, tokens: Vec<Token>) {
    let statement = classify(bytes, dialect, catalog, LIMITS.parse_bytes_max);
    let mut classifier = Classifier::new(LIMITS);
    // Read; known by its digest; known by its bytes.
    for _ in 0..3 {
        let cached = classifier.classify(bytes, dialect, catalog);
        assert_eq!(*cached, statement, "the cache changes the class");
    }
    let mut end = 0;
    for token in tokens {
        assert!(token.start >= end && token.end >= token.start, "tokens overlap");
        end = token.end;
        let broken = matches!(token.kind, Kind::Broken);
        assert!(
            !(broken && statement.effect == Effect::Read),
            "a broken text is a read: {:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    assert!(end <= bytes.len());
}
