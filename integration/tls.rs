//! TLS towards clients and towards servers, by psql and, where libpq 15 cannot, by rustls.

use crate::support::certificates::{Authority, Files, text};
use crate::support::psql::{psql_error, psql_ok};
use crate::support::wire::{Message, VERSION_3_0};
use crate::support::{Fixture, PATIENCE, on_postgres_18, wait_until};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use tiffin::cli::sandbox::servers::Tls;

#[test]
fn clients_over_tls() {
    let (authority, files) = (Authority::new("client side"), Files::new());
    let ca = files.write("ca.crt", &authority.pem());
    let (certificate, key) = files.pair("proxy", authority.sign("proxy"));
    let (app_certificate, app_key) = files.pair("app", authority.sign("app"));
    let (other_certificate, other_key) = files.pair("other", authority.sign("somebody"));
    let section = json!({
        "mode": "allow", "certificate": text(&certificate), "key": text(&key), "client_ca": text(&ca),
    });
    let fixture =
        Fixture::build().replicas(0).config(move |config| config["tls"] = section).start();
    let app = &fixture.cluster.app;
    let base = format!(
        "host=127.0.0.1 port={} user=app dbname=app password={} sslrootcert={}",
        fixture.proxy.port,
        app.password,
        text(&ca)
    );
    let conninfo = |rest: &str| format!("{base} {rest}");

    // Plain and TLS on the same port; the certificate holds for what libpq asked for.
    for mode in ["disable", "prefer", "require", "verify-ca", "verify-full"] {
        assert_eq!(psql_ok(&conninfo(&format!("sslmode={mode}")), &["SELECT 1"]), "1", "{mode}");
    }
    // SCRAM-SHA-256-PLUS over TLS, and not where there is nothing to bind to.
    assert_eq!(psql_ok(&conninfo("sslmode=require channel_binding=require"), &["SELECT 1"]), "1");
    psql_error(&conninfo("sslmode=disable channel_binding=require"), &["SELECT 1"]);
    // A wrong authority: the client turns away.
    let strange = files.write("strange.crt", &Authority::new("strange").pem());
    let wrong = format!("{base} sslmode=verify-ca sslrootcert={}", text(&strange));
    assert!(psql_error(&wrong, &["SELECT 1"]).contains("certificate verify failed"));
    // Cancel over TLS, by psql's own way.
    let cancelled = psql_error(
        &conninfo("sslmode=require"),
        &["SET statement_timeout = '200ms'", "SELECT pg_sleep(60)"],
    );
    assert!(cancelled.contains("57014"), "{cancelled}");

    let reload = |mode: &str, method: &str| {
        let mut config = fixture.config.clone();
        config["tls"]["mode"] = mode.into();
        config["auth"]["method"] = method.into();
        fixture.reload(&config);
    };
    let try_psql = |rest: &str| crate::support::psql::psql(&conninfo(rest), &["SELECT 1"]);
    let accepted = |rest: &str| try_psql(rest).status.success();
    reload("require", "scram-sha-256");
    wait_until(PATIENCE, || !accepted("sslmode=disable")).expect("plain is refused");
    assert!(accepted("sslmode=require"));
    // Certificates of clients: any of the authority, then only the user's own, then as the login.
    let with = |certificate: &Path, key: &Path| {
        format!("sslmode=require sslcert={} sslkey={}", text(certificate), text(key))
    };
    reload("verify-ca", "scram-sha-256");
    wait_until(PATIENCE, || !accepted("sslmode=require")).expect("no certificate, no entry");
    assert!(accepted(&with(&other_certificate, &other_key)));
    reload("verify-full", "scram-sha-256");
    wait_until(PATIENCE, || !accepted(&with(&other_certificate, &other_key))).expect("wrong name");
    assert!(accepted(&with(&app_certificate, &app_key)));
    reload("verify-full", "cert");
    let no_password = format!(
        "host=127.0.0.1 port={} user=app dbname=app {}",
        fixture.proxy.port,
        with(&app_certificate, &app_key)
    );
    wait_until(PATIENCE, || {
        crate::support::psql::psql(&no_password, &["SELECT 1"]).status.success()
    })
    .expect("the certificate is the login");

    // A new certificate is shown after a reload without a restart.
    reload("allow", "scram-sha-256");
    let renewed = Authority::new("renewed");
    let (pem, pem_key) = renewed.sign("proxy");
    std::fs::write(&certificate, pem).unwrap();
    std::fs::write(&key, pem_key).unwrap();
    let new_ca = files.write("new-ca.crt", &renewed.pem());
    fixture.proxy.signal("HUP").unwrap();
    let renewed = format!("{base} sslmode=verify-full sslrootcert={}", text(&new_ca));
    wait_until(PATIENCE, || crate::support::psql::psql(&renewed, &["SELECT 1"]).status.success())
        .expect("the new certificate");
    assert_eq!(fixture.proxy.pid(), fixture.proxy.pid());
}

