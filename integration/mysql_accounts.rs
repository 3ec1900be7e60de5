//! Users of MySQL and MariaDB that only the servers know (`auth.accounts`).

use crate::support::PATIENCE;
use crate::support::mysql::{
    Engine, Fixture, Session, client_opts, cluster, errno, mysql_9, on_mysql_and_mariadb,
};
use mysql_async::OptsBuilder;
use serde_json::json;
use std::process::Command;
use tiffin::cli::sandbox::servers::wait_until;

on_mysql_and_mariadb! {
    the_servers_accounts_are_let_in,
}

/// Logs in to the proxy and asks the server who that is.
fn who(opts: OptsBuilder) -> anyhow::Result<String> {
    Session::connect(&opts.into())?.value("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)")
}

fn the_servers_accounts_are_let_in(engine: Engine) {
    let cluster = cluster(engine);
    let primary = cluster.primary();
    for sql in [
        "CREATE USER known@'%' IDENTIFIED BY 'right'",
        "CREATE USER locked@'%' IDENTIFIED BY 'right' ACCOUNT LOCK",
        // For another host than the proxy's: its password proves nothing here.
        "CREATE USER split@'10.0.0.1' IDENTIFIED BY 'weak'",
        "CREATE USER split@'127.0.0._' IDENTIFIED BY 'right'",
        "GRANT SELECT ON app.* TO known@'%'",
        "GRANT SELECT ON app.* TO split@'127.0.0._'",
    ] {
        primary.execute(sql).unwrap();
    }
    cluster.wait_caught_up(primary).unwrap();
    let socket = cluster.folder().join("proxy.sock");
    let fixture = Fixture::with(cluster, |config| {
        config["auth"]["accounts"] = true.into();
        config["auth"]["query_cache"] = "1h".into();
        config["limits"]["auth_delay"] = "0s".into();
        let tcp = config["listen"]["mysql"][0].clone();
        config["listen"]["mysql"] = json!([tcp, format!("unix:{}", socket.display())]);
    });
    let opts = |user: &'static str, password: &'static str| {
        client_opts(fixture.proxy.port, &fixture.cluster.app)
            .user(Some(user))
            .pass(Some(password))
            .db_name(Some("app"))
    };
    // Over a Unix socket: the first login shows a server's account's password itself.
    let by_socket = |password| opts("known", password).socket(socket.to_str());
    assert_eq!(who(by_socket("right")).unwrap(), "known");
    assert_eq!(errno(&who(by_socket("wrong")).unwrap_err()), Some(1045));
    let said = Command::new("mariadb")
        .args(["--no-defaults", "-uknown", "-pright", "-N", "-e", "SELECT CURRENT_USER()"])
        .arg(format!("--socket={}", socket.display()))
        .output()
        .expect("run mariadb");
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "known@%", "{said:?}");
    // The second time by what the first has shown.
    for user in ["known", "known", "split"] {
        assert_eq!(who(opts(user, "right")).unwrap(), user);
    }
    assert_eq!(who(fixture.opts()).unwrap(), fixture.cluster.app.user, "the file's users as well");
    for (user, password) in
        [("known", "wrong"), ("locked", "right"), ("split", "weak"), ("nobody", "right")]
    {
        let error = who(opts(user, password)).unwrap_err();
        assert_eq!(errno(&error), Some(1045), "{user}: {error:#}");
    }
    // A password that does not fit makes the proxy ask again, once the answer has aged a little.
    let changed = "ALTER USER known@'%' IDENTIFIED BY 'other'";
    fixture.cluster.primary().execute(changed).unwrap();
    wait_until(PATIENCE, || who(opts("known", "other")).is_ok()).expect("the new password");
    assert!(who(opts("known", "right")).is_err());
    // The socket goes away with the proxy.
    fixture.proxy.signal("TERM").unwrap();
    fixture.proxy.wait().unwrap();
    assert!(!socket.exists());
}

/// MySQL's own client: the password under the proxy's RSA key, then remembered; zlib and zstd.
#[test]
fn mysqls_client_encrypts_its_password_and_compresses() {
    let cluster = cluster(Engine::MySql);
    let primary = cluster.primary();
    primary.execute("CREATE USER known@'%' IDENTIFIED BY 'right'").unwrap();
    cluster.wait_caught_up(primary).unwrap();
    let fixture = Fixture::with(cluster, |config| config["auth"]["accounts"] = true.into());
    let client = mysql_9().with_file_name("bin").join("mysql");
    for compression in ["uncompressed", "zstd", "zlib"] {
        let output = Command::new(&client)
            .args(["--no-defaults", "--protocol=tcp", "-h127.0.0.1", "-uknown", "-pright", "-N"])
            .arg(format!("-P{}", fixture.proxy.port))
            .args(["--ssl-mode=DISABLED", "--get-server-public-key"])
            .arg(format!("--compression-algorithms={compression}"))
            .args(["-e", "SELECT CONCAT(REPEAT('tiffin', 100000), CURRENT_USER())"])
            .output()
            .expect("run mysql");
        let said = String::from_utf8_lossy(&output.stdout);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compression}: {told}");
        assert_eq!(said.trim_end().len(), 600_000 + "known@%".len(), "{compression}: {told}");
        assert!(said.trim_end().ends_with("tiffinknown@%"), "{compression}");
    }
}
