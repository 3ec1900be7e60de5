//! The catalog that statements are classified by, while tables come and go.

use crate::support::{Fixture, PATIENCE, client_config, wait_until};
use crate::support::{Session, on_postgres_18};

/// A view is printed by the catalog of now: when its table is dropped between the load's snapshot
/// and its turn, the server fails the whole query with an internal error.
#[test]
fn a_load_survives_a_drop_in_its_middle() {
    let fixture = Fixture::build().replicas(1).start();
    fixture.create_table("kept", "id int");
    let session = fixture.session();
    session.query("CREATE TABLE doomed (id int)").unwrap();
    session.query("CREATE VIEW looks AS SELECT id FROM doomed").unwrap();
    // The lock of the open DROP stops the load in front of the view.
    let primary = fixture.cluster.primary();
    let dropper = Session::connect(&client_config(primary.port, &fixture.cluster.app)).unwrap();
    dropper.query("BEGIN; DROP TABLE doomed CASCADE").unwrap();
    session.query("CREATE TABLE asks_for_a_load (id int)").unwrap();
    let waits = "SELECT 1 FROM pg_stat_activity
                 WHERE usename = 'tiffin' AND wait_event_type = 'Lock'";
    wait_until(PATIENCE, || primary.query(waits).is_ok_and(|rows| !rows.is_empty()))
        .expect("the load waits for the lock");
    dropper.query("COMMIT").unwrap();
    fixture.cluster.wait_caught_up(primary).unwrap();
    let read = "SELECT inet_server_port(), count(*) FROM kept";
    wait_until(PATIENCE, || fixture.ran_on(&fixture.session(), read) != primary.name)
        .expect("the catalog is loaded");
    let log = fixture.proxy.log();
    assert!(!log.contains("the catalog cannot be loaded"), "{log}");
}

on_postgres_18!(a_load_survives_a_drop_in_its_middle);