/// `sslnegotiation=direct`: TLS from the first byte, with the protocol's name agreed upon.
#[test]
fn direct_tls_needs_its_alpn() {
    let (authority, files) = (Authority::new("direct"), Files::new());
    let (certificate, key) = files.pair("proxy", authority.sign("proxy"));
    let section =
        json!({ "mode": "require", "certificate": text(&certificate), "key": text(&key) });
    let fixture =
        Fixture::build().replicas(0).config(move |config| config["tls"] = section).start();
    let connect = |alpn: &[&[u8]]| -> std::io::Result<Message> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, fixture.proxy.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut roots = rustls::RootCertStore::empty();
        let ca = authority.der();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = "localhost".try_into().unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let parameters = b"user\0app\0database\0app\0\0";
        let length = u32::try_from(parameters.len() + 8).unwrap();
        tls.write_all(
            &[&length.to_be_bytes()[..], &VERSION_3_0.to_be_bytes(), parameters].concat(),
        )?;
        let mut head = [0; 5];
        tls.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        tls.read_exact(&mut body)?;
        Ok(Message { tag: head[0], body })
    };
    let asked = connect(&[b"postgresql"]).expect("a login over direct TLS");
    assert_eq!(asked.tag, b'R');
    assert!(asked.text().contains("SCRAM-SHA-256-PLUS"), "{}", asked.text());
    let refused = connect(&[]).map_or(true, |answer| answer.tag == b'E');
    assert!(refused, "without ALPN it could be any protocol");
    assert!(connect(&[b"http/1.1"]).is_err());

    // What was sent in plain before TLS must not be taken for part of it.
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, fixture.proxy.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let startup = [&[0, 0, 0, 22, 0, 3, 0, 0][..], b"user\0app\0\0\0\0\0\0"].concat();
    stream.write_all(&[&[0, 0, 0, 8, 4, 210, 22, 47][..], &startup].concat()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.contains(&b'R'), "the injected start-up was answered: {answer:?}");
}

#[test]
fn servers_over_tls() {
    let (authority, files) = (Authority::new("server side"), Files::new());
    let ca = files.write("ca.crt", &authority.pem());
    let (certificate, key) = authority.sign("server");
    let tls = Tls { certificate, key, client_ca: Some(authority.pem()) };
    let (app_certificate, app_key) = files.pair("app", authority.sign("app"));
    let section = json!({ "mode": "verify-full", "ca": text(&ca) });
    // The servers take nothing but TLS.
    let fixture = Fixture::build()
        .replicas(1)
        .options(|options| options.tls = Some(tls))
        .hba(&["hostssl all all 127.0.0.1/32 scram-sha-256"])
        .key("tls", section)
        .start();
    let in_use = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                  WHERE usename IN ('app', 'tiffin')";
    let session = fixture.session();
    session.query("CREATE TABLE t (n int)").unwrap();
    session.query("/* tiffin: replica */ SELECT 1").unwrap();
    for server in fixture.cluster.servers() {
        assert_eq!(server.value(in_use).unwrap(), "t", "{}", server.name);
    }
    // The other modes, and what must not work.
    let reload = |section: serde_json::Value| {
        let mut config = fixture.config.clone();
        config["clusters"]["main"]["tls"] = section;
        fixture.reload(&config);
    };
    let works = || {
        fixture.metrics().sum("tiffin_node_healthy", &[]) == 2.0
            && fixture.try_value("INSERT INTO t VALUES (1) RETURNING n").is_ok()
    };
    for mode in ["prefer", "require"] {
        reload(json!({ "mode": mode }));
        wait_until(PATIENCE, works).unwrap_or_else(|_| panic!("{mode}\n{}", fixture.proxy.log()));
    }
    let strange = files.write("strange.crt", &Authority::new("strange").pem());
    for section in
        [json!({ "mode": "disable" }), json!({ "mode": "verify-ca", "ca": text(&strange) })]
    {
        reload(section.clone());
        wait_until(PATIENCE, || fixture.metrics().sum("tiffin_node_healthy", &[]) == 0.0)
            .unwrap_or_else(|_| panic!("{section} works"));
    }
    reload(json!({ "mode": "verify-ca", "ca": text(&ca) }));
    wait_until(PATIENCE, works).expect("verify-ca");
    // By certificate instead of a password.
    for server in fixture.cluster.servers() {
        server
            .set_hba(&[
                "hostssl all app 127.0.0.1/32 cert".into(),
                "hostssl all all 127.0.0.1/32 scram-sha-256".into(),
            ])
            .unwrap();
    }
    reload(json!({
        "mode": "verify-full", "ca": text(&ca), "certificate": text(&app_certificate), "key": text(&app_key),
    }));
    wait_until(PATIENCE, works).expect("cert");
}

on_postgres_18!(servers_over_tls);
