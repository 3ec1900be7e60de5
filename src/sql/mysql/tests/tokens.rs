//! Where the lexer ends tokens, and which executable comments it reads.

use crate::sql::lex::{Kind, Kind::*};
use crate::sql::mysql::lex::Lexer;
use crate::sql::mysql::{Engine, Reading, is_readable_charset};

fn tokens<'a>(text: &'a str, reading: Reading, versions: &[u32]) -> Vec<(Kind, &'a str)> {
    Lexer::executing(text.as_bytes(), reading, versions)
        .map(|token| (token.kind, &text[token.start..token.end]))
        .collect()
}

const MYSQL: Reading = Reading::new(Engine::MySql);
const MARIADB: Reading = Reading::new(Engine::MariaDb);

#[test]
fn tokens_end_where_the_servers_end_them() {
    let cases: &[(&str, &[(Kind, &str)])] = &[
        ("a''b", &[(Word, "a"), (Text, "''"), (Word, "b")]),
        (r"'a\'b' c", &[(Text, r"'a\'b'"), (Word, "c")]),
        (r#""a\"b""c""#, &[(Text, r#""a\"b""c""#)]),
        ("`a``b\\`c", &[(Quoted, "`a``b\\`"), (Word, "c")]),
        ("n'a'x'41'b'01'", &[(Text, "n'a'"), (Text, "x'41'"), (Text, "b'01'")]),
        ("_utf8mb4'a'", &[(Word, "_utf8mb4"), (Text, "'a'")]),
        (
            "0x4f 0b01 0X1 0b12",
            &[(Number, "0x4f"), (Number, "0b01"), (Word, "0X1"), (Word, "0b12")],
        ),
        (
            "1a 1e5 1e 1.5e-3 .5",
            &[(Word, "1a"), (Number, "1e5"), (Word, "1e"), (Number, "1.5e-3"), (Number, ".5")],
        ),
        (
            "t.1a t.5",
            &[(Word, "t"), (Mark, "."), (Word, "1a"), (Word, "t"), (Mark, "."), (Word, "5")],
        ),
        ("5--1", &[(Number, "5"), (Operator, "-"), (Operator, "-"), (Number, "1")]),
        ("5-- 1\n6#7\n8", &[(Number, "5"), (Number, "6"), (Number, "8")]),
        (
            "a<=>b->>c->d:=e",
            &[
                (Word, "a"),
                (Operator, "<=>"),
                (Word, "b"),
                (Operator, "->>"),
                (Word, "c"),
                (Operator, "->"),
                (Word, "d"),
                (Mark, ":="),
                (Word, "e"),
            ],
        ),
        (
            "@a @`b c` @'d' @e.f",
            &[
                (UserVariable, "@a"),
                (UserVariable, "@`b c`"),
                (UserVariable, "@'d'"),
                (UserVariable, "@e.f"),
            ],
        ),
        (
            "@@a @@global.b @@session.`c`",
            &[
                (SystemVariable, "@@a"),
                (SystemVariable, "@@global.b"),
                (SystemVariable, "@@session.`c`"),
            ],
        ),
        ("@ a", &[(Other, "@"), (Word, "a")]),
        ("a/* ' */b/**/c", &[(Word, "a"), (Word, "b"), (Word, "c")]),
        ("/* /* */ a", &[(Word, "a")]),
        ("a/* b", &[(Word, "a"), (Broken, "/* b")]),
        ("'a", &[(Broken, "'a")]),
        ("a # b\0c\nd", &[(Word, "a"), (Broken, "# b\0c\nd")]),
        ("é$1?", &[(Word, "é$1"), (Parameter, "?")]),
        ("\\N{", &[(Other, "\\"), (Word, "N"), (Other, "{")]),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text, MYSQL, &[]), *expected, "{text}");
    }
    let other = MYSQL.with_sql_mode("ANSI_QUOTES,NO_BACKSLASH_ESCAPES");
    assert_eq!(tokens(r#""a\" 'b\'"#, other, &[]), [(Quoted, r#""a\""#), (Text, r"'b\'")]);
}

#[test]
fn executable_comments_are_read_as_the_server_would() {
    let words = |text: &str, reading, versions: &[u32]| -> Vec<String> {
        tokens(text, reading, versions).iter().map(|(_, word)| (*word).to_owned()).collect()
    };
    for (text, reading, versions, expected) in [
        ("a /*! b */ c", MYSQL, &[][..], "a b c"),
        ("a /*!40101 b */ c", MARIADB, &[], "a b c"),
        ("a /*!123 b */", MYSQL, &[], "a 123 b"),
        ("a /*!80000 b */", MYSQL, &[], "a b"),
        ("a /*!80000 b */", MARIADB, &[], "a"),
        ("a /*!80100 b */ c", MYSQL, &[], "a c"),
        ("a /*!80100 b */ c", MYSQL, &[80_100], "a b c"),
        ("a /*M! b */", MYSQL, &[], "a"),
        ("a /*M! b */", MARIADB, &[], "a b"),
        ("a /*M!100500 b */", MARIADB, &[100_500], "a b"),
        ("a /*!80100 '*/' */", MYSQL, &[80_100], "a '*/'"),
        ("a /*!80100 '*/ b", MYSQL, &[], "a b"),
    ] {
        assert_eq!(words(text, reading, versions).join(" "), expected, "{text}");
    }
    for text in
        ["/*! a", "/*! /* b */ */", "/*!80100 /* b */ */", "/*!800001 a */", "/*!1234567 */"]
    {
        let last = tokens(text, MYSQL, &[]).pop().map(|(kind, _)| kind);
        assert_eq!(last, Some(Broken), "{text}");
    }
}

#[test]
fn character_sets_that_hide_ascii_in_characters_are_told_apart() {
    for name in ["utf8mb4", "UTF8", "latin1", "ascii", "binary", "ujis", "cp1252x"] {
        assert_eq!(is_readable_charset(name), name != "cp1252x", "{name}");
    }
    for name in ["gbk", "big5", "sjis", "cp932", "gb18030", "swe7", "ucs2", "utf16"] {
        assert!(!is_readable_charset(name), "{name}");
    }
}
