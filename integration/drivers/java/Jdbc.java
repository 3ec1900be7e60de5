// pgjdbc, run as a program of one source file: its own API, its pool by HikariCP, and what tools
// ask of the catalog through DatabaseMetaData. See python/checks.py for how outcomes are printed.

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.util.PSQLException;

public class Jdbc {
    static final String DATABASE = System.getenv("PGDATABASE");
    static final Set<Integer> READ_PORTS = Arrays.stream(System.getenv("READ_PORTS").split(","))
            .map(Integer::valueOf).collect(Collectors.toSet());
    static final int LARGE_BYTES = 8 << 20;
    static final int SESSIONS_MIN = 25;
    static final double STRAYS_MAX = 0.2;
    static final long PATIENCE_MS = 30_000;
    static final long CANCEL_MS = 1_000;
    static int failed = 0;

    interface Check {
        void run() throws Exception;
    }

    interface Use {
        void with(Connection connection) throws Exception;
    }

    static void check(String name, Check body) {
        try {
            body.run();
            System.out.println("ok " + name);
        } catch (Throwable error) {
            failed++;
            error.printStackTrace();
            System.out.println("not ok " + name + ": " + String.valueOf(error).replaceAll("\\s+", " "));
        }
    }

    static void same(Object found, Object expected) {
        if (!expected.equals(found)) {
            throw new AssertionError(found + " instead of " + expected);
        }
    }

