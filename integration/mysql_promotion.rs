//! The proxy promotes a replica of MySQL and MariaDB, as in `promotion.rs`; what is the same on
//! every engine is in `scenarios.rs` and `chaos/`.

use crate::maintenance::{said, tiffin};
use crate::promotion::{
    Writing, actions, around, check_books, epoch, made, promoted, step, wait_done,
};
use crate::support::mysql::{
    Engine, Fixture, MARIADB_PRIVILEGES, MYSQL_PRIVILEGES, Server, on_mysql_and_mariadb,
};
use crate::support::relay::{Behaviour, Relay};
use crate::support::{PATIENCE, Stand, Which, wait_until};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

on_mysql_and_mariadb! {
    a_killed_primary_is_replaced_and_joins_when_it_returns,
    a_primary_that_is_lost_while_it_sends_a_transaction_is_replaced,
    neither_a_stall_nor_a_vain_switchover_changes_anything,
    a_cut_link_is_no_lost_primary,
    a_primary_that_returns_before_there_is_another_takes_writes,
}

/// A transaction of 40 MB takes a tenth of a second to be sent.
const LARGE_ROWS: u32 = 400;
/// How often a primary comes back until that is while it is being replaced.
const RETURNS_MAX: u32 = 20;
/// And how much later each time.
const RETURNS_LATER: Duration = Duration::from_millis(50);

fn which(engine: Engine) -> Which {
    match engine {
        Engine::MySql => Which::MySql,
        Engine::MariaDb => Which::MariaDb,
    }
}

fn start(engine: Engine) -> Fixture {
    let fixture = Server::promoting(which(engine), |_| {});
    fixture.create_table("t", "writer int, n int, PRIMARY KEY (writer, n)");
    fixture
}

#[test]
fn the_documentation_has_the_privileges_that_suffice() {
    let page = include_str!("../docs/failover.md");
    assert!(page.contains(MYSQL_PRIVILEGES) && page.contains(MARIADB_PRIVILEGES));
}

fn a_killed_primary_is_replaced_and_joins_when_it_returns(engine: Engine) {
    let fixture = start(engine);
    let old = fixture.cluster.primary();
    let writing = Writing::default();
    let acknowledged = around(&fixture, &writing, || {
        let killed = Instant::now();
        old.kill9().unwrap();
        wait_until(PATIENCE, || !actions(&fixture).is_empty()).expect("it is noticed");
        println!("measured: promotion begun {} ms after the kill", killed.elapsed().as_millis());
        let action = wait_done(&fixture, 1);
        println!("measured: no writes for {} ms", action["held_ms"]);
        let (_, other) = promoted(&fixture.cluster, &action);
        assert_eq!(step(&action, "read-only")["ok"], false, "nobody answered there");
        assert_eq!(step(&action, &format!("let {} follow", other.name))["ok"], true, "{action:#}");
        writing.go_on(10);
        // It comes back and would take writes from whoever asks. It may have a commit that no
        // replica had, and that nobody was told of.
        old.start().unwrap();
        let action = wait_done(&fixture, 2);
        assert_eq!(step(&action, "set my0 read-only")["ok"], true, "{action:#}");
        let joined = step(&action, "make my0 a replica");
        match joined["ok"] == true {
            true => fixture.wait_in_read_set([old, other]),
            false => {
                let told = joined["told"].as_str().unwrap();
                assert!(told.contains("has transactions that"), "{told}");
            }
        }
        writing.go_on(10);
    });
    let (new, _) = promoted(&fixture.cluster, &made(&fixture)[0]);
    check_books(&fixture, new, &acknowledged);
}

/// Replicas have the beginning of a transaction whose rest never comes, and do not wait for it.
fn a_primary_that_is_lost_while_it_sends_a_transaction_is_replaced(engine: Engine) {
    let fixture = start(engine);
    fixture.create_table("large", "id int AUTO_INCREMENT PRIMARY KEY, b longtext");
    let old = fixture.cluster.primary();
    let received = || {
        let size = |path: std::path::PathBuf| path.metadata().map_or(0, |file| file.len());
        let paths = fixture.cluster.replicas().iter().flat_map(|replica| {
            let files = replica.socket.with_file_name("data").read_dir().expect("its files");
            files.map(|file| file.expect("a file").path())
        });
        let logs = paths.filter(|path| path.to_string_lossy().contains("/relay."));
        logs.map(size).sum::<u64>()
    };
    let before = received();
    let words: Vec<String> = (0..LARGE_ROWS).map(|_| "(REPEAT('x', 100000))".to_owned()).collect();
    let insert = format!("INSERT INTO app.large (b) VALUES {}", words.join(","));
    std::thread::scope(|scope| {
        scope.spawn(|| old.execute(&insert).expect_err("nobody confirms it"));
        let begun = Instant::now();
        while received() < before + (1 << 20) {
            assert!(begun.elapsed() < PATIENCE, "nothing is sent");
            std::thread::yield_now();
        }
        old.kill9().unwrap();
    });
    let action = wait_done(&fixture, 1);
    let (new, other) = promoted(&fixture.cluster, &action);
    assert_eq!(step(&action, &format!("let {} follow", other.name))["ok"], true, "{action:#}");
    println!("measured: no writes for {} ms", action["held_ms"]);
    assert_eq!(new.value("SELECT count(*) FROM app.large").unwrap(), "0", "it came whole: play on");
    // Nothing of it is left that writers would have to wait for.
    fixture.session().query("INSERT INTO large (id, b) VALUES (1, 'y')").unwrap();
    fixture.wait_in_read_set([other]);
    wait_until(PATIENCE, || other.value("SELECT b FROM app.large").is_ok_and(|b| b == "y"))
        .expect("it applies what the new primary sends");
}

