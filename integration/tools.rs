//! PostgreSQL's own programs, through the proxy as on a direct connection: psql and its
//! backslash commands, dumps, maintenance, backups and replication.

use crate::support::psql::tool;
use crate::support::{
    Cluster, Fixture, Login, PATIENCE, Session, on_postgres_18, options, wait_until,
};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Lines that have the time of day (`\watch`), the OID of a new large object, or the process id of
/// who notified in them.
const DIFFERS: [&str; 4] = ["(every ", "lo_import", "lo_unlink", "Asynchronous notification"];

const SCHEMA: &str = "
    CREATE SCHEMA s;
    CREATE TYPE s.mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN s.positive AS int CHECK (VALUE > 0);
    CREATE TABLE s.parent (id serial PRIMARY KEY, name text NOT NULL DEFAULT 'x', m s.mood);
    CREATE TABLE s.child (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        parent int REFERENCES s.parent ON DELETE CASCADE, amount numeric(10, 2), p s.positive);
    CREATE INDEX child_amount ON s.child (amount) WHERE amount > 10;
    CREATE VIEW s.names AS SELECT id, name FROM s.parent;
    CREATE MATERIALIZED VIEW s.sums AS SELECT parent, sum(amount) FROM s.child GROUP BY 1;
    CREATE FUNCTION s.twice(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2 * n';
    CREATE FUNCTION s.touch() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN NEW.name := upper(NEW.name); RETURN NEW; END$$;
    CREATE TRIGGER touch BEFORE INSERT ON s.parent FOR EACH ROW EXECUTE FUNCTION s.touch();
    CREATE TABLE parts (d date, n int) PARTITION BY RANGE (d);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    COMMENT ON TABLE s.parent IS 'those who have children';
    GRANT SELECT ON s.parent TO pg_monitor;
    ALTER TABLE s.child ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON s.child USING (parent > 0);
    INSERT INTO s.parent (name, m) SELECT 'p' || g, 'ok' FROM generate_series(1, 20) g;
    INSERT INTO s.child (parent, amount, p) SELECT 1 + g % 20, g, g FROM generate_series(1, 200) g;
    INSERT INTO parts VALUES ('2024-05-01', 1);
    SELECT lo_from_bytea(424242, 'a large object');
    ANALYZE;";

fn fixture() -> Fixture {
    let fixture = Fixture::build()
        .setting("wal_level", "logical")
        .hba(&[
            "host replication all 127.0.0.1/32 scram-sha-256",
            "host all all 127.0.0.1/32 scram-sha-256",
        ])
        .start();
    fixture.direct(fixture.cluster.primary()).query(SCHEMA).unwrap();
    fixture.cluster.wait_caught_up(fixture.cluster.primary()).unwrap();
    fixture
}

fn conninfo(port: u16, login: &Login, database: &str) -> String {
    let Login { user, password } = login;
    format!("host=127.0.0.1 port={port} user={user} password={password} dbname={database}")
}

/// The two ways to the same database: direct, proxied.
fn both(fixture: &Fixture, login: &Login) -> [String; 2] {
    let ports = [fixture.cluster.primary().port, fixture.proxy.port];
    ports.map(|port| conninfo(port, login, "app"))
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    format!("{text}{}", output.status)
}

fn ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// psql with its input, one command per line.
fn psql(conninfo: &str, lines: &str, folder: &Path) -> String {
    let mut command = tool("psql");
    command.args(["-X", "-d", conninfo]).current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("psql");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    said(&child.wait_with_output().unwrap())
}

/// Each line, or block of lines, runs on its own.
const PSQL: &[&str] = &[
    r"\d",
    r"\d+",
    r"\d s.*",
    r"\d+ s.parent",
    r"\d+ s.child",
    r"\d+ parts",
    r"\dt+ s.*",
    r"\di+ s.*",
    r"\dv+ s.*",
    r"\dm+ s.*",
    r"\ds+ s.*",
    r"\dE",
    r"\dP+",
    r"\df+ s.*",
    r"\df pg_catalog.array_*",
    r"\da pg_catalog.max",
    r"\do pg_catalog.+",
    r"\dn+",
    r"\du+",
    r"\dg",
    r"\l",
    r"\l+ app",
    r"\dp s.*",
    r"\ddp",
    r"\drds",
    r"\dT+ s.*",
    r"\dD+ s.*",
    r"\dC",
    r"\dc",
    r"\dO",
    r"\dL",
    r"\dx",
    r"\db+",
    r"\dd",
    r"\dy",
    r"\dF",
    r"\dX",
    r"\dRp",
    r"\dRs",
    r"\dconfig work_mem",
    r"\dA",
    r"\sf s.twice",
    r"\sv s.names",
    r"\lo_list",
    r"\encoding",
    "\\x\nSELECT * FROM s.parent ORDER BY id LIMIT 2;",
    "SELECT id, name FROM s.parent ORDER BY id LIMIT 2 \\gx",
    "SELECT 7 AS seven \\gset\nSELECT :seven + 1;",
    "SELECT id, name, m FROM s.parent \\gdesc",
    "SELECT format('SELECT %s', g) FROM generate_series(1, 3) g \\gexec",
    "SELECT parent % 3 AS a, id % 2 AS b, count(*) FROM s.child GROUP BY 1, 2 ORDER BY 1, 2\n\\crosstabview",
    "SELECT 1 / 0;\n\\errverbose",
    "INSERT INTO s.child (parent) VALUES (999);\n\\errverbose",
    "SELECT nothing\nFROM s.parent;",
    "\\set VERBOSITY verbose\nSELECT 'x'::int;",
    "\\set VERBOSITY sqlstate\nSELECT 'x'::int;",
    "\\set FETCH_COUNT 7\nSELECT id FROM s.child ORDER BY id LIMIT 20;",
    "\\set ON_ERROR_ROLLBACK on\nBEGIN;\nINSERT INTO s.parent (id) VALUES (-1);\nSELECT 1 / 0;\nSELECT count(*) FROM s.parent WHERE id = -1;\nROLLBACK;",
    "\\set AUTOCOMMIT off\nINSERT INTO s.parent (id) VALUES (-2);\nROLLBACK;\nSELECT count(*) FROM s.parent WHERE id = -2;",
    "\\set SINGLESTEP off\nSELECT 1 \\; SELECT 2 \\; SELECT 3;",
    "\\copy s.parent TO 'copied.txt'\n\\! cat copied.txt",
    "\\copy (SELECT id FROM s.parent ORDER BY id) TO stdout csv",
    "BEGIN;\n\\copy parts FROM 'parts.txt'\nSELECT * FROM parts ORDER BY 1, 2;\nROLLBACK;",
    "COPY parts FROM stdin;\n2024-02-02\tno\n\\.\nSELECT count(*) FROM parts;",
    "\\lo_import parts.txt\n\\lo_unlink :LASTOID",
    "\\lo_export 424242 object.txt\n\\! cat object.txt",
    "CREATE TEMP SEQUENCE w;\nSELECT 3 / (3 - nextval('w')) AS n \\watch 0.02",
    "LISTEN c;\nNOTIFY c, 'word';\nSELECT 1;",
    "\\if true\nSELECT 'yes';\n\\else\nSELECT 'no';\n\\endif",
    "\\set x 5\nSELECT :'x', :x;",
    "\\pset format html\nSELECT 1;",
    "PREPARE p AS SELECT 1;\nEXECUTE p;\nDEALLOCATE p;",
    "SELECT pg_catalog.pg_describe_object('pg_class'::regclass, 's.parent'::regclass, 0);",
    "\\echo :DBNAME :USER :ENCODING :SERVER_VERSION_NUM",
    "\\c - - - -\nSELECT 1;",
    "\\help begin",
    "DO $$BEGIN RAISE NOTICE 'hello'; END$$;",
];

#[test]
fn psql_says_the_same() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("parts.txt"), "2024-03-03\t5\n2024-04-04\t6\n").unwrap();
    let ways = both(&fixture, &fixture.cluster.app);
    let mut wrong = Vec::new();
    for lines in PSQL {
        let [direct, proxied] = ways.each_ref().map(|way| {
            let text = psql(way, lines, folder.path());
            let lines = text.lines().filter(|line| !DIFFERS.iter().any(|part| line.contains(part)));
            lines
                .collect::<Vec<_>>()
                .join("\n")
                .replace(&fixture.proxy.port.to_string(), "PORT")
                .replace(&fixture.cluster.primary().port.to_string(), "PORT")
        });
        if direct != proxied {
            wrong.push(format!("{lines}\ndirect:\n{direct}\nproxied:\n{proxied}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), PSQL.len(), wrong.join("\n\n"));
    println!("measured: {} psql commands", PSQL.len());
}

/// The text of a dump without its random key.
fn dump(command: &mut Command) -> String {
    let text = ok(command);
    let has_key =
        |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
    text.lines().filter(|line| !has_key(line)).collect::<Vec<_>>().join("\n")
}

/// A dump is the same, and what is restored through the proxy dumps the same again.
#[test]
fn dumps_are_the_same_and_come_back() {
    let fixture = fixture();
    let superuser = &fixture.cluster.superuser;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for login in [&fixture.cluster.app, superuser] {
        for extra in [&["--create", "--clean"][..], &["--inserts"], &["--schema-only", "-n", "s"]] {
            let [direct, proxied] = both(&fixture, login)
                .map(|way| dump(tool("pg_dump").args(["--blobs", "-d", &way]).args(extra)));
            assert_eq!(direct, proxied, "pg_dump {extra:?} as {}", login.user);
            assert!(direct.contains("s.parent"), "{direct}");
        }
    }
    let [direct, proxied] = both(&fixture, superuser).map(|way| {
        // It starts pg_dump without the password of the connection string.
        dump(tool("pg_dumpall").args(["-d", &way]).env("PGPASSWORD", &superuser.password))
    });
    assert_eq!(direct, proxied, "pg_dumpall");

    // Several connections share one snapshot.
    let [plain, way] = both(&fixture, superuser);
    let before = dump(tool("pg_dump").args(["-d", &plain]));
    ok(tool("pg_dump").args(["-Fd", "-j", "3", "-d", &way, "-f"]).arg(path("directory")));
    ok(tool("pg_dump").args(["-Fc", "-d", &way, "-f"]).arg(path("custom")));
    for (name, from, jobs) in [("back_d", "directory", "3"), ("back_c", "custom", "1")] {
        let server = conninfo(fixture.proxy.port, superuser, "postgres");
        // Idle connections of the pool count as users of template1.
        ok(tool("createdb").args([
            "--maintenance-db",
            &server,
            "-O",
            "app",
            "-T",
            "template0",
            name,
        ]));
        let target = conninfo(fixture.proxy.port, superuser, name);
        ok(tool("pg_restore").args(["-j", jobs, "-d", &target]).arg(path(from)));
        let after = dump(tool("pg_dump").args(["-d", &target]));
        assert_eq!(before, after, "restored from {from}");
        ok(tool("dropdb").args(["--maintenance-db", &server, "-f", name]));
    }
}

#[test]
fn maintenance_programs_work() {
    let fixture = fixture();
    let superuser = &fixture.cluster.superuser;
    let app = conninfo(fixture.proxy.port, superuser, "app");
    let server = conninfo(fixture.proxy.port, superuser, "postgres");
    for arguments in [
        // Before anything connects to template1: connections of the pool would count as users of it.
        &["createdb", "--maintenance-db", &server, "made"][..],
        &["dropdb", "--maintenance-db", &server, "--force", "made"],
        &["vacuumdb", "-d", &app],
        &["vacuumdb", "--analyze", "--full", "-t", "s.child", "-d", &app],
        &["vacuumdb", "--all", "--analyze-in-stages", "--maintenance-db", &server],
        &["vacuumdb", "-j", "3", "-d", &app],
        &["reindexdb", "-d", &app],
        &["reindexdb", "--concurrently", "-t", "s.child", "-d", &app],
        &["reindexdb", "-j", "2", "-d", &app],
        &["clusterdb", "-d", &app],
        &["pg_isready", "-d", &app],
    ] {
        let mut command = tool(arguments[0]);
        ok(command.args(&arguments[1..]));
    }
    // These take no connection string.
    let port = fixture.proxy.port.to_string();
    for arguments in [
        &["createuser", "--createdb", "made"][..],
        &["dropuser", "made"],
        &["pg_amcheck", "--install-missing", "app"],
    ] {
        let mut command = tool(arguments[0]);
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]);
        ok(command.env("PGPASSWORD", &superuser.password).args(&arguments[1..]));
    }
    let nowhere = format!("host=127.0.0.1 port={} dbname=app", free_port());
    assert_eq!(run(tool("pg_isready").args(["-d", &nowhere])).status.code(), Some(2));
}

fn free_port() -> u16 {
    tiffin::cli::sandbox::servers::process::free_port().unwrap()
}

/// Ends with the test.
struct Background(Child);

impl Background {
    fn start(command: &mut Command) -> Background {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Background(command.spawn().expect("start it"))
    }

    /// Stops it in order; what it wrote.
    fn stop(mut self) -> String {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let status = self.0.wait().unwrap();
        let mut text = status.to_string();
        for pipe in [
            self.0.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read>),
            self.0.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn std::io::Read>),
        ] {
            let _ = pipe.unwrap().read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn backups_and_wal_are_received() {
    let fixture = fixture();
    let primary = fixture.cluster.primary();
    let superuser = &fixture.cluster.superuser;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let way = conninfo(fixture.proxy.port, superuser, "postgres");

    for (name, method) in [("streamed", "stream"), ("fetched", "fetch")] {
        let mut command = tool("pg_basebackup");
        command.args(["-d", &way, "-c", "fast", "--no-sync", "-X", method, "-D"]);
        ok(command.arg(path(name)));
        ok(tool("pg_verifybackup").arg(path(name)));
    }

    ok(tool("pg_receivewal").args(["-d", &way, "--create-slot", "--slot", "wal"]));
    fs::create_dir(path("wal")).unwrap();
    let mut command = tool("pg_receivewal");
    command.args(["-d", &way, "--slot", "wal", "--no-sync", "--no-loop", "-D"]).arg(path("wal"));
    let receiver = Background::start(&mut command);
    let files = || {
        let entries = fs::read_dir(path("wal")).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
    };
    let waited = wait_until(PATIENCE, || !files().is_empty());
    primary.execute("SELECT pg_logical_emit_message(false, 'x', 'y'), pg_switch_wal()").unwrap();
    let whole = || files().into_iter().find(|name| !name.ends_with(".partial"));
    let waited = waited.and_then(|_| wait_until(PATIENCE, || whole().is_some()));
    let said = receiver.stop();
    assert!(waited.is_ok(), "no whole file comes: {:?} {said}", files());
    let file = whole().unwrap();
    ok(tool("pg_receivewal").args(["-d", &way, "--drop-slot", "--slot", "wal"]));
    let received = fs::read(path("wal").join(&file)).unwrap();
    let own = fs::read(primary.data_dir.join("pg_wal").join(&file)).unwrap();
    assert!(received == own, "{file} differs");
}

#[test]
fn changes_are_decoded() {
    let fixture = fixture();
    let way = conninfo(fixture.proxy.port, &fixture.cluster.superuser, "app");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("changes");
    let common = ["-d", &way, "--slot", "changes"];
    let mut command = tool("pg_recvlogical");
    ok(command.args(common).args(["--create-slot", "-P", "test_decoding"]));
    let mut command = tool("pg_recvlogical");
    let receiver = Background::start(command.args(common).args(["--start", "-f"]).arg(&file));
    fixture.session().query("INSERT INTO parts VALUES ('2024-06-06', 4711)").unwrap();
    let waited = wait_until(PATIENCE, || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("n[integer]:4711"))
    });
    let said = receiver.stop();
    assert!(waited.is_ok(), "the change does not come: {said}");
    let mut command = tool("pg_recvlogical");
    // The server may take a moment to see that the receiver has gone.
    wait_until(PATIENCE, || run(command.args(common).arg("--drop-slot")).status.success()).unwrap();
}

