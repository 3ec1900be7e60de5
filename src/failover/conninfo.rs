//! `primary_conninfo` with another server in it. Pure; the syntax is libpq's
//! (`conninfo_parse`, fe-connect.c).

use crate::config::Address;

/// The settings of a connection string with another host and port; everything else stays.
///
/// # Errors
/// It is a URI, or no connection string: then it is not touched.
pub fn with_server(conninfo: &str, address: &Address) -> Result<String, String> {
    let mut settings = parse(conninfo)?;
    settings.retain(|(name, _)| !matches!(name.as_str(), "host" | "hostaddr" | "port"));
    let (host, port) = host_and_port(address);
    settings.push(("host".into(), host));
    settings.push(("port".into(), port.to_string()));
    Ok(written(&settings))
}

/// As libpq takes them: the host of a Unix socket is its folder.
pub fn host_and_port(address: &Address) -> (String, u16) {
    match address {
        Address::Tcp { host, port } => (host.clone(), *port),
        Address::Unix { folder, port } => (folder.display().to_string(), *port),
    }
}

/// Settings that lead to the same server in the same way, and are not equal: one that receivers do
/// not use (`connect_timeout`) has another value.
///
/// # Errors
/// As [`with_server`].
pub fn changed(conninfo: &str) -> Result<String, String> {
    let mut settings = parse(conninfo)?;
    let is_it = |(name, _): &&mut (String, String)| name == "connect_timeout";
    match settings.iter_mut().find(is_it) {
        Some((_, value)) if value == "10" => *value = "11".into(),
        Some((_, value)) => *value = "10".into(),
        None => settings.push(("connect_timeout".into(), "10".into())),
    }
    Ok(written(&settings))
}

fn written(settings: &[(String, String)]) -> String {
    let setting = |(name, value): &(String, String)| format!("{name}={}", quoted(value));
    settings.iter().map(setting).collect::<Vec<_>>().join(" ")
}

fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.starts_with("postgresql://") || text.starts_with("postgres://") {
        return Err(
            "primary_conninfo is a URI; only `keyword=value` settings can be changed".into()
        );
    }
    let broken = || "primary_conninfo is no connection string".to_owned();
    let mut settings = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or_else(broken)?;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(broken());
        }
        let (value, after) = value(after.trim_start()).ok_or_else(broken)?;
        settings.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(settings)
}

/// A value at the start of the text, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut out = String::new();
    let mut letters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => out.push(letters.next()?.1),
            '\'' if quoted => return Some((out, &text[at + 1..])),
            letter if !quoted && letter.is_whitespace() => return Some((out, &text[at..])),
            letter => out.push(letter),
        }
    }
    (!quoted).then_some((out, ""))
}

fn quoted(value: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:".contains(letter);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_changes() {
        let address = Address::Tcp { host: "10.0.0.2".into(), port: 5433 };
        let to = "host=10.0.0.2 port=5433";
        let table = [
            ("", Ok(to.to_owned())),
            ("host=a port=1 user=r", Ok(format!("user=r {to}"))),
            (" hostaddr = 1.2.3.4  user = r ", Ok(format!("user=r {to}"))),
            (
                r"password='it\'s \\ here' user=r",
                Ok(format!(r"password='it\'s \\ here' user=r {to}")),
            ),
            (r"password=a\ b", Ok(format!("password='a b' {to}"))),
            ("password=''", Ok(format!("password='' {to}"))),
            ("postgresql://a/b", Err("URI")),
            ("host", Err("no connection string")),
            ("password='open", Err("no connection string")),
            ("a b=c", Err("no connection string")),
        ];
        for (text, expected) in table {
            match (with_server(text, &address), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{text}: {found}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn each_change_makes_a_difference() {
        let (first, second) = ("user=r connect_timeout=10", "user=r connect_timeout=11");
        assert_eq!(changed("user=r").unwrap(), first);
        assert_eq!(changed(first).unwrap(), second);
        assert_eq!(changed(second).unwrap(), first);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let address = Address::Unix { folder: "/run/a b".into(), port: 5432 };
        let once = with_server(r"password='x\'y' sslmode=require", &address).unwrap();
        assert_eq!(with_server(&once, &address).unwrap(), once);
    }
}
