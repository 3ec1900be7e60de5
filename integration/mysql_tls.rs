//! TLS towards clients of MySQL and MariaDB: each mode of the section, and from one to the next by
//! a reload while a session is open.

use crate::support::certificates::{Authority, Files, text};
use crate::support::mysql::{Cluster, Engine, Fixture, Options, on_mysql_and_mariadb, options};
use serde_json::json;
use std::process::Command;

on_mysql_and_mariadb! {
    clients_over_tls,
}

/// How a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    Plain,
    /// Verifies the certificate and the name in it.
    Tls,
    /// The same, by an authority that has not signed it.
    Distrusting,
    /// With a certificate of its own, for the user or for somebody.
    AsApp,
    AsOther,
}

const COMES: [Comes; 5] =
    [Comes::Plain, Comes::Tls, Comes::Distrusting, Comes::AsApp, Comes::AsOther];

/// A mode, and what each of these is told; nothing: it gets in.
const TABLE: [(&str, [&str; COMES.len()]); 5] = [
    ("allow", ["", "", DISTRUST, "", ""]),
    ("require", [INSECURE, "", DISTRUST, "", ""]),
    ("verify-ca", [INSECURE, UNPROVED, DISTRUST, "", ""]),
    ("verify-full", [INSECURE, UNPROVED, DISTRUST, "", "1045"]),
    ("disable", ["", NO_TLS, NO_TLS, NO_TLS, NO_TLS]),
];
const INSECURE: &str = "insecure transport";
const UNPROVED: &str = "1043";
const DISTRUST: &str = "certificate";
const NO_TLS: &str = "does not support";

fn clients_over_tls(engine: Engine) {
    let (ours, strange, files) = (Authority::new("ours"), Authority::new("strange"), Files::new());
    let [ca, strange] =
        [("ca.crt", &ours), ("no.crt", &strange)].map(|(name, ca)| files.write(name, &ca.pem()));
    let (certificate, key) = files.pair("proxy", ours.sign("proxy"));
    let [app, other] = ["app", "somebody"].map(|name| files.pair(name, ours.sign(name)));
    let section = json!({
        "mode": "allow", "certificate": text(&certificate), "key": text(&key),
        "client_ca": text(&ca),
    });
    let cluster = Cluster::start(Options { replicas: 0, ..options(engine) }).expect("a server");
    let fixture = Fixture::with(cluster, |config| config["tls"] = section);
    let comes = |comes: Comes| -> Result<(), String> {
        let trusts = |ca| vec!["--ssl-verify-server-cert".to_owned(), format!("--ssl-ca={ca}")];
        let mut args = match comes {
            Comes::Plain => vec!["--skip-ssl".to_owned()],
            Comes::Distrusting => trusts(text(&strange)),
            Comes::Tls | Comes::AsApp | Comes::AsOther => trusts(text(&ca)),
        };
        let own = match comes {
            Comes::AsApp => Some(&app),
            Comes::AsOther => Some(&other),
            _ => None,
        };
        if let Some((certificate, key)) = own {
            args.extend([format!("--ssl-cert={}", text(certificate))]);
            args.extend([format!("--ssl-key={}", text(key))]);
        }
        log_in(&fixture, &args, &fixture.cluster.app.password)
    };
    let open = fixture.session();
    open.execute("BEGIN").unwrap();
    let mut config = fixture.config.clone();
    for (mode, clients) in TABLE {
        config["tls"] = match mode {
            "disable" => json!({}),
            _ => fixture.config["tls"].clone(),
        };
        config["tls"]["mode"] = mode.into();
        fixture.reload(&config);
        for (client, expected) in COMES.into_iter().zip(clients) {
            match comes(client) {
                Ok(()) if expected.is_empty() => {}
                Err(error) if !expected.is_empty() && error.contains(expected) => {}
                outcome => panic!("{mode}, {client:?}: {outcome:?}, not {expected:?}"),
            }
        }
        assert_eq!(open.value("SELECT 1").unwrap(), "1", "{mode}");
    }
    // The certificate is the login.
    config["tls"] = fixture.config["tls"].clone();
    config["tls"]["mode"] = "verify-full".into();
    config["auth"] = json!({ "method": "cert" });
    fixture.reload(&config);
    let with = |(certificate, key): &(std::path::PathBuf, std::path::PathBuf)| {
        let args = [("ca", &ca), ("cert", certificate), ("key", key)]
            .map(|(name, path)| format!("--ssl-{name}={}", text(path)));
        log_in(&fixture, &args, "")
    };
    assert_eq!(with(&app), Ok(()));
    assert!(with(&other).unwrap_err().contains("1045"));
    open.execute("COMMIT").unwrap();
}

fn log_in(fixture: &Fixture, args: &[String], password: &str) -> Result<(), String> {
    let output = Command::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1"])
        .arg(format!("--port={}", fixture.proxy.port))
        .arg(format!("--user={}", fixture.cluster.app.user))
        .arg(format!("--password={password}"))
        .args(args)
        .args(["--batch", "--skip-column-names", "--execute=SELECT 1"])
        .output()
        .expect("the mariadb client");
    match output.stdout == b"1\n" {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
