//! What functions, procedures and triggers leave in a session, which no text of the client names;
//! and what the administrator changes under pooled connections.

use crate::support::wire::{self, Wire};
use crate::support::{Fixture, PATIENCE, Session, state_of, wait_until};

fn setting(session: &Session, hint: &str, name: &str) -> String {
    let sql = format!("/* tiffin: {hint} */ SELECT current_setting('{name}', true)");
    session.value(&sql).unwrap()
}

const ROUTINES: &str = "
CREATE TABLE things (n int);
CREATE FUNCTION be(who text) RETURNS void LANGUAGE plpgsql AS
    $$BEGIN PERFORM set_config('app.who', who, false); END$$;
CREATE FUNCTION enter(who text) RETURNS int LANGUAGE sql AS $$SELECT be(who); SELECT 1$$;
CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    PERFORM set_config('app.seen', NEW.n::text, false);
    CREATE TEMP TABLE IF NOT EXISTS seen_here (n int);
    RETURN NEW;
END$$;
CREATE TRIGGER seen BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION seen();
CREATE TABLE ruled (n int);
CREATE RULE tells AS ON INSERT TO ruled DO ALSO SELECT be('a rule');
CREATE PROCEDURE take_it() LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_lock(11); END$$;
CREATE PROCEDURE leave_it() LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_unlock(11); END$$;
CREATE PROCEDURE nothing() LANGUAGE plpgsql AS $$BEGIN NULL; END$$";

#[test]
fn what_routines_triggers_and_rules_leave_follows_the_session() {
    let fixture = Fixture::build()
        .replicas(1)
        .key("pool.size_max", 1)
        .config(|config| config["workers"] = 1.into())
        .start();
    let (a, b) = (fixture.session(), fixture.session());
    a.query(ROUTINES).unwrap();
    // As soon as the catalog has been loaded again.
    let known = || {
        fixture.session().query("SELECT enter('nobody')").unwrap();
        let other = fixture.session();
        other.query("CALL nothing()").unwrap();
        let pinned = fixture.metrics().sum("tiffin_pinned_sessions", &[]);
        other.query("DISCARD ALL").unwrap();
        pinned == 0.0
    };
    wait_until(PATIENCE, known).expect("the catalog knows the routines");
    for (number, call) in
        ["SELECT enter('asha')", "SELECT * FROM enter('bala')"].into_iter().enumerate()
    {
        a.query(call).unwrap();
        let expected = ["asha", "bala"][number];
        for hint in ["replica", "primary", "replica"] {
            assert_eq!(setting(&a, hint, "app.who"), expected, "{hint}");
            assert_eq!(setting(&b, hint, "app.who"), "", "{hint}");
        }
    }
    let pinned = |pin: &str| fixture.metrics().sum("tiffin_pinned_sessions", &[("pin", pin)]);
    a.query("CALL take_it()").unwrap();
    assert_eq!(pinned("advisory_lock"), 1.0);
    a.query("CALL leave_it()").unwrap();
    wait_until(PATIENCE, || pinned("advisory_lock") == 0.0).expect("the lock is gone");
    assert_eq!(b.value("SELECT 1").unwrap(), "1");

    a.query("INSERT INTO things VALUES (7)").unwrap();
    assert_eq!(pinned("temporary_table"), 1.0, "the trigger has made one");
    assert_eq!(a.value("SELECT count(*) FROM seen_here").unwrap(), "0");
    a.query("DROP TABLE seen_here").unwrap();
    wait_until(PATIENCE, || pinned("temporary_table") == 0.0).expect("it is dropped");
    assert_eq!(setting(&a, "replica", "app.seen"), "7");
    assert_eq!(setting(&b, "primary", "app.seen"), "");

    a.query("INSERT INTO ruled VALUES (1)").unwrap();
    for hint in ["replica", "primary"] {
        assert_eq!(setting(&b, hint, "app.who"), "", "{hint}");
        assert_eq!(setting(&a, hint, "app.who"), "a rule", "{hint}");
    }
    a.query("UPDATE pg_settings SET setting = '6MB' WHERE name = 'work_mem'").unwrap();
    assert_eq!(pinned("setting"), 1.0, "its rule sets whatever the row names");
    assert_eq!(setting(&a, "primary", "work_mem"), "6MB");
    a.query("DISCARD ALL").unwrap();
    assert_eq!(setting(&b, "primary", "work_mem"), "4MB");
}

/// ALTER ROLE and ALTER DATABASE set what new sessions start with; a pooled connection was opened
/// before.
#[test]
fn defaults_of_roles_and_databases_reach_new_sessions() {
    let fixture = Fixture::build().replicas(1).clear_passwords().start();
    let app = &fixture.cluster.app;
    for hint in ["primary", "replica"] {
        assert_eq!(setting(&fixture.session(), hint, "work_mem"), "4MB");
    }
    // Around the proxy it takes until the next look at the catalog.
    let superuser = fixture.session_with(|config| {
        let superuser = &fixture.cluster.superuser;
        config.user(&superuser.user).password(&superuser.password).dbname("app");
    });
    superuser.query("ALTER ROLE app SET work_mem = '7MB'").unwrap();
    superuser.query("ALTER DATABASE app SET timezone = 'Asia/Kolkata'").unwrap();
    for hint in ["primary", "replica"] {
        wait_until(PATIENCE, || setting(&fixture.session(), hint, "work_mem") == "7MB")
            .unwrap_or_else(|_| panic!("{hint}"));
    }
    let told = || {
        let (_, greeting) =
            Wire::login(fixture.proxy.port, wire::VERSION_3_0, &app.user, &app.password);
        greeting.iter().any(|m| m.tag == b'S' && m.text().trim_end() == "TimeZone Asia/Kolkata")
    };
    wait_until(PATIENCE, told).expect("the login tells the new time zone");
    // By the user itself, and back.
    fixture.session().query("ALTER ROLE app RESET work_mem").unwrap();
    for hint in ["primary", "replica"] {
        wait_until(PATIENCE, || setting(&fixture.session(), hint, "work_mem") == "4MB")
            .unwrap_or_else(|_| panic!("{hint}"));
    }
}

/// `lastval` is asked for on the connection that inserted, which others leave alone.
#[test]
fn lastval_after_an_insert() {
    let fixture = Fixture::build()
        .replicas(0)
        .key("pool.size_max", 3)
        .config(|config| config["workers"] = 1.into())
        .start();
    let sessions: Vec<Session> = (0..3).map(|_| fixture.session()).collect();
    let [a, b, c] = &sessions[..] else { unreachable!() };
    a.query("CREATE TABLE t (id serial, n int)").unwrap();
    for session in &sessions {
        session.query("BEGIN").unwrap();
        session.query("SELECT 1").unwrap();
    }
    for session in &sessions {
        session.query("COMMIT").unwrap();
    }
    // Nobody has inserted; never another session's value.
    assert_eq!(state_of(c.query("SELECT lastval()")), "55000");
    c.query("DISCARD ALL").unwrap();
    a.query("INSERT INTO t (n) VALUES (1)").unwrap();
    b.query("INSERT INTO t (n) VALUES (1), (2)").unwrap();
    c.query("SELECT count(*) FROM t").unwrap();
    assert_eq!(a.value("SELECT lastval()").unwrap(), "1");
    assert_eq!(b.value("SELECT currval('t_id_seq')").unwrap(), "3");
    assert_eq!(state_of(c.query("SELECT lastval()")), "55000");
    // From now on they keep their connections.
    a.query("INSERT INTO t (n) VALUES (3)").unwrap();
    assert_eq!(a.value("SELECT lastval()").unwrap(), "4");
}
