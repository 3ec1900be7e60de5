//! Patroni changes the primary, tiffin follows: who the members are is asked of it, who the primary
//! is proved by the servers.

use crate::maintenance::{TOKEN, said};
use crate::support::patroni::Patroni;
use crate::support::{Login, PATIENCE, Proxy, Session, binary, client_config, wait_until};
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tiffin::cli::sandbox::servers::process::free_port;

const WRITERS: usize = 3;
/// The default; the figures are told in it.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks at who takes writes.
const LOOK: Duration = Duration::from_millis(5);

pub fn start_proxy(patroni: &Patroni, change: impl FnOnce(&mut Value)) -> Proxy {
    let urls: Vec<String> =
        patroni.members.iter().map(|member| format!("http://127.0.0.1:{}", member.api)).collect();
    let mut config = json!({
        "listen": {
            "postgres": [format!("127.0.0.1:{}", free_port().unwrap())],
            "http": format!("127.0.0.1:{}", free_port().unwrap()),
        },
        "api": { "token": TOKEN },
        "users": [{ "name": "app", "password": patroni.app.password }],
        "clusters": { "main": {
            "discovery": "patroni",
            "patroni": { "urls": urls, "interval": "200ms" },
            "service": { "user": "tiffin", "password": patroni.service.password },
            "gate": { "hold": "1min" },
        } },
    });
    change(&mut config["clusters"]["main"]);
    Proxy::spawn_in(binary(), patroni.folder.path(), &config).unwrap()
}

/// A node as `/api/v1/topology` shows it.
fn node(proxy: &Proxy, name: &str) -> Option<Value> {
    let (_, body) = proxy.get("/api/v1/topology").ok()?;
    let body: Value = serde_json::from_str(&body).ok()?;
    body["clusters"][0]["nodes"].as_array()?.iter().find(|node| node["name"] == name).cloned()
}

pub fn wait_node(proxy: &Proxy, name: &str, is_so: impl Fn(&Value) -> bool) {
    wait_until(PATIENCE, || node(proxy, name).is_some_and(|node| is_so(&node)))
        .unwrap_or_else(|_| panic!("{name}: {:#?}\n{}", node(proxy, name), proxy.log()));
}

pub fn reads(node: &Value) -> bool {
    node["in_read_set"] == true && node["role"] == "replica"
}

/// What the writers have seen.
#[derive(Default)]
struct Books {
    stop: AtomicBool,
    /// When which row was acknowledged, by all.
    done: Mutex<Vec<(Instant, i64)>>,
    errors: Mutex<Vec<String>>,
}

impl Books {
    fn write(&self, app: &Login, proxy: &Proxy, writer: i64) {
        let connect = || Session::connect(&client_config(proxy.port, app));
        let mut session = connect().expect("a session");
        for step in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let n = writer * 1_000_000 + step;
            match session.query(&format!("INSERT INTO t VALUES ({n})")) {
                Ok(_) => self.done.lock().unwrap().push((Instant::now(), n)),
                Err(error) => {
                    self.errors.lock().unwrap().push(format!("writer {writer}: {error:#}"));
                    let again = || connect().map(|fresh| session = fresh).is_ok();
                    wait_until(PATIENCE, again).expect("a new session");
                }
            }
        }
    }

    fn count(&self) -> usize {
        self.done.lock().unwrap().len()
    }

    fn go_on(&self, proxy: &Proxy) {
        let before = self.count();
        wait_until(PATIENCE, || self.count() >= before + 10 * WRITERS)
            .unwrap_or_else(|_| panic!("{:?}\n{}", self.errors.lock().unwrap(), proxy.log()));
    }

    fn take_errors(&self) -> Vec<String> {
        std::mem::take(&mut *self.errors.lock().unwrap())
    }

    /// From `since` on: how long nothing was acknowledged, and how long after it was possible.
    fn tell(&self, what: &str, promoted: Instant) {
        let mut done: Vec<Instant> = self.done.lock().unwrap().iter().map(|(at, _)| *at).collect();
        done.sort_unstable();
        let after = done.partition_point(|at| *at < promoted);
        let (last, first) = (done[after - 1], done[after]);
        println!(
            "measured: {what}: no writes for {} ms, the first {} ms after the promotion (probe \
             interval {} ms)",
            first.duration_since(last).as_millis(),
            first.duration_since(promoted).as_millis(),
            PROBE_INTERVAL.as_millis(),
        );
    }
}

