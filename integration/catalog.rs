//! The catalog that statements are classified by, while tables come and go.

use crate::support::{Fixture, PATIENCE, on_postgres_18, wait_until};

/// The server locks a view and its tables in order to print its definition. Nobody who changes
/// tables may meet that as a deadlock, and an open change must not keep the catalog from being
/// loaded.
#[test]
fn loads_are_in_nobodys_way() {
    let fixture = Fixture::build().replicas(1).start();
    fixture.create_table("kept", "id int");
    let session = fixture.session();
    for sql in [
        "CREATE TABLE one (id int)",
        "CREATE TABLE other (id int)",
        // Locked in this order.
        "CREATE VIEW looks AS SELECT other.id FROM other JOIN one USING (id)",
    ] {
        session.query(sql).unwrap();
    }
    let primary = fixture.cluster.primary();
    let changer = fixture.direct(primary);
    changer.query("BEGIN; LOCK TABLE one IN ACCESS EXCLUSIVE MODE").unwrap();
    session.query("CREATE TABLE asks_for_a_load (id int)").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    let read = "SELECT inet_server_port(), count(*) FROM kept";
    let loaded = || fixture.ran_on(&fixture.session(), read) != primary.name;
    wait_until(PATIENCE, loaded).expect("the catalog is loaded");
    // Now against a load that is under way.
    session.query("DROP TABLE asks_for_a_load").unwrap();
    changer.query("LOCK TABLE other IN ACCESS EXCLUSIVE MODE").expect("no deadlock");
    changer.query("DROP TABLE one, other CASCADE; COMMIT").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    wait_until(PATIENCE, loaded).expect("the catalog is loaded again");
    let log = fixture.proxy.log();
    assert!(!log.contains("the catalog cannot be loaded"), "{log}");
}

on_postgres_18!(loads_are_in_nobodys_way);
