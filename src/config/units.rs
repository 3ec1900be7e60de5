//! Durations, sizes and addresses as they are written in the file.
//!
//! Each function takes the text and gives the value or the sentence that says what is allowed.

use super::{Address, HttpAddress, ListenAddress};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Port in the name of a Unix socket to listen on, where none is given.
const LISTEN_PORT: u16 = 6432;

const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// `100ms`, `2s`, `1.5s`, `5min`, `1h`, `1d`, and `0`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let allowed = "a duration with its unit, as `100ms`, `2s`, `5min` or `1h`";
    scaled(text, DURATION_UNITS).map(Duration::from_millis).map_err(|fault| match fault {
        Fault::NoUnit => format!("`{text}` has no unit; must be {allowed}"),
        Fault::Unit("m") => {
            format!("`m` is not a unit: `min` are minutes, `ms` milliseconds; must be {allowed}")
        }
        Fault::Unit(_) | Fault::Number => format!("`{text}` is not a duration; must be {allowed}"),
        Fault::Range => format!("`{text}` is too large"),
    })
}

/// `512B`, `64KiB`, `16MiB`, `1.5GiB`, and `0`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let allowed = "a size with its unit, as `64KiB`, `16MiB` or `1GiB`";
    scaled(text, SIZE_UNITS).map_err(|fault| match fault {
        Fault::NoUnit => format!("`{text}` has no unit; must be {allowed}"),
        Fault::Unit(unit) => format!("`{unit}` is not a unit of size; must be {allowed}"),
        Fault::Number => format!("`{text}` is not a size; must be {allowed}"),
        Fault::Range => format!("`{text}` is too large"),
    })
}

enum Fault<'t> {
    NoUnit,
    Unit(&'t str),
    Number,
    Range,
}

fn scaled<'t>(text: &'t str, units: &[(&str, u64)]) -> Result<u64, Fault<'t>> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim_start());
    if number.is_empty() {
        return Err(Fault::Number);
    }
    if unit.is_empty() {
        return if number == "0" { Ok(0) } else { Err(Fault::NoUnit) };
    }
    let &(_, scale) = units.iter().find(|(name, _)| *name == unit).ok_or(Fault::Unit(unit))?;
    match number.split_once('.') {
        None => {
            let whole: u64 = number.parse().map_err(|_| Fault::Range)?;
            whole.checked_mul(scale).ok_or(Fault::Range)
        }
        Some(_) => {
            let value: f64 = number.parse().map_err(|_| Fault::Number)?;
            let scaled = value * scale as f64;
            if scaled < 1e15 { Ok(scaled.round() as u64) } else { Err(Fault::Range) }
        }
    }
}

/// The shortest text that [`duration`] reads as this.
pub(super) fn write_duration(value: Duration) -> String {
    write_scaled(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), DURATION_UNITS)
}

/// The shortest text that [`size`] reads as this.
pub(super) fn write_size(value: u64) -> String {
    write_scaled(value, SIZE_UNITS)
}

fn write_scaled(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, scale): &&(&str, u64)| value.is_multiple_of(*scale);
    match units.iter().rev().find(fits) {
        Some((unit, scale)) if value > 0 => format!("{}{unit}", value / scale),
        _ => "0".to_owned(),
    }
}

/// `0.0.0.0:6432`, `[::]:6432`, `*:6432`; for a folder, the socket in which is named as libpq
/// expects, `unix:/run/tiffin`, `unix:/run/tiffin:7432`.
pub(super) fn listen_postgres(text: &str) -> Result<ListenAddress, String> {
    if let Some(rest) = text.strip_prefix("unix:") {
        let (folder, port) = unix(rest, LISTEN_PORT)?;
        return Ok(ListenAddress::Unix(folder.join(format!(".s.PGSQL.{port}"))));
    }
    socket_address(text)
        .map(ListenAddress::Tcp)
        .map_err(|fault| format!("{fault}, or a folder for a Unix socket as `unix:/run/tiffin`"))
}

/// `0.0.0.0:6306`, `[::]:6306`, `*:6306`; a socket by its path, `unix:/run/tiffin/mysql.sock`.
pub(super) fn listen_mysql(text: &str) -> Result<ListenAddress, String> {
    let about = "the path of a Unix socket as `unix:/run/tiffin/mysql.sock`";
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') && !path.ends_with('/') => {
            Ok(ListenAddress::Unix(path.into()))
        }
        Some(_) => Err(format!("`{text}` is not {about}")),
        None => socket_address(text)
            .map(ListenAddress::Tcp)
            .map_err(|fault| format!("{fault}, or {about}")),
    }
}

/// `127.0.0.1:9632`, `[::1]:9632`, `*:9632`.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix("*:") {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.to_owned(),
    };
    full.parse().map_err(|_| {
        format!("`{text}` is not an address to listen on; must be an IP address and a port as `127.0.0.1:6432` or `[::]:6432`")
    })
}

/// `db1.example.org:5432`, `10.0.0.1`, `[::1]:5432`, `unix:/run/postgresql`, `/run/postgresql`;
/// where none is given, the port is `default_port`.
pub(super) fn server_address(text: &str, default_port: u16) -> Result<Address, String> {
    if text.starts_with('/') || text.starts_with("unix:") {
        let (folder, port) = unix(text.strip_prefix("unix:").unwrap_or(text), default_port)?;
        return Ok(Address::Unix { folder, port });
    }
    let wrong = || {
        format!(
            "`{text}` is not a server's address; must be a host and a port as `db1:5432` or `[::1]:5432`, or the folder of a Unix socket as `unix:/run/postgresql`"
        )
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (host, port)
        }
        None => {
            let split = text.find(':').unwrap_or(text.len());
            let host = &text[..split];
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if host.is_empty() || !host.chars().all(fits) {
                return Err(wrong());
            }
            (host, &text[split..])
        }
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => parse_port(digits).ok_or_else(wrong)?,
        None if port.is_empty() => default_port,
        None => return Err(wrong()),
    };
    Ok(Address::Tcp { host: host.to_owned(), port })
}

