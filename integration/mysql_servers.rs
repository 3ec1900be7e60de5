//! The harness for MySQL and MariaDB: what it says about its servers must be true, and nothing
//! may stay behind.

use crate::servers::residents;
use crate::support::PATIENCE;
use crate::support::mysql::{
    Cluster, Engine, Server, Session, client_opts, cluster, errno, on_mysql_and_mariadb,
};
use std::path::PathBuf;
use std::time::Instant;
use tiffin::cli::sandbox::servers::wait_until;

on_mysql_and_mariadb! { a_cluster_replicates_lags_promotes_and_vanishes }

fn a_cluster_replicates_lags_promotes_and_vanishes(engine: Engine) {
    let begun = Instant::now();
    let cluster = cluster(engine);
    println!("measured: {engine:?}: three servers started in {:?}", begun.elapsed());
    let folder = cluster.folder().to_path_buf();
    let primary = cluster.primary();
    logins(&cluster);
    primary.execute("CREATE TABLE app.t (n int PRIMARY KEY)").unwrap();
    cluster.wait_caught_up(primary).unwrap();
    let [first, second] = [cluster.replica(0), cluster.replica(1)];
    assert_eq!(rows(first), 0);

    let write = |number: u32| {
        primary.execute(&format!("INSERT INTO app.t VALUES ({number})")).unwrap();
    };
    second.stop_receiving().unwrap();
    first.stop_applying().unwrap();
    write(1);
    assert_eq!((rows(first), rows(second)), (0, 0));
    first.resume().unwrap();
    second.resume().unwrap();
    cluster.wait_caught_up(primary).unwrap();
    assert_eq!((rows(first), rows(second)), (1, 1));

    second.set_apply_delay(3_600).unwrap();
    write(2);
    wait_until(PATIENCE, || rows(first) == 2).unwrap();
    assert_eq!(rows(second), 1);
    second.set_apply_delay(0).unwrap();
    cluster.wait_caught_up(primary).unwrap();

    first.sigstop().unwrap();
    first.sigcont().unwrap();
    write(3);
    cluster.wait_caught_up(primary).unwrap();

    primary.stop().unwrap();
    first.promote().unwrap();
    cluster.follow(second, first).unwrap();
    first.execute("INSERT INTO app.t VALUES (4)").unwrap();
    cluster.rejoin(primary, first).unwrap();
    cluster.wait_caught_up(first).unwrap();
    assert_eq!((rows(primary), rows(second)), (4, 4));
    first.kill9().unwrap();
    first.start().unwrap();
    first.execute("INSERT INTO app.t VALUES (5)").unwrap();

    drop(cluster);
    assert!(!folder.exists());
    assert_eq!(residents(&folder), Vec::<PathBuf>::new());
}

fn rows(server: &Server) -> u64 {
    server.value("SELECT count(*) FROM app.t").unwrap().parse().unwrap()
}

fn logins(cluster: &Cluster) {
    for server in cluster.servers() {
        for login in [&cluster.app, &cluster.superuser] {
            let session = Session::connect(&client_opts(server.port, login).into()).unwrap();
            assert_eq!(session.value("SELECT @@port").unwrap(), server.port.to_string());
        }
        let opts = client_opts(server.port, &cluster.service).db_name(None::<String>);
        let session = Session::connect(&opts.into()).unwrap();
        assert!(!session.query("SELECT user, plugin FROM mysql.user").unwrap().is_empty());
    }
    let replica = client_opts(cluster.replica(0).port, &cluster.app);
    let refused = Session::connect(&replica.into()).unwrap().query("CREATE TABLE never (n int)");
    assert_eq!(errno(&refused.unwrap_err()), Some(1290));
}
