//! What PostgreSQL 18 and its libpq have that 15 has not: protocol 3.2 with long cancel keys, and
//! TLS from the first byte, towards clients and towards servers.

use crate::support::psql::{self, psql_ok};
use crate::support::versions::{postgres_18, with_postgres_18};
use crate::support::{Fixture, PATIENCE, wait_until};
use std::process::{Command, Stdio};

fn conninfo(fixture: &Fixture, rest: &str) -> String {
    let app = &fixture.cluster.app;
    let port = fixture.proxy.port;
    format!("host=127.0.0.1 port={port} user=app dbname=app password={} {rest}", app.password)
}

/// libpq asks for 3.2 and nothing less; its cancel request carries the key of that version, and
/// the proxy's towards the server as well.
#[test]
fn a_client_of_protocol_3_2_cancels_on_a_server_of_3_2() {
    with_postgres_18(|| {
        let fixture = Fixture::start();
        let conninfo = conninfo(&fixture, "min_protocol_version=3.2 max_protocol_version=3.2");
        assert_eq!(psql_ok(&conninfo, &["SELECT 1"]), "1");
        for target in ["primary", "replica"] {
            let sleep = format!("/* tiffin: {target} */ SELECT pg_sleep(120)");
            let mut command = Command::new(postgres_18().join("psql"));
            command.args(["-X", "-v", "VERBOSITY=verbose", "-c", &sleep]).arg(&conninfo);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let client = command.spawn().unwrap();
            let running = "SELECT 1 FROM pg_stat_activity
                           WHERE state = 'active' AND query LIKE '%pg_sleep(120)'";
            let runs = |server: &crate::support::Server| {
                server.query(running).is_ok_and(|rows| !rows.is_empty())
            };
            wait_until(PATIENCE, || fixture.cluster.servers().iter().any(runs)).unwrap();
            let pid = client.id().to_string();
            assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
            let output = client.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("57014"), "{target}: {said}");
        }
    });
}

/// Real servers of version 17 and later take TLS without being asked first.
#[test]
fn direct_tls_on_both_sides() {
    with_postgres_18(|| {
        let server = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
        let tls = tiffin::cli::sandbox::servers::Tls {
            certificate: server.cert.pem(),
            key: server.signing_key.serialize_pem(),
            client_ca: None,
        };
        let files = tempfile::tempdir().unwrap();
        let (certificate, key) = (files.path().join("proxy.crt"), files.path().join("proxy.key"));
        std::fs::write(&certificate, server.cert.pem()).unwrap();
        std::fs::write(&key, server.signing_key.serialize_pem()).unwrap();
        let section = serde_json::json!({
            "mode": "require", "certificate": certificate.display().to_string(),
            "key": key.display().to_string(),
        });
        let fixture = Fixture::build()
            .replicas(1)
            .options(|options| options.tls = Some(tls))
            .hba(&["hostssl all all 127.0.0.1/32 scram-sha-256"])
            .key("tls", serde_json::json!({ "mode": "require", "direct": true }))
            .config(move |config| config["tls"] = section)
            .start();
        let conninfo = conninfo(
            &fixture,
            "sslmode=require sslnegotiation=direct channel_binding=require \
             min_protocol_version=3.2",
        );
        let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        for target in ["primary", "replica"] {
            let sql = format!("/* tiffin: {target} */ {encrypted}");
            assert_eq!(psql_ok(&conninfo, &[&sql]), "t", "{target}");
        }
        // Without its protocol's name it could be any TLS client.
        let plain = conninfo.replace("sslmode=require sslnegotiation=direct", "sslmode=disable");
        assert!(!psql::psql(&plain, &["SELECT 1"]).status.success());
    });
}