/// `http://10.0.0.1:8008`, `https://db1`, `10.0.0.1:8008`.
pub(super) fn http_address(text: &str, default_port: u16) -> Result<HttpAddress, String> {
    let https = text.starts_with("https://");
    let rest = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match server_address(rest, default_port) {
        Ok(Address::Tcp { host, port }) => Ok(HttpAddress { https, host, port }),
        _ => Err(format!(
            "`{text}` is not an address; must be as `http://10.0.0.1:{default_port}` or `https://db1:{default_port}`"
        )),
    }
}

fn parse_port(digits: &str) -> Option<u16> {
    digits.parse().ok().filter(|port| *port > 0)
}

fn unix(text: &str, port_default: u16) -> Result<(PathBuf, u16), String> {
    let (folder, port) = match text.rsplit_once(':') {
        Some((folder, digits)) => (folder, parse_port(digits)),
        None => (text, Some(port_default)),
    };
    match port {
        Some(port) if folder.starts_with('/') => Ok((PathBuf::from(folder), port)),
        Some(_) => Err(format!(
            "`unix:{text}` is not the folder of a Unix socket; must be an absolute path as `unix:/run/tiffin`"
        )),
        None => Err(format!(
            "`unix:{text}` ends in no port; write the folder alone, or with a port as `unix:/run/tiffin:6432`"
        )),
    }
}

/// The word of `among` that was probably meant.
pub(super) fn nearest<'w>(word: &str, among: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let near = |candidate: &str| distance(&word, &candidate.to_ascii_lowercase().replace('-', "_"));
    let (steps, best) = among
        .into_iter()
        .map(|candidate| (near(candidate), candidate))
        .min_by_key(|(steps, _)| *steps)?;
    // One slip in four letters: `lag` is not offered for `tls`.
    (steps <= best.len().div_ceil(4)).then_some(best)
}

/// Levenshtein's distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    /// Longer words are not compared: the work grows with the product.
    const LENGTH_MAX: usize = 64;
    if a.len() > LENGTH_MAX || b.len() > LENGTH_MAX {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("0", 0),
            ("100ms", 100),
            ("2s", 2_000),
            ("1.5s", 1_500),
            ("5min", 300_000),
            ("1h", 3_600_000),
            ("2 s", 2_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "5m",
            "s",
            "-1s",
            "1e3s",
            "1..5s",
            "99999999999999999999s",
            "9999999999999d",
            "5 seconds",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["0", "100ms", "90s", "2min", "1h", "1500ms"] {
            assert_eq!(write_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("512B", 512), ("64KiB", 65_536), ("16MiB", 16 << 20), ("1.5KiB", 1_536)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "65536", "64KB", "64k", "-1KiB", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(write_size(65_536), "64KiB");
        assert_eq!(write_size(1_000), "1000B");
    }

    #[test]
    fn server_addresses() {
        for (text, shown) in [
            ("db1:5432", "db1:5432"),
            ("db1", "db1:5432"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("[::1]:5433", "[::1]:5433"),
            ("[::1]", "[::1]:5432"),
            ("unix:/run/pg", "/run/pg/.s.PGSQL.5432"),
            ("/run/pg:5433", "/run/pg/.s.PGSQL.5433"),
        ] {
            assert_eq!(
                server_address(text, 5432).map(|a| a.to_string()),
                Ok(shown.to_owned()),
                "{text}"
            );
        }
        for text in [
            "",
            ":5432",
            "db1:",
            "db1:0",
            "db1:70000",
            "db1:x",
            "::1",
            "[::1",
            "a b",
            "[db]:1",
            "[::1]x",
            "unix:run",
            "http://x",
        ] {
            assert!(server_address(text, 5432).is_err(), "{text}");
        }
    }

    #[test]
    fn listen_addresses() {
        let tcp = |text: &str| Ok(ListenAddress::Tcp(text.parse().unwrap()));
        let unix = |path: &str| Ok(ListenAddress::Unix(path.into()));
        for listen_address in [listen_postgres, listen_mysql] {
            assert_eq!(listen_address("*:6432"), tcp("0.0.0.0:6432"));
            assert_eq!(listen_address("[::]:6432"), tcp("[::]:6432"));
        }
        assert_eq!(listen_postgres("unix:/run/tiffin"), unix("/run/tiffin/.s.PGSQL.6432"));
        assert_eq!(listen_postgres("unix:/run/tiffin:7"), unix("/run/tiffin/.s.PGSQL.7"));
        assert_eq!(listen_mysql("unix:/run/tiffin/my.sock"), unix("/run/tiffin/my.sock"));
        for text in ["", "6306", "localhost:6306", "0.0.0.0", "unix:", "unix:x", "unix:/x/"] {
            assert!(listen_mysql(text).is_err(), "{text}");
        }
        for text in ["", "6432", "localhost:6432", "0.0.0.0", "unix:", "unix:x", "unix:/x:y"] {
            assert!(listen_postgres(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_word_is_one_that_was_meant() {
        let words = ["least_lag", "least_connections", "latency", "weighted"];
        assert_eq!(nearest("least-lag", words), Some("least_lag"));
        assert_eq!(nearest("latancy", words), Some("latency"));
        assert_eq!(nearest("random", words), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(nearest(&"x".repeat(100_000), words), None);
    }
}
