//! The same clients and books where another proxy in front of the same servers hands the primary's
//! part over: nothing is resolved or replayed here, and no client sees an error all the same.

use super::clients::{self, Door, Play, START};
use super::{Figures, history, is_wanted, number, tell};
use crate::maintenance::said;
use crate::promotion::wait_confirmed;
use crate::support::{PATIENCE, Proxy, Stand, Which, binary, on_every_engine, wait_until};
use std::process::Command;

const FAULT: &str = "neighbour";

on_every_engine!(the_books_balance_when_another_proxy_switches_over);

fn the_books_balance_when_another_proxy_switches_over<S: Stand>(which: Which) {
    if !is_wanted(FAULT) {
        return;
    }
    let fixture = S::promoting(which, |config| {
        config["clusters"]["main"]["failover"]["mode"] = "observe".into();
    });
    let mut config = fixture.config.clone();
    config["listen"] = S::listen(&fixture.cluster);
    let neighbour = Proxy::start(binary(), &fixture.cluster, &config).unwrap();
    clients::set_up(&fixture);
    let servers = fixture.cluster.servers();
    let door = Door { port: fixture.proxy.port, app: fixture.cluster.app.clone() };
    let play = Play::new(false);
    let (history, (figures, last)) = play.around::<S, _>(&door, || {
        let (mut figures, mut old) = (Figures::default(), fixture.cluster.primary());
        for round in 0..number("CHAOS_ROUNDS", 2) {
            println!("round {round}");
            play.go_on(5);
            let (errors, logged) = (play.errors(), neighbour.log().len());
            play.longest_gap();
            let new = servers.iter().find(|server| server.name != old.name).expect("a replica");
            let mut command = Command::new(binary());
            command.args(["switchover", "--to", &new.name, "--timeout", "8", "--config"]);
            command.arg(&neighbour.config_path);
            // The neighbour may see a little later that the replica is back.
            let mut done = None;
            wait_until(PATIENCE, || {
                let told = command.output().expect("run tiffin");
                let ready = !said(&told).contains("cannot be promoted");
                done = Some(told);
                ready
            })
            .expect("it can be promoted");
            let done = done.expect("it was tried");
            println!("{}", &neighbour.log()[logged..]);
            assert_eq!(done.status.code(), Some(0), "{}", said(&done));
            play.go_on(5);
            figures.gaps_ms.push(play.longest_gap().as_secs_f64() * 1000.0);
            let seen = play.errors() - errors;
            figures.rounds += 1;
            figures.errors += seen;
            figures.without_errors += usize::from(seen == 0);
            play.go_on(2);
            S::remake(&fixture, old, new, new.port);
            wait_confirmed(new);
            fixture.wait_in_read_set(servers.iter().filter(|server| server.name != new.name));
            old = new;
        }
        play.go_on(5);
        (figures, old)
    });
    let books = clients::books(&fixture.direct(last));
    let found = history::contradictions(&history, &books, START);
    tell((which.word(), FAULT), &figures, history.len(), found.len());
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(figures.errors, 0, "errors that clients saw");
}
