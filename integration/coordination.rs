//! Several proxies in front of one cluster: only the one that has the lease in etcd promotes.

use crate::maintenance::{TOKEN, said, tiffin};
use crate::support::certificates::{Authority, Files};
use crate::support::etcd::{Etcd, exchange};
use crate::support::{
    PATIENCE, Proxy, Sql, Stand, Which, binary, on_every_engine, runtime, wait_until,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tiffin::config::{HttpAddress, Remote, Service};
use tiffin::failover::etcd::Etcd as Client;
use tiffin::monitor::handover::{LOCK_KEYS, LOCK_NAME};

fn actions(proxy: &Proxy) -> Vec<Value> {
    let (_, body) = proxy.get("/api/v1/failovers").unwrap();
    let mut body: Value = serde_json::from_str(&body).unwrap();
    match body["clusters"][0]["actions"].take() {
        // One that could not be made is tried again.
        Value::Array(mut actions) => {
            actions.retain(|action| action["state"] != "failed");
            actions
        }
        other => panic!("{other}"),
    }
}

fn primary(proxy: &Proxy) -> Option<String> {
    let (_, body) = proxy.get("/api/v1/topology").ok()?;
    let body: Value = serde_json::from_str(&body).ok()?;
    body["clusters"][0]["primary"].as_str().map(str::to_owned)
}

on_every_engine!(
    only_the_proxy_with_the_lease_promotes,
    what_another_proxy_changes_is_waited_for_and_left_to_it,
);

/// The lock stands for the other proxy (`chaos::neighbour` has a real one).
fn what_another_proxy_changes_is_waited_for_and_left_to_it<S: Stand>(which: Which) {
    let fixture = S::promoting(which, move |config| {
        if which == Which::Postgres {
            // Where proxies look for the lock.
            config["clusters"]["main"]["service"]["database"] = "app".into();
        }
    });
    let primary = fixture.cluster.primary();
    fixture.session().query("CREATE TABLE t (n int)").unwrap();
    let held = || {
        let (_, body) = fixture.proxy.get("/api/v1/topology").unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        body["clusters"][0]["held"].as_str().map(str::to_owned)
    };
    let other = fixture.direct(primary);
    let (one, two) = LOCK_KEYS;
    let lock = match which {
        Which::Postgres => format!("SELECT pg_advisory_lock({one}, {two})"),
        _ => format!("SELECT GET_LOCK('{LOCK_NAME}', 10)"),
    };
    other.query(&lock).unwrap();
    wait_until(PATIENCE, || held().as_deref() == Some("writes")).expect("it is seen");
    std::thread::scope(|scope| {
        let write = scope.spawn(|| fixture.session().query("INSERT INTO t VALUES (1)"));
        let waiting = || fixture.metrics().sum("tiffin_gate_waiting", &[]) == 1.0;
        wait_until(PATIENCE, waiting).expect("a write waits");
        fixture.session().query("SELECT 1").expect("a read does not");
        // Two would be in each other's way.
        let to = &fixture.cluster.replica(0).name;
        let refused = tiffin(&fixture, &["switchover", "--to", to, "--timeout", "5"]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        let words = ["the primary is being changed", "another proxy hands the primary's part over"];
        assert!(words.iter().any(|word| said(&refused).contains(word)), "{}", said(&refused));
        // The other one ends without a word.
        drop(other);
        write.join().unwrap().expect("it goes on");
    });
    assert_eq!(held(), None);
}

fn only_the_proxy_with_the_lease_promotes<S: Stand>(which: Which) {
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(folder.path().join("etcd"));
    let address = etcd.address.clone();
    let fixture = S::promoting(which, move |config| {
        let failover = &mut config["clusters"]["main"]["failover"];
        failover["coordination"] = "etcd".into();
        failover["etcd"] = json!({ "endpoints": [address], "lease": "3s" });
    });
    let mut config = fixture.config.clone();
    config["listen"] = S::listen(&fixture.cluster);
    let second = Proxy::start(binary(), &fixture.cluster, &config).unwrap();
    let both = [&fixture.proxy, &second];

    // The first that asked has the lease, and only that one acts.
    let old = fixture.cluster.primary();
    old.kill9().unwrap();
    wait_until(PATIENCE, || {
        both.iter().all(|proxy| primary(proxy).is_some_and(|name| name != old.name))
    })
    .unwrap_or_else(|_| panic!("{}\n{}", fixture.proxy.log(), second.log()));
    let acted: Vec<usize> = both.iter().map(|proxy| actions(proxy).len()).collect();
    assert_eq!(acted.iter().sum::<usize>(), 1, "{acted:?}");
    let (holder, other) = if acted[0] == 1 { (both[0], both[1]) } else { (both[1], both[0]) };
    let is_done = |proxy| actions(proxy).iter().any(|action| action["state"] == "done");
    wait_until(PATIENCE, || is_done(holder)).unwrap();

    // The holder goes away without a word, and the primary with it: the other one takes over when the
    // lease has run out, also if a third one is started that could not, as it has seen no primary.
    let name = primary(other).unwrap();
    let new = fixture.cluster.servers().iter().find(|server| server.name == name).unwrap();
    S::remake(&fixture, old, new, new.port);
    wait_until(PATIENCE, || new.are_writes_confirmed()).unwrap();
    holder.kill();
    new.kill9().unwrap();
    config["listen"] = S::listen(&fixture.cluster);
    let third = Proxy::spawn(binary(), &fixture.cluster, &config).unwrap();
    wait_until(PATIENCE, || primary(other).is_some_and(|now| now != name))
        .unwrap_or_else(|_| panic!("{}\n{}", other.log(), third.log()));
    wait_until(PATIENCE, || is_done(other)).unwrap();

    // Without etcd nobody has it.
    etcd.kill();
    let mut told = String::new();
    wait_until(PATIENCE, || {
        let page = "/api/v1/switchover?cluster=main&node=pg9";
        let (status, body) = other.post(page, TOKEN).unwrap();
        told = body;
        status == 409 && told.contains("does not have the lease")
    })
    .unwrap_or_else(|_| panic!("{told}"));
}

/// Its own words for a user that may only touch the lease.
fn protect(etcd: &Etcd) {
    let port = etcd.address.rsplit(':').next().unwrap().parse().unwrap();
    // base64 of `/tiffin/` and of the first key after all that begin with it.
    let range =
        json!({ "permType": "READWRITE", "key": "L3RpZmZpbi8=", "range_end": "L3RpZmZpbjA=" });
    let setup = [
        ("user/add", json!({ "name": "root", "password": "root" })),
        ("role/add", json!({ "name": "root" })),
        ("user/grant", json!({ "user": "root", "role": "root" })),
        ("user/add", json!({ "name": "tiffin", "password": "secret" })),
        ("role/add", json!({ "name": "lease" })),
        ("role/grant", json!({ "name": "lease", "perm": range })),
        ("user/grant", json!({ "user": "tiffin", "role": "lease" })),
        ("enable", json!({})),
    ];
    for (page, body) in setup {
        let mut said = Err(std::io::Error::other("not asked"));
        wait_until(PATIENCE, || {
            said = exchange(port, &format!("v3/auth/{page}"), Some(&body));
            said.as_ref().is_ok_and(|said| said.contains("header"))
        })
        .unwrap_or_else(|_| panic!("{page}: {said:?}"));
    }
}

#[test]
fn etcd_may_want_tls_and_a_login() {
    let (files, authority, stranger) =
        (Files::new(), Authority::new("ours"), Authority::new("another"));
    let ca = files.write("ca.crt", &authority.pem());
    let (certificate, key) = files.pair("etcd", authority.sign("etcd"));
    // etcd refuses a common name beside a login by its JSON gateway.
    let (own, own_key) = files.pair("tiffin", authority.sign(""));
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start_with(folder.path().join("etcd"), Some([&certificate, &key, &ca]));
    protect(&etcd);
    let address = HttpAddress { https: true, host: "127.0.0.1".into(), port: etcd.secure.unwrap() };
    let login = |password: &str| Service {
        user: "tiffin".into(),
        password: Some(SecretString::from(password.to_owned())),
        database: String::new(),
    };
    let good = Remote {
        addresses: vec![address],
        login: Some(login("secret")),
        ca: Some(ca),
        certificate: Some(own),
        key: Some(own_key),
    };
    let client = |remote: &Remote| Client::new(remote, PATIENCE);
    runtime().block_on(async {
        let ttl = std::time::Duration::from_secs(60);
        let (one, other) = (client(&good), client(&good));
        let lease = one.grant(ttl).await.unwrap();
        let key = "/tiffin/main/promoter";
        assert_eq!(one.take(key, "one", &lease).await, Ok(Ok(())));
        assert_eq!(one.keep(&lease).await, Ok(true));
        let second = other.grant(ttl).await.unwrap();
        assert_eq!(other.take(key, "other", &second).await, Ok(Err("one".to_owned())));
        let foreign = other.take("/else", "other", &second).await.unwrap_err();
        assert!(foreign.contains("permission denied"), "{foreign}");

        let refused = [
            (Remote { login: Some(login("wrong")), ..good.clone() }, "authentication failed"),
            (Remote { login: None, ..good.clone() }, "permission denied"),
            (Remote { certificate: None, key: None, ..good.clone() }, ""),
            (
                Remote { ca: Some(files.write("x.crt", &stranger.pem())), ..good.clone() },
                "certificate",
            ),
        ];
        for (remote, part) in refused {
            let taken = match client(&remote).grant(ttl).await {
                Ok(lease) => client(&remote).take(key, "x", &lease).await.map(|_| ()),
                Err(error) => Err(error),
            };
            let error = taken.unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    });
}
