//! Several proxies in front of one cluster: only the one that has the lease in etcd promotes.

use crate::maintenance::TOKEN;
use crate::promotion::promoting;
use crate::support::{Fixture, PATIENCE, Proxy, binary, proxy, wait_until};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A real etcd on loopback, gone with the test.
struct Etcd {
    process: Child,
    address: String,
    _folder: TempDir,
}

impl Etcd {
    fn start() -> Etcd {
        let folder = tempfile::tempdir().unwrap();
        let (client, peer) = (
            tiffin::cli::sandbox::servers::process::free_port().unwrap(),
            tiffin::cli::sandbox::servers::process::free_port().unwrap(),
        );
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.path().join("data"));
        command.args(["--listen-client-urls", &url(client)]);
        command.args(["--advertise-client-urls", &url(client)]);
        command.args(["--listen-peer-urls", &url(peer)]);
        command.args(["--initial-advertise-peer-urls", &url(peer)]);
        command.args(["--initial-cluster", &format!("default={}", url(peer))]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().expect("etcd is installed (scripts/install-deps.sh)");
        Etcd { process, address: format!("127.0.0.1:{client}"), _folder: folder }
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

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

#[test]
fn only_the_proxy_with_the_lease_promotes() {
    let mut etcd = Etcd::start();
    let address = etcd.address.clone();
    let fixture: Fixture = promoting()
        .config(move |config| {
            let failover = &mut config["clusters"]["main"]["failover"];
            failover["coordination"] = "etcd".into();
            failover["etcd"]["endpoints"] = vec![address].into();
            failover["etcd"]["lease"] = "3s".into();
        })
        .start();
    let mut config = fixture.config.clone();
    config["listen"] = proxy::config(&fixture.cluster, 0).unwrap()["listen"].take();
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

    // The holder goes away without a word: the other one takes over when the lease has run out.
    holder.kill();
    let name = primary(other).unwrap();
    let new = fixture.cluster.servers().iter().find(|server| server.name == name).unwrap();
    fixture.cluster.rewind(old, new).unwrap();
    new.kill9().unwrap();
    wait_until(PATIENCE, || primary(other).is_some_and(|now| now != name))
        .unwrap_or_else(|_| panic!("{}", other.log()));
    wait_until(PATIENCE, || actions(other).iter().any(|action| action["state"] == "done")).unwrap();

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