/// A subscriber whose publisher is the proxy.
#[test]
fn a_subscription_follows_through_the_proxy() {
    let fixture = fixture();
    let publisher = fixture.session_with(|config| {
        let Login { user, password } = &fixture.cluster.superuser;
        config.user(user).password(password).dbname("app");
    });
    let subscriber = Cluster::start(crate::support::Options { replicas: 0, ..options() }).unwrap();
    let local = Session::connect(
        subscriber.config(subscriber.primary(), &subscriber.superuser).dbname("app"),
    )
    .unwrap();
    local.query("CREATE TABLE followed (id int PRIMARY KEY, v text)").unwrap();
    publisher
        .query(
            "CREATE TABLE followed (id int PRIMARY KEY, v text);
             INSERT INTO followed SELECT g, 'before' FROM generate_series(1, 100) g;
             CREATE PUBLICATION p FOR TABLE followed",
        )
        .unwrap();
    let way = conninfo(fixture.proxy.port, &fixture.cluster.superuser, "app");
    local.query(&format!("CREATE SUBSCRIPTION s CONNECTION '{way}' PUBLICATION p")).unwrap();
    let wait = |sql: &str, wanted: &str| {
        let mut last = String::new();
        wait_until(PATIENCE, || {
            last = local.value(sql).unwrap();
            last == wanted
        })
        .unwrap_or_else(|_| panic!("{sql}: {last}\n{}", subscriber.primary().log()));
    };
    wait("SELECT count(*) FROM followed", "100");
    publisher.query("UPDATE followed SET v = 'after' WHERE id <= 10").unwrap();
    publisher.query("DELETE FROM followed WHERE id > 90").unwrap();
    wait("SELECT count(*) || ' ' || count(*) FILTER (WHERE v = 'after') FROM followed", "90 10");
    local.query("ALTER SUBSCRIPTION s REFRESH PUBLICATION").unwrap();
    local.query("DROP SUBSCRIPTION s").unwrap();
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'";
    assert_eq!(fixture.cluster.primary().value(slots).unwrap(), "0");
}

on_postgres_18!(
    psql_says_the_same,
    dumps_are_the_same_and_come_back,
    backups_and_wal_are_received,
    changes_are_decoded,
    a_subscription_follows_through_the_proxy,
);
