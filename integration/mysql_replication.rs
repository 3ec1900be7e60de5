//! The log of the primary, read through the proxy; session pooling; KILLs that come late.

use crate::support::mysql::{
    Cluster, Engine, Fixture, Options, Server, errno, mysql_9, on_mysql_and_mariadb, options,
};
use crate::support::{PATIENCE, wait_until};
use serde_json::json;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

on_mysql_and_mariadb! {
    the_log_is_read_through_the_proxy,
    a_session_of_its_own,
    kills_meet_nobody_else,
}

/// mysqlbinlog and a replica have the proxy for their source.
fn the_log_is_read_through_the_proxy(engine: Engine) {
    let cluster = Cluster::start(Options { replicas: 2, ..options(engine) }).expect("servers");
    let primary = cluster.primary();
    for sql in [
        "CREATE USER reader@'%' IDENTIFIED BY 'pw'",
        "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO reader@'%'",
    ] {
        primary.execute(sql).unwrap();
    }
    cluster.wait_caught_up(primary).unwrap();
    // The last server is none of the proxy's: it is the proxy's client.
    let last = cluster.replicas()[1].name.clone();
    let fixture = Fixture::with(cluster, |config| {
        let users = config["users"].as_array_mut().expect("users");
        users.push(json!({ "name": "reader", "password": "pw" }));
        config["clusters"]["main"]["nodes"].as_object_mut().expect("nodes").remove(&last);
    });
    let app = fixture.session();
    app.execute("CREATE TABLE t (n INT)").unwrap();
    for n in 0..10 {
        app.execute(&format!("INSERT INTO t VALUES ({n})")).unwrap();
    }
    let (primary, replica) = (fixture.cluster.primary(), &fixture.cluster.replicas()[1]);
    let file = primary.value("SHOW BINARY LOGS").unwrap();
    let read = |port: u16| read_log(engine, port, &file);
    let through = read(fixture.proxy.port);
    assert_eq!(through.matches("### INSERT INTO").count(), 10, "{through}");
    assert_eq!(through, read(primary.port));
    follow(engine, replica, fixture.proxy.port);
    app.execute("INSERT INTO t VALUES (10)").unwrap();
    let arrived = || replica.value("SELECT COUNT(*) FROM app.t").is_ok_and(|count| count == "11");
    wait_until(PATIENCE, arrived).unwrap_or_else(|_| {
        let column = |name: &str| replica.status(name).unwrap();
        let io = if engine == Engine::MySql { "Replica_IO_State" } else { "Slave_IO_State" };
        panic!("{}: {}, {}", column(io), column("Last_IO_Error"), column("Last_SQL_Error"));
    });
}

/// Statements and rows of a log, as a client of this server prints them.
fn read_log(engine: Engine, port: u16, file: &str) -> String {
    let mut command = match engine {
        Engine::MariaDb => Command::new("mariadb-binlog"),
        Engine::MySql => Command::new(mysql_9().with_file_name("bin").join("mysqlbinlog")),
    };
    command.args(["--no-defaults", "--read-from-remote-server", "--verbose"]);
    if engine == Engine::MySql {
        command.arg("--get-server-public-key");
    }
    command.args(["-h127.0.0.1", "-ureader", "-ppw"]).arg(format!("-P{port}")).arg(file);
    let output = command.output().expect("run the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a replica of the cluster get what it applies from this port.
fn follow(engine: Engine, replica: &Server, port: u16) {
    let statements = match engine {
        Engine::MariaDb => [
            "STOP SLAVE".to_owned(),
            format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, \
                 MASTER_USER='reader', MASTER_PASSWORD='pw', MASTER_USE_GTID=slave_pos"
            ),
            "START SLAVE".to_owned(),
        ],
        Engine::MySql => [
            "STOP REPLICA".to_owned(),
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, \
                 SOURCE_USER='reader', SOURCE_PASSWORD='pw', SOURCE_AUTO_POSITION=1, \
                 SOURCE_SSL=0, GET_SOURCE_PUBLIC_KEY=1"
            ),
            "START REPLICA".to_owned(),
        ],
    };
    for sql in statements {
        replica.execute(&sql).unwrap();
    }
}

/// `pool.mode: session`: whatever a session does is done on one connection, which is its own.
fn a_session_of_its_own(engine: Engine) {
    let cluster = Cluster::start(Options { replicas: 0, ..options(engine) }).expect("a server");
    let fixture = Fixture::with(cluster, |config| {
        config["clusters"]["main"]["pool"] = json!({ "mode": "session", "size_max": 2 });
    });
    let (one, two) = (fixture.session(), fixture.session());
    let id =
        |session: &crate::support::mysql::Session| session.value("SELECT CONNECTION_ID()").unwrap();
    let (first, second) = (id(&one), id(&two));
    assert_ne!(first, second);
    one.execute("SET @a = 5, sort_buffer_size = 1048576").unwrap();
    for sql in ["SELECT 1", "BEGIN", "SELECT 2", "COMMIT", "CREATE TEMPORARY TABLE t (n INT)"] {
        one.execute(sql).unwrap();
        assert_eq!((id(&one), id(&two)), (first.clone(), second.clone()), "{sql}");
    }
    assert_eq!(one.value("SELECT @a").unwrap(), "5");
    assert_eq!(two.value("SELECT @a").unwrap(), "");
    // A third one waits, and gets a connection on which nothing is left.
    drop(one);
    let free = || fixture.try_value("SELECT @a").is_ok_and(|value| value.is_empty());
    wait_until(PATIENCE, free).expect("room for a third");
    assert_eq!(fixture.session().value("SELECT @@sort_buffer_size = 1048576").unwrap(), "0");
}

/// A KILL QUERY may come when its statement is over. Sessions that share the connections do not
/// notice.
fn kills_meet_nobody_else(engine: Engine) {
    const KILLS: usize = 150;
    let cluster = Cluster::start(Options { replicas: 0, ..options(engine) }).expect("a server");
    let fixture = Fixture::with(cluster, |config| {
        config["clusters"]["main"]["pool"] = json!({ "size_max": 2 });
    });
    let ends = AtomicBool::new(false);
    let victim = fixture.session();
    let id = victim.id();
    let (killed, others) = thread::scope(|scope| {
        let killed = scope.spawn(|| {
            let mut killed = 0;
            while !ends.load(Ordering::Relaxed) {
                match victim.value("SELECT SLEEP(0.002)") {
                    // MySQL's sleeper says itself that it was woken.
                    Ok(woken) => killed += usize::from(woken == "1"),
                    Err(error) => {
                        assert_eq!(errno(&error), Some(1317), "{error:#}");
                        killed += 1;
                    }
                }
            }
            killed
        });
        let other = scope.spawn(|| {
            let (session, mut count) = (fixture.session(), 0);
            while !ends.load(Ordering::Relaxed) {
                assert_eq!(session.value("SELECT SLEEP(0.001) + 7").unwrap(), "7");
                count += 1;
            }
            count
        });
        let killer = fixture.session();
        for _ in 0..KILLS {
            killer.execute(&format!("KILL QUERY {id}")).unwrap();
        }
        ends.store(true, Ordering::Relaxed);
        (killed.join().unwrap(), other.join().unwrap())
    });
    println!(
        "measured: {killed} of {KILLS} KILLs met their statement, {others} others were spared"
    );
    assert_eq!(victim.value("SELECT 1").unwrap(), "1");
}
