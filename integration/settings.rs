//! Settings follow their session over connections that other sessions change in between.

use crate::support::{Fixture, Session, on_postgres_18, sqlstate};

/// Two superusers over one connection to the primary.
fn two_sessions(fixture: &Fixture) -> [Session; 2] {
    let login = || {
        let superuser = &fixture.cluster.superuser;
        fixture.session_with(|config| {
            config.user(&superuser.user).password(&superuser.password).dbname("app");
            config.options("-c tiffin.target=primary");
        })
    };
    [login(), login()]
}

fn one_connection() -> Fixture {
    Fixture::build().replicas(0).key("pool.size_max", 1).start()
}

/// A superuser's setting, kept while acting as somebody who may not set it, on a connection on
/// which another session acts as that one already.
#[test]
fn a_setting_is_brought_by_who_may_set_it() {
    let fixture = one_connection();
    let [one, other] = two_sessions(&fixture);
    one.query("SET lo_compat_privileges = on").unwrap();
    one.query("SET SESSION AUTHORIZATION app").unwrap();
    other.query("SET SESSION AUTHORIZATION app").unwrap();
    for _ in 0..2 {
        assert_eq!(one.value("SHOW lo_compat_privileges").unwrap(), "on");
        assert_eq!(one.value("SELECT session_user").unwrap(), "app");
        assert_eq!(other.value("SHOW lo_compat_privileges").unwrap(), "off");
        assert_eq!(other.value("SELECT session_user").unwrap(), "app");
    }
    // Set by a role that may, kept by a user who may not.
    one.query("CREATE ROLE helper SUPERUSER; GRANT helper TO app").unwrap_err();
    other.query("RESET SESSION AUTHORIZATION").unwrap();
    other.query("CREATE ROLE helper SUPERUSER; GRANT helper TO app").unwrap();
    let app = fixture.session_with(|config| {
        config.options("-c tiffin.target=primary");
    });
    app.query("SET ROLE helper").unwrap();
    app.query("SET log_min_duration_statement = 12345").unwrap();
    app.query("RESET ROLE").unwrap();
    let neighbour = fixture.session();
    for _ in 0..2 {
        assert_eq!(neighbour.value("SHOW log_min_duration_statement").unwrap(), "-1");
        assert_eq!(app.value("SHOW log_min_duration_statement").unwrap(), "12345ms");
        assert_eq!(app.value("SELECT current_user").unwrap(), "app");
    }
}

/// What cannot be brought to a connection must not be missing there either: the statement behind
/// it does not run as somebody else.
#[test]
fn nothing_runs_without_its_settings() {
    let fixture = one_connection();
    let [one, other] = two_sessions(&fixture);
    other.query("CREATE TABLE written (n int); CREATE ROLE doomed SUPERUSER").unwrap();
    one.query("SET ROLE doomed").unwrap();
    other.query("SELECT 1").unwrap();
    let primary = fixture.cluster.primary();
    primary.query_in("app", "DROP ROLE doomed").unwrap();
    let error = one.query("INSERT INTO written VALUES (1)").unwrap_err();
    assert_eq!(sqlstate(&error), Some("22023"), "{error:#}");
    assert!(format!("{error:#}").contains("doomed"), "{error:#}");
    assert_eq!(other.value("SELECT count(*) FROM written").unwrap(), "0");
    assert_eq!(other.value("SELECT current_user").unwrap(), "postgres");
}

/// A role that a replica does not know yet is no reason to fail.
#[test]
fn settings_that_a_replica_refuses_lead_to_the_primary() {
    let fixture = Fixture::build().replicas(1).start();
    let (primary, replica) = (fixture.cluster.primary(), fixture.cluster.replica(0));
    replica.pause_replay().unwrap();
    primary.execute("CREATE ROLE fresh; GRANT fresh TO app").unwrap();
    let session = fixture.session();
    session.query("SET ROLE fresh").unwrap();
    let read = "/* tiffin: replica, consistency=eventual */ SELECT inet_server_port()";
    for _ in 0..3 {
        assert_eq!(fixture.ran_on(&session, read), primary.name);
    }
    let user = "/* tiffin: replica, consistency=eventual */ SELECT current_user";
    assert_eq!(session.value(user).unwrap(), "fresh");
    // The replica's connection was left in a failed transaction, and nobody else gets it.
    let retried = fixture.metrics().sum("tiffin_retried_total", &[("node", &replica.name)]);
    assert!(retried >= 4.0, "{retried}");
    assert_eq!(fixture.ran_on(&fixture.session(), read), replica.name);
}

/// `SET datestyle` may name the half of it.
#[test]
fn half_a_date_style_keeps_the_other_half() {
    let fixture = one_connection();
    let [one, other] = two_sessions(&fixture);
    one.query("SET datestyle TO german").unwrap();
    one.query("SET datestyle TO ymd").unwrap();
    other.query("SET datestyle TO sql").unwrap();
    one.query("BEGIN").unwrap();
    one.query("SET datestyle TO postgres").unwrap();
    one.query("ROLLBACK").unwrap();
    for _ in 0..2 {
        assert_eq!(one.value("SHOW datestyle").unwrap(), "German, YMD");
        assert_eq!(other.value("SHOW datestyle").unwrap(), "SQL, MDY");
    }
}

/// Direct, `SHOW app.who` fails before the first SET and never again.
#[test]
fn a_custom_setting_that_was_reset_is_empty() {
    let fixture = one_connection();
    let [one, other] = two_sessions(&fixture);
    for reset in ["RESET app.who", "RESET ALL", "DISCARD ALL", "SET app.who TO DEFAULT"] {
        one.query("SET app.who = 'asha'").unwrap();
        one.query(reset).unwrap();
        other.query("SET app.who = 'bala'").unwrap();
        assert_eq!(one.value("SHOW app.who").unwrap(), "", "{reset}");
        assert_eq!(other.value("SHOW app.who").unwrap(), "bala", "{reset}");
    }
}

on_postgres_18!(
    half_a_date_style_keeps_the_other_half,
    a_custom_setting_that_was_reset_is_empty,
    a_snapshot_is_shared_by_sessions
);

/// A snapshot can be taken over on the server that has it, which is the primary, also by a session
/// that only reads.
#[test]
fn a_snapshot_is_shared_by_sessions() {
    let fixture = Fixture::build().replicas(1).start();
    fixture.create_table("rows_of", "id int");
    let [one, other, writer] = [(); 3].map(|()| fixture.session());
    one.query("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let snapshot = one.value("SELECT pg_export_snapshot()").unwrap();
    writer.query("INSERT INTO rows_of VALUES (1)").unwrap();
    for begin in
        ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ"]
    {
        other.query(begin).unwrap();
        other.query(&format!("SET TRANSACTION SNAPSHOT '{snapshot}'")).expect(begin);
        assert_eq!(other.value("SELECT count(*) FROM rows_of").unwrap(), "0", "{begin}");
        other.query("COMMIT").unwrap();
    }
    one.query("COMMIT").unwrap();
    assert_eq!(writer.value("SELECT count(*) FROM rows_of").unwrap(), "1");
}
