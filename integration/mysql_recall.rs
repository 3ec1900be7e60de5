//! Questions about the statement before, by sessions of MySQL and MariaDB that share one
//! connection: they are answered as on a connection of their own, or refused.

use crate::support::PATIENCE;
use crate::support::mysql::{
    Engine, Fixture, Session, client_opts, cluster, errno, on_mysql_and_mariadb,
};
use serde_json::json;
use tiffin::cli::sandbox::servers::wait_until;

on_mysql_and_mariadb! { what_the_last_statement_left_is_its_own_sessions }

/// Nobody's connection was this session's in between.
const FORGOTTEN: Option<u16> = Some(1105);

fn what_the_last_statement_left_is_its_own_sessions(engine: Engine) {
    let fixture = Fixture::with(cluster(engine), |config| {
        config["clusters"]["main"]["pool"] = json!({ "size_max": 1 });
        config["workers"] = json!(1);
    });
    let primary = fixture.cluster.primary();
    primary.execute("CREATE TABLE app.t (n int PRIMARY KEY, v int)").unwrap();
    primary.execute("INSERT INTO app.t VALUES (1, 0), (2, 0), (3, 0)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    let (one, two) = (fixture.session(), fixture.session());
    let read = "SELECT @@port FROM t LIMIT 1";
    wait_until(PATIENCE, || fixture.ran_on(&one, read) != primary.name).unwrap();
    counted_rows(&one, &two);
    changed_rows(&one, &two);
    diagnostics(&fixture, &one, &two);
    // Its reads have left the primary again.
    wait_until(PATIENCE, || fixture.ran_on(&one, read) != primary.name).unwrap();
    diagnostics_behind_no_table(engine, &one, &two);
    character_sets(&fixture, &one, &two);
}

/// Of these the servers' trackers tell one half only.
fn character_sets(fixture: &Fixture, one: &Session, two: &Session) {
    let direct =
        Session::connect(&client_opts(fixture.cluster.primary().port, &fixture.cluster.app).into())
            .unwrap();
    let sql = "/* tiffin: primary */ SELECT CONCAT_WS('/', @@character_set_connection, \
               @@collation_connection, COALESCE(@@character_set_results, 'null')) FROM t LIMIT 1";
    for set in [
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
        "SET NAMES utf8mb4",
        "SET NAMES latin1",
        "SET character_set_results = NULL",
        "SET NAMES utf8mb4 COLLATE 'utf8mb4_unicode_ci'",
        "SET collation_connection = latin1_bin",
        "SET NAMES utf8mb4",
    ] {
        let values = [one, &direct].map(|session| {
            session.execute(set).unwrap();
            two.execute("UPDATE t SET v = v + 1").unwrap();
            session.value(sql).unwrap()
        });
        assert_eq!(values[0], values[1], "{set}");
    }
}

/// Somebody waits for the connection that has counted, and gets it after the question.
fn counted_rows(one: &Session, two: &Session) {
    for place in ["", "/* tiffin: primary */ "] {
        let count = format!("{place}SELECT SQL_CALC_FOUND_ROWS n FROM t WHERE n < 3 LIMIT 1");
        let other = format!("{place}SELECT n FROM t");
        std::thread::scope(|scope| {
            assert_eq!(one.query(&count).unwrap().len(), 1);
            let others: Vec<_> =
                (0..3).map(|_| scope.spawn(|| two.query(&other).unwrap().len())).collect();
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!(one.value("SELECT FOUND_ROWS()").unwrap(), "2");
            one.execute("DO 1").unwrap();
            for other in others {
                assert_eq!(other.join().unwrap(), 3);
            }
        });
    }
}

fn changed_rows(one: &Session, two: &Session) {
    one.execute("UPDATE t SET v = v + 1 WHERE n < 3").unwrap();
    two.execute("UPDATE t SET v = v + 1").unwrap();
    assert_eq!(one.value("SELECT ROW_COUNT()").unwrap(), "2");
    assert_eq!(two.value("select  row_count();").unwrap(), "3");
    two.execute("DO 1").unwrap();
    assert_eq!(one.value("SELECT ROW_COUNT()").unwrap(), "-1", "after a SELECT");
    one.execute("UPDATE t SET v = v + 1 WHERE n < 3").unwrap();
    assert_eq!(one.value("/* tiffin: primary */ SELECT ROW_COUNT() + 1").unwrap(), "3");
    one.execute("UPDATE t SET v = v + 1 WHERE n < 3").unwrap();
    two.execute("UPDATE t SET v = v + 1").unwrap();
    let error = one.execute("/* tiffin: primary */ SELECT ROW_COUNT() + 1").unwrap_err();
    assert_eq!(errno(&error), FORGOTTEN, "{error:#}");
}

fn diagnostics(fixture: &Fixture, one: &Session, two: &Session) {
    let warn = "INSERT IGNORE INTO t VALUES (1, 1)";
    one.execute(warn).unwrap();
    assert_eq!(one.query("SHOW WARNINGS").unwrap().len(), 1);
    assert_eq!(one.query("SHOW WARNINGS").unwrap().len(), 1, "asking leaves them there");
    assert_eq!(one.value("SELECT @@warning_count").unwrap(), "1");
    // What was asked of one server is not what another statement has left there before.
    one.execute(warn).unwrap();
    assert_eq!(one.query("SELECT n FROM t").unwrap().len(), 3);
    assert_eq!(one.query("SHOW WARNINGS").unwrap().len(), 0);
    one.execute(warn).unwrap();
    // MariaDB keeps them behind a SELECT without tables.
    assert_eq!(one.value("SELECT count(*) FROM t").unwrap(), "3");
    assert_eq!(one.value("SELECT @@warning_count").unwrap(), "0");
    assert_eq!(errno(&one.execute("INSERT INTO t VALUES (1, 1)").unwrap_err()), Some(1062));
    assert_eq!(one.query("SHOW ERRORS").unwrap().len(), 1);
    one.execute(warn).unwrap();
    // After a moment others may have the connection.
    two.execute("UPDATE t SET v = v + 1").unwrap();
    let error = one.execute("SHOW WARNINGS").unwrap_err();
    assert_eq!(errno(&error), FORGOTTEN, "{error:#}");
    assert_eq!(two.query("SHOW WARNINGS").unwrap().len(), 0);
    assert_eq!(fixture.ran_on(two, "SELECT @@port FROM t LIMIT 1 FOR UPDATE"), "my0");
}

/// MariaDB keeps what there was to warn of until a statement names a table.
fn diagnostics_behind_no_table(engine: Engine, one: &Session, two: &Session) {
    let kept = engine == Engine::MariaDb;
    let warn = "SELECT CAST('x' AS SIGNED)";
    one.execute(warn).unwrap();
    one.execute("SELECT 1").unwrap();
    let left = usize::from(kept);
    assert_eq!(one.query("SHOW WARNINGS").unwrap().len(), left, "the same connection");
    one.execute(warn).unwrap();
    for session in [two, one] {
        session.execute("SELECT 1").unwrap();
        assert_eq!(session.value("SELECT @@port - @@port").unwrap(), "0");
    }
    assert_eq!(two.query("SHOW WARNINGS").unwrap().len(), 0, "another session's");
    one.execute(warn).unwrap();
    two.execute("SELECT 1").unwrap();
    assert_eq!(two.query("SHOW WARNINGS").unwrap().len(), 0, "another session's");
    one.execute(warn).unwrap();
    one.execute("/* tiffin: primary */ SELECT 1").unwrap();
    match one.query("SHOW WARNINGS") {
        Ok(rows) => assert!(!kept && rows.is_empty(), "{rows:?}"),
        Err(error) => assert_eq!((kept, errno(&error)), (true, FORGOTTEN), "{error:#}"),
    }
    one.query("SELECT n FROM t").unwrap();
    assert_eq!(one.query("SHOW WARNINGS").unwrap().len(), 0);
}