/// Waits until a member other than `old` takes writes; which, and when.
pub fn promoted<'a>(patroni: &'a Patroni, old: &str) -> (&'a str, Instant) {
    let others: Vec<_> = patroni.members.iter().filter(|member| member.name != old).collect();
    let sessions: Vec<_> =
        others.iter().map(|member| patroni.session(member, "postgres")).collect();
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        for (member, session) in others.iter().zip(&sessions) {
            if session.value("SELECT pg_is_in_recovery()").is_ok_and(|is| is == "f") {
                return (&member.name, Instant::now());
            }
        }
        std::thread::park_timeout(LOOK);
    }
    panic!("nobody was promoted:\n{}", patroni.logs());
}

#[test]
fn patroni_leads_and_the_proxy_follows() {
    let mut patroni = Patroni::start(2);
    let leader = patroni.session(&patroni.members[0], "app");
    leader.query("CREATE TABLE t (n bigint PRIMARY KEY)").unwrap();
    leader.query("ALTER TABLE t OWNER TO app").unwrap();
    drop(leader);
    let proxy = start_proxy(&patroni, |_| {});
    proxy.wait_ready().unwrap();
    wait_node(&proxy, "p1", reads);
    let books = Books::default();
    let worked = std::thread::scope(|scope| {
        let (books, proxy) = (&books, &proxy);
        for writer in 0..WRITERS as i64 {
            let app = patroni.app.clone();
            scope.spawn(move || books.write(&app, proxy, writer));
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            books.go_on(proxy);
            play(&mut patroni, proxy, books);
        }));
        books.stop.store(true, Ordering::Relaxed);
        worked
    });
    worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn play(patroni: &mut Patroni, proxy: &Proxy, books: &Books) {
    // One more member.
    patroni.add();
    wait_node(proxy, "p2", reads);
    books.go_on(proxy);
    assert_eq!(books.take_errors(), Vec::<String>::new(), "a new node is nobody's trouble");
    patroni.wait_streaming(2);

    // A switchover.
    let order = json!({ "leader": "p0", "candidate": "p1" });
    let (new, at) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| promoted(patroni, "p0"));
        let said = patroni.ask(&patroni.members[0], "switchover", Some(order));
        assert!(said.contains("switched over"), "{said}\n{}", patroni.logs());
        seen.join().unwrap()
    });
    assert_eq!(new, "p1");
    books.go_on(proxy);
    books.tell("switchover by Patroni", at);
    let errors = books.take_errors();
    println!("measured: switchover by Patroni: {} errors of {WRITERS} writers", errors.len());
    assert!(errors.len() <= WRITERS, "{errors:#?}");
    patroni.wait_leader("p1");
    patroni.wait_streaming(2);
    wait_node(proxy, "p0", reads);

    // Reads are kept away by a tag.
    patroni.configure(&patroni.members[0], json!({ "noloadbalance": true }));
    patroni.ask(&patroni.members[0], "reload", Some(json!({})));
    wait_node(proxy, "p0", |node| {
        node["in_read_set"] == false && node["out_because"].to_string().contains("noloadbalance")
    });

    // The leader's host is gone.
    let killed = &patroni.members[1];
    let (new, at) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| promoted(patroni, "p1"));
        killed.kill9();
        seen.join().unwrap()
    });
    let new = new.to_owned();
    books.go_on(proxy);
    books.tell("a killed leader", at);
    let errors = books.take_errors();
    assert!(errors.len() <= WRITERS, "{errors:#?}");

    // It returns as a replica.
    patroni.run(killed);
    wait_node(proxy, "p1", reads);
    books.go_on(proxy);
    assert_eq!(books.take_errors(), Vec::<String>::new());

    let mut switchover = Command::new(binary());
    switchover.args(["switchover", "--to", "p1", "--config"]).arg(&proxy.config_path);
    let refused = switchover.output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("patronictl switchover"), "{}", said(&refused));

    // Whatever was acknowledged is there.
    books.stop.store(true, Ordering::Relaxed);
    let new = patroni.members.iter().find(|member| member.name == new).unwrap();
    let rows = patroni.session(new, "app").query("SELECT n FROM t").unwrap();
    let there: std::collections::HashSet<i64> =
        rows.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect();
    let done = books.done.lock().unwrap();
    let missing: Vec<_> = done.iter().filter(|(_, n)| !there.contains(n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
