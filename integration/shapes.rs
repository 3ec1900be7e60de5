//! Prepared statements whose result has got other columns, executed where they were not prepared.

use crate::support::wire::{
    VERSION_3_0, Wire, bind, execute, first_value, named, parse, sync, tags,
};
use crate::support::{Fixture, on_postgres_18};

const STALE: &str = "cached plan must not change result type";

fn send(wire: &mut Wire, messages: &[Vec<u8>]) -> String {
    wire.send(&messages.concat());
    let replies = wire.until_ready();
    match replies.iter().find(|message| message.tag == b'E') {
        Some(error) => format!("{}: {}", error.field(b'C'), error.field(b'M')),
        None => tags(&replies),
    }
}

fn run(wire: &mut Wire) -> String {
    send(wire, &[bind("", "s"), execute("", 0), sync()])
}

/// A client that was told the columns, of the statement or of a portal, must not get rows with
/// others, nor one that never asked, for it would not get them from a server: neither on a connection that has to prepare the statement anew, nor where another
/// client has prepared it since.
#[test]
fn a_client_does_not_meet_columns_that_it_was_not_told() {
    let fixture = Fixture::build()
        .replicas(1)
        .key("tls.mode", "disable")
        .config(|config| config["auth"]["method"] = "password".into())
        .start();
    let app = &fixture.cluster.app;
    let changer = fixture.session();
    for told_by in ["statement", "portal", "nobody"] {
        let of_statement = if told_by == "statement" { named(b'D', b'S', "s") } else { vec![] };
        let table = format!("told_by_{told_by}");
        fixture.create_table(&table, "id int, name text");
        let marked = format!("SELECT * FROM {table}");
        let port = fixture.proxy.port;
        let login = |()| Wire::login(port, VERSION_3_0, &app.user, &app.password).0;
        let [mut one, mut other, mut third] = [(); 3].map(login);
        for wire in [&mut one, &mut other, &mut third] {
            let of_portal = if told_by == "nobody" { vec![] } else { named(b'D', b'P', "") };
            let portal = [bind("", "s"), of_portal, execute("", 0)].concat();
            let told = send(wire, &[parse("s", &marked), of_statement.clone(), portal, sync()]);
            assert!(told.ends_with("CZ"), "{told}");
        }
        changer.query(&format!("ALTER TABLE {table} ADD COLUMN more int")).unwrap();
        // On the primary, which has not got the statement.
        one.query("BEGIN");
        assert_eq!(run(&mut one), format!("0A000: {STALE}"), "{told_by}");
        assert!(run(&mut one).starts_with("25P02"), "{told_by}");
        one.query("ROLLBACK");
        // There it is now, prepared by another one.
        other.query("BEGIN");
        let pipelined = [bind("", "s"), execute("", 0), sync()].concat();
        assert_eq!(send(&mut other, &[pipelined]), format!("0A000: {STALE}"), "{told_by}");
        other.query("ROLLBACK");
        // Who asks again may go on.
        third.query("BEGIN");
        let again = [bind("", "s"), named(b'D', b'P', ""), execute("", 0), sync()];
        assert_eq!(send(&mut third, &again), "2TCZ", "{told_by}");
        assert_eq!(run(&mut third), "2CZ", "{told_by}");
        third.query("COMMIT");
        // And so may who prepares anew.
        one.query("BEGIN");
        assert_eq!(send(&mut one, &[named(b'C', b'S', "s"), parse("s", &marked), sync()]), "31Z");
        assert_eq!(run(&mut one), "2CZ", "{told_by}");
        one.query("COMMIT");
        assert_eq!(first_value(&one.query("SELECT 1")).as_deref(), Some("1"));
    }
}

on_postgres_18!(a_client_does_not_meet_columns_that_it_was_not_told);