    static SQLException refused(String state, Check body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            same(error.getSQLState(), state);
            return error;
        }
        throw new AssertionError("no error instead of " + state);
    }

    static Properties properties(String... more) {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        properties.put("sslmode", "verify-full");
        properties.put("sslrootcert", System.getenv("PGSSLROOTCERT"));
        for (int i = 0; i < more.length; i += 2) {
            properties.put(more[i], more[i + 1]);
        }
        return properties;
    }

    static String url(String database) {
        return "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + database;
    }

    static void using(Use body, String... more) throws Exception {
        try (Connection connection = DriverManager.getConnection(url(DATABASE), properties(more))) {
            body.with(connection);
        }
    }

    static String value(Connection connection, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < parameters.length; i++) {
                statement.setObject(i + 1, parameters[i]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return rows.getString(1);
            }
        }
    }

    static void run(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    public static void main(String[] arguments) throws Exception {
        System.out.println("version pgjdbc " + org.postgresql.Driver.getVersion().replaceAll("[^0-9]*([0-9.]+).*", "$1")
                + ", Java " + System.getProperty("java.version"));
        check("connects_with_scram_over_tls", () -> using(connection -> {
            same(value(connection, "SELECT current_user"), System.getenv("PGUSER"));
            same(connection.isValid(5), true);
        }));
        check("wrong_password_and_database_are_refused", () -> {
            refused("28P01", () -> DriverManager.getConnection(url(DATABASE), properties("password", "no")));
            refused("3D000", () -> {
                try (Connection connection = DriverManager.getConnection(url("nowhere"), properties())) {
                    run(connection, "SELECT 1");
                }
            });
        });
        check("makes_its_tables", () -> using(connection -> {
            run(connection, "CREATE TABLE dish (id int PRIMARY KEY, name text NOT NULL, price numeric)");
            run(connection, "INSERT INTO dish SELECT n, 'dish ' || n, n FROM generate_series(1, 100) n");
        }));
        statements();
        transactions();
        outOfLine();
        sessions();
        System.exit(failed == 0 ? 0 : 1);
    }

    static void statements() {
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            check("prepared_statements_" + mode, () -> using(Jdbc::preparedStatements, "preferQueryMode", mode));
        }
        check("prepared_at_the_first_use", () -> using(Jdbc::preparedStatements, "prepareThreshold", "1"));
        check("prepared_never", () -> using(Jdbc::preparedStatements, "prepareThreshold", "0"));
        check("prepared_statements_outlive_ddl", () -> using(connection -> using(other -> {
            run(other, "CREATE TABLE changing (a int)");
            run(other, "INSERT INTO changing VALUES (1)");
            try (PreparedStatement statement = connection.prepareStatement("SELECT * FROM changing WHERE a = ?")) {
                statement.setInt(1, 1);
                for (int i = 0; i < 10; i++) {
                    same(columns(statement), 1);
                }
                run(other, "ALTER TABLE changing ADD b int DEFAULT 2");
                // The driver prepares again by itself where a server says 0A000.
                for (int i = 0; i < 10; i++) {
                    same(columns(statement), 2);
                }
            }
        }), "autosave", "conservative"));
        check("values_of_all_kinds", () -> using(Jdbc::values, "prepareThreshold", "-1"));
        check("values_of_all_kinds_as_text", () -> using(Jdbc::values, "binaryTransfer", "false"));
        check("batches", () -> using(Jdbc::batches));
        check("rewritten_batches", () -> using(Jdbc::batches, "reWriteBatchedInserts", "true"));
        check("rows_in_parts", () -> using(connection -> {
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement("SELECT id FROM dish WHERE id <= 100 ORDER BY id")) {
                statement.setFetchSize(7);
                int expected = 1;
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next()) {
                        same(rows.getInt(1), expected++);
                    }
                }
                same(expected, 101);
            }
            connection.commit();
        }));
        check("updatable_results", () -> using(connection -> {
            try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_SENSITIVE, ResultSet.CONCUR_UPDATABLE);
                    ResultSet rows = statement.executeQuery("SELECT id, name FROM dish WHERE id = 3")) {
                rows.next();
                rows.updateString(2, "renamed");
                rows.updateRow();
            }
            same(value(connection, "SELECT name FROM dish WHERE id = ?", 3), "renamed");
        }));
        check("errors_have_their_fields", () -> using(connection -> {
            SQLException error = refused("23505", () -> run(connection, "INSERT INTO dish VALUES (1, 'again')"));
            same(((PSQLException) error).getServerErrorMessage().getConstraint(), "dish_pkey");
            refused("22012", () -> run(connection, "SELECT 1/0"));
            refused("42P01", () -> run(connection, "SELECT * FROM nowhere"));
            refused("42601", () -> run(connection, "SELEC 1"));
            refused("22012", () -> value(connection, "SELECT 1/?::int", 0));
            same(value(connection, "SELECT 1"), "1");
        }));
        check("functions_and_procedures", () -> using(connection -> {
            run(connection, "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'");
            try (CallableStatement call = connection.prepareCall("{? = call twice(?)}")) {
                call.registerOutParameter(1, Types.INTEGER);
                call.setInt(2, 21);
                call.execute();
                same(call.getInt(1), 42);
            }
        }));
    }

    static int columns(PreparedStatement statement) throws SQLException {
        try (ResultSet rows = statement.executeQuery()) {
            rows.next();
            return rows.getMetaData().getColumnCount();
        }
    }

    static void preparedStatements(Connection connection) throws Exception {
        try (PreparedStatement statement = connection.prepareStatement("SELECT name FROM dish WHERE id = ?")) {
            for (int id = 10; id <= 60; id++) {
                statement.setInt(1, id);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    same(rows.getString(1), "dish " + id);
                }
            }
        }
        for (int n = 0; n < 30; n++) {
            for (int again = 0; again < 6; again++) {
                same(value(connection, "SELECT ?::int + " + n, 1), String.valueOf(n + 1));
            }
        }
    }

    static void values(Connection connection) throws Exception {
        OffsetDateTime when = OffsetDateTime.parse("2026-11-21T12:30:00Z");
        Map<String, Object> values = new HashMap<>();
        values.put("bool", true);
        values.put("int", 42);
        values.put("int8", 1L << 40);
        values.put("float8", 1.25);
        values.put("numeric", new BigDecimal("12345.6789"));
        values.put("text", "naïve ☕ text");
        values.put("uuid", new UUID(0, 7));
        values.put("timestamptz", when);
        for (int round = 0; round < 3; round++) {
            for (Map.Entry<String, Object> each : values.entrySet()) {
                try (PreparedStatement statement = connection.prepareStatement("SELECT ?::" + each.getKey())) {
                    statement.setObject(1, each.getValue());
                    try (ResultSet rows = statement.executeQuery()) {
                        rows.next();
                        same(rows.getObject(1, each.getValue().getClass()), each.getValue());
                    }
                }
            }
            try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int[]")) {
                statement.setArray(1, connection.createArrayOf("int", new Object[] {1, null, 3}));
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    same(Arrays.asList((Object[]) rows.getArray(1).getArray()), Arrays.asList(1, null, 3));
                }
            }
        }
    }

    static void batches(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        run(connection, "DELETE FROM dish WHERE id >= 5000");
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO dish (id, name) VALUES (?, ?)")) {
            for (int id = 5000; id < 6000; id++) {
                statement.setInt(1, id);
                statement.setString(2, "batch");
                statement.addBatch();
            }
            same(statement.executeBatch().length, 1000);
            connection.commit();
            for (int id = 5999; id < 6010; id++) {
                statement.setInt(1, id);
                statement.setString(2, "twice");
                statement.addBatch();
            }
            try {
                statement.executeBatch();
                throw new AssertionError("no error");
            } catch (BatchUpdateException error) {
                same(error.getSQLState(), "23505");
            }
            connection.rollback();
        }
        same(value(connection, "SELECT count(*) FROM dish WHERE id >= 5000"), "1000");
        connection.commit();
    }

    static void transactions() {
        check("transactions", () -> using(connection -> {
            connection.setAutoCommit(false);
            run(connection, "INSERT INTO dish VALUES (1001, 'kept')");
            Savepoint savepoint = connection.setSavepoint("here");
            refused("23505", () -> run(connection, "INSERT INTO dish VALUES (1001, 'twice')"));
            refused("25P02", () -> run(connection, "SELECT 1"));
            connection.rollback(savepoint);
            connection.commit();
            run(connection, "INSERT INTO dish VALUES (1002, 'dropped')");
            connection.rollback();
            same(value(connection, "SELECT count(*) FROM dish WHERE id IN (1001, 1002)"), "1");
            connection.commit();
        }));
        check("savepoints_before_each_statement", () -> using(connection -> {
            connection.setAutoCommit(false);
            run(connection, "INSERT INTO dish VALUES (1003, 'kept')");
            refused("22012", () -> run(connection, "SELECT 1/0"));
            run(connection, "INSERT INTO dish VALUES (1004, 'kept')");
            connection.commit();
            same(value(connection, "SELECT count(*) FROM dish WHERE id IN (1003, 1004)"), "2");
        }, "autosave", "always"));
        for (String mode : List.of("ignore", "transaction", "always")) {
            check("read_only_mode_" + mode, () -> using(connection -> {
                connection.setReadOnly(true);
                connection.setAutoCommit(false);
                same(value(connection, "SELECT count(*) FROM dish WHERE id <= 100"), "100");
                if (!mode.equals("ignore")) {
                    refused("25006", () -> run(connection, "DELETE FROM dish"));
                }
                connection.rollback();
                connection.setReadOnly(false);
                run(connection, "UPDATE dish SET price = 1 WHERE id = 1");
                connection.commit();
            }, "readOnlyMode", mode));
        }
        check("isolation_levels", () -> using(connection -> {
            Map<Integer, String> levels = Map.of(
                    Connection.TRANSACTION_READ_COMMITTED, "read committed",
                    Connection.TRANSACTION_REPEATABLE_READ, "repeatable read",
                    Connection.TRANSACTION_SERIALIZABLE, "serializable");
            for (Map.Entry<Integer, String> level : levels.entrySet()) {
                connection.setTransactionIsolation(level.getKey());
                connection.setAutoCommit(false);
                same(value(connection, "SHOW transaction_isolation"), level.getValue());
                same(connection.getTransactionIsolation(), level.getKey());
                connection.commit();
                connection.setAutoCommit(true);
            }
        }));
        check("two_phase_commit", () -> using(connection -> {
            String name = DATABASE + System.getenv("PGPORT");
            connection.setAutoCommit(false);
            run(connection, "INSERT INTO dish VALUES (1005, 'in two phases')");
            run(connection, "PREPARE TRANSACTION '" + name + "'");
            connection.setAutoCommit(true);
            run(connection, "COMMIT PREPARED '" + name + "'");
            same(value(connection, "SELECT count(*) FROM dish WHERE id = 1005"), "1");
        }));
    }

    static void outOfLine() {
        check("copy_both_ways", () -> using(connection -> {
            run(connection, "CREATE TABLE copied (id int, what text)");
            CopyManager copy = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 20_000; n++) {
                lines.append(n).append("\trow ").append(n).append('\n');
            }
            same(copy.copyIn("COPY copied FROM STDIN", new StringReader(lines.toString())), 20_000L);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            same(copy.copyOut("COPY copied TO STDOUT", out), 20_000L);
            same(out.size(), lines.length());
            refused("22P02", () -> copy.copyIn("COPY copied FROM STDIN", new StringReader("x\ty\n".repeat(50_000))));
            same(value(connection, "SELECT count(*) FROM copied"), "20000");
        }));
        check("cancel_and_timeouts", () -> using(connection -> {
            try (Statement statement = connection.createStatement()) {
                // A cancel that comes before its statement does nothing.
                CountDownLatch ended = new CountDownLatch(1);
                Thread canceller = new Thread(() -> {
                    try {
                        while (!ended.await(CANCEL_MS, TimeUnit.MILLISECONDS)) {
                            statement.cancel();
                        }
                    } catch (Exception error) {
                        error.printStackTrace();
                    }
                });
                canceller.start();
                refused("57014", () -> statement.execute("SELECT pg_sleep(30)"));
                ended.countDown();
                canceller.join();
                statement.setQueryTimeout(1);
                refused("57014", () -> statement.execute("SELECT pg_sleep(30)"));
                statement.setQueryTimeout(0);
                statement.execute("SET statement_timeout = '100ms'");
                refused("57014", () -> statement.execute("SELECT pg_sleep(30)"));
                statement.execute("RESET statement_timeout");
                statement.execute("SELECT 1");
            }
        }));
        check("listen_and_notify", () -> using(listener -> using(sender -> {
            run(listener, "LISTEN kitchen");
            for (int n = 0; n < 20; n++) {
                value(sender, "SELECT pg_notify('kitchen', ?)", "order " + n);
            }
            List<String> heard = new ArrayList<>();
            long end = System.currentTimeMillis() + PATIENCE_MS;
            while (heard.size() < 20 && System.currentTimeMillis() < end) {
                PGNotification[] told = listener.unwrap(PGConnection.class).getNotifications(100);
                for (PGNotification each : told == null ? new PGNotification[0] : told) {
                    heard.add(each.getParameter());
                }
            }
            same(heard.size(), 20);
            same(heard.get(19), "order 19");
            same(value(listener, "SELECT count(*) FROM dish WHERE id <= 100"), "100");
            run(listener, "UNLISTEN *");
        })));
        check("notices", () -> using(connection -> {
            try (Statement statement = connection.createStatement()) {
                statement.execute("DO $$BEGIN RAISE WARNING 'dal'; END$$");
                same(statement.getWarnings().getMessage(), "dal");
            }
        }));
        check("large_values", () -> using(connection -> {
            byte[] data = new byte[LARGE_BYTES];
            for (int i = 0; i < data.length; i++) {
                data[i] = (byte) i;
            }
            run(connection, "CREATE TABLE large (data bytea)");
            try (PreparedStatement statement = connection.prepareStatement("INSERT INTO large VALUES (?)")) {
                statement.setBytes(1, data);
                statement.execute();
            }
            try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery("SELECT data FROM large")) {
                rows.next();
                same(Arrays.equals(rows.getBytes(1), data), true);
            }
        }));
        // By function calls of the protocol itself.
        check("large_objects", () -> using(connection -> {
            connection.setAutoCommit(false);
            LargeObjectManager manager = connection.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = manager.createLO();
            byte[] data = new byte[1 << 20];
            Arrays.fill(data, (byte) 7);
            try (LargeObject object = manager.open(oid, LargeObjectManager.WRITE)) {
                object.write(data);
            }
            connection.commit();
            try (LargeObject object = manager.open(oid, LargeObjectManager.READ)) {
                same(Arrays.equals(object.read(data.length), data), true);
            }
            manager.delete(oid);
            connection.commit();
        }));
        check("metadata", () -> using(connection -> {
            DatabaseMetaData data = connection.getMetaData();
            same(data.getDatabaseMajorVersion() >= 15, true);
            same(count(data.getTables(null, "public", "dish", new String[] {"TABLE"})), 1);
            same(count(data.getColumns(null, "public", "dish", "%")), 3);
            same(count(data.getPrimaryKeys(null, "public", "dish")), 1);
            same(count(data.getIndexInfo(null, "public", "dish", true, true)), 1);
            same(count(data.getImportedKeys(null, "public", "dish")), 0);
            same(count(data.getSchemas()) > 1, true);
            same(count(data.getTypeInfo()) > 10, true);
            same(count(data.getFunctions(null, "pg_catalog", "lower")) > 0, true);
            same(count(data.getTablePrivileges(null, "public", "dish")) > 0, true);
            same(count(data.getProcedures(null, null, "twice")) >= 0, true);
        }));
    }

    static int count(ResultSet rows) throws SQLException {
        try (rows) {
            int count = 0;
            while (rows.next()) {
                count++;
            }
            return count;
        }
    }

    static void sessions() {
        check("settings_follow_the_session", () -> using(connection -> {
            connection.setSchema("other");
            connection.setClientInfo("ApplicationName", "lunch");
            for (int i = 0; i < 5; i++) {
                same(value(connection, "SELECT current_setting('search_path')"), "other");
                same(value(connection, "SHOW application_name"), "lunch");
            }
            same(connection.getClientInfo("ApplicationName"), "lunch");
            same(value(connection, "SHOW work_mem"), "7MB");
        }, "options", "-c work_mem=7MB"));
        check("session_objects", () -> using(connection -> using(other -> {
            run(connection, "CREATE TEMP TABLE mine AS SELECT 7 AS n");
            for (int i = 0; i < 10; i++) {
                same(value(connection, "SELECT n FROM mine"), "7");
            }
            refused("42P01", () -> value(other, "SELECT n FROM mine"));
            same(value(connection, "SELECT pg_try_advisory_lock(7)"), "t");
            same(value(other, "SELECT pg_try_advisory_lock(7)"), "f");
            same(value(connection, "SELECT pg_advisory_unlock(7)"), "t");
            same(value(other, "SELECT pg_try_advisory_lock(7)"), "t");
        })));
        check("reads_its_own_writes", () -> using(connection -> {
            run(connection, "CREATE TABLE counter (n int)");
            run(connection, "INSERT INTO counter VALUES (0)");
            try (PreparedStatement write = connection.prepareStatement("UPDATE counter SET n = ?")) {
                for (int n = 1; n < 200; n++) {
                    write.setInt(1, n);
                    write.execute();
                    same(value(connection, "SELECT n FROM counter"), String.valueOf(n));
                }
            }
        }));
        check("pool", Jdbc::pool);
        check("reads_spread_over_replicas", () -> spread(false));
        check("read_only_transactions_spread_over_replicas", () -> spread(true));
    }

    static void pool() throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url(DATABASE));
        config.setDataSourceProperties(properties());
        config.setMaximumPoolSize(6);
        try (HikariDataSource pool = new HikariDataSource(config)) {
            using(connection -> run(connection, "UPDATE counter SET n = 0"));
            Callable<String> work = () -> {
                try (Connection connection = pool.getConnection()) {
                    connection.setAutoCommit(false);
                    run(connection, "UPDATE counter SET n = n + 1");
                    connection.commit();
                }
                try (Connection connection = pool.getConnection()) {
                    return value(connection, "SELECT count(*) FROM dish WHERE id <= ?", 100);
                }
            };
            ExecutorService threads = Executors.newFixedThreadPool(12);
            try {
                for (Future<String> each : threads.invokeAll(java.util.Collections.nCopies(150, work))) {
                    same(each.get(), "100");
                }
            } finally {
                threads.shutdownNow();
            }
            try (Connection connection = pool.getConnection()) {
                same(value(connection, "/* tiffin: primary */ SELECT n FROM counter"), "150");
            }
        }
    }

    /** See `Spread` in python/checks.py. */
    static void spread(boolean readOnly) throws Exception {
        Set<Integer> seen = new HashSet<>();
        long end = System.currentTimeMillis() + PATIENCE_MS;
        int count = 0;
        int strays = 0;
        while (count < SESSIONS_MIN || !seen.equals(READ_PORTS)) {
            if (System.currentTimeMillis() > end) {
                throw new AssertionError("reads ran on " + seen + ", not on all of " + READ_PORTS);
            }
            int[] port = new int[1];
            using(connection -> {
                if (readOnly) {
                    connection.setReadOnly(true);
                    connection.setAutoCommit(false);
                }
                port[0] = Integer.parseInt(value(connection, "SELECT inet_server_port() FROM dish LIMIT 1"));
            });
            // A table is known to be one within about a second.
            if (seen.isEmpty() && !READ_PORTS.contains(port[0])) {
                continue;
            }
            count++;
            if (READ_PORTS.contains(port[0])) {
                seen.add(port[0]);
            } else {
                strays++;
            }
        }
        if (strays > count * STRAYS_MAX) {
            throw new AssertionError(strays + " of " + count + " reads ran on the primary");
        }
    }
}