/// A primary that stalls for half a second is not lost; a target that does not catch up in time
/// leaves everything as it was.
fn neither_a_stall_nor_a_vain_switchover_changes_anything(engine: Engine) {
    let fixture = start(engine);
    let (primary, target) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    let before = epoch(&fixture);
    for n in 0..3 {
        primary.sigstop().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        primary.sigcont().unwrap();
        fixture.session().query(&format!("INSERT INTO t VALUES (0, {n})")).unwrap();
    }
    assert_eq!((epoch(&fixture), actions(&fixture)), (before, vec![]));

    target.stop_applying().unwrap();
    fixture.session().query("INSERT INTO t VALUES (0, 3)").unwrap();
    let asked = tiffin(&fixture, &["switchover", "--to", &target.name, "--timeout", "0.5"]);
    assert_eq!(asked.status.code(), Some(1), "{}", said(&asked));
    assert!(said(&asked).contains("see whether my1 follows: failed"), "{}", said(&asked));
    assert!(!said(&asked).contains("hold writes"), "{}", said(&asked));
    target.resume().unwrap();
    let open = fixture.session();
    open.query("BEGIN").unwrap();
    open.query("INSERT INTO t VALUES (0, 5)").unwrap();
    let asked = tiffin(&fixture, &["switchover", "--to", &target.name, "--timeout", "0.5"]);
    assert_eq!(asked.status.code(), Some(1), "{}", said(&asked));
    assert!(said(&asked).contains("leave my0 the primary: requests go on"), "{}", said(&asked));
    open.query("COMMIT").unwrap();
    fixture.session().query("INSERT INTO t VALUES (0, 4)").unwrap();
    assert_eq!(
        (primary.value("SELECT @@read_only").unwrap(), epoch(&fixture)),
        ("0".into(), before)
    );
    assert_eq!(target.value("SELECT @@read_only").unwrap(), "1");
    fixture.wait_in_read_set(fixture.cluster.replicas());
}

/// The proxy alone has lost the primary; its replicas still follow it, and are let in again when the
/// proxy makes them connect anew.
fn a_cut_link_is_no_lost_primary(engine: Engine) {
    let relay = Arc::new(Relay::start(Behaviour::Refuse));
    let cable = relay.clone();
    let fixture = Server::promoting(which(engine), move |config| {
        let main = &mut config["clusters"]["main"];
        let address = main["nodes"]["my0"].as_str().unwrap();
        cable.set(Behaviour::Forward(address.rsplit(':').next().unwrap().parse().unwrap()));
        main["nodes"]["my0"] = format!("127.0.0.1:{}", cable.port).into();
        // The replicas' way is free: a busy machine, on which a receiver that was made to connect
        // again hears nothing for a second and connects once more, must not make it look cut.
        main["failover"]["detect"]["confirm"] = "30s".into();
    });
    let primary = fixture.cluster.primary();
    for cut in [Behaviour::Silence, Behaviour::Refuse] {
        let told = || fixture.proxy.log().matches("it was told to connect again").count();
        let before = told();
        relay.set(cut);
        // Both, twice.
        wait_until(PATIENCE, || told() >= before + 4)
            .unwrap_or_else(|_| panic!("{}", fixture.proxy.log()));
        assert_eq!(actions(&fixture), Vec::<Value>::new());
        relay.set(Behaviour::Forward(primary.port));
        fixture.wait_primary(primary);
        fixture.wait_in_read_set(fixture.cluster.replicas());
        fixture.session().query("CREATE OR REPLACE VIEW v AS SELECT 1").unwrap();
    }
    assert_eq!(actions(&fixture), Vec::<Value>::new());
    // What was shortened meanwhile is as it was.
    let bounds = match engine {
        Engine::MySql => "SELECT @@replica_net_timeout",
        Engine::MariaDb => "SELECT @@slave_net_timeout",
    };
    for replica in fixture.cluster.replicas() {
        assert_eq!(replica.value(bounds).unwrap(), "4");
    }
}

/// Whoever is back while a replica is looked for is made read-only. If none can be promoted, that is
/// taken back.
fn a_primary_that_returns_before_there_is_another_takes_writes(engine: Engine) {
    let fixture = Server::promoting(which(engine), |config| {
        // The promotion is tried again before the monitor has seen that the primary is back.
        config["clusters"]["main"]["monitor"]["interval"] = "3s".into();
    });
    let primary = fixture.cluster.primary();
    fixture.cluster.replicas().iter().for_each(|server| server.kill9().unwrap());
    let last = |state: &str| {
        let those = actions(&fixture).into_iter().filter(|action| action["state"] == state);
        those.filter_map(|action| action["id"].as_u64()).max().unwrap_or(0)
    };
    let was_read_only = || {
        let actions = actions(&fixture);
        let mut steps = actions.iter().flat_map(|action| action["steps"].as_array()).flatten();
        let what = format!("set {} read-only", primary.name);
        steps.any(|step| step["what"] == *what && step["ok"] == true)
    };
    // In time is after the monitor has looked and before the promotion is tried again; when that is
    // depends on the machine, so each time it comes a little later.
    for round in 0..RETURNS_MAX {
        let before = last("failed");
        primary.kill9().unwrap();
        wait_until(PATIENCE, || last("failed") > before).expect("it is tried");
        std::thread::sleep(RETURNS_LATER * round);
        primary.start_again();
        fixture.wait_primary(primary);
        wait_until(PATIENCE, || last("running") == 0).expect("that ends");
        assert!(
            primary.value("SELECT @@read_only").unwrap() == "0",
            "{:#?}\n{}",
            actions(&fixture),
            fixture.proxy.log()
        );
        if was_read_only() {
            return;
        }
    }
    panic!("it never came back in time:\n{}", fixture.proxy.log());
}
