// MariaDB Connector/J, run as a program of one source file: text and server-side statements,
// batches, transactions, results that are fetched in parts. See python/checks.py for how outcomes
// are printed.

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
import java.util.Arrays;
import java.util.HashSet;
import java.util.Properties;
import java.util.Set;
import java.util.stream.Collectors;

public class MariaDbJdbc {
    static final String DATABASE = System.getenv("PGDATABASE");
    static final Set<Integer> READ_PORTS = Arrays.stream(System.getenv("READ_PORTS").split(","))
            .map(Integer::valueOf).collect(Collectors.toSet());
    static final int LARGE_BYTES = 8 << 20;
    static final int SESSIONS_MIN = 25;
    static final double STRAYS_MAX = 0.2;
    static final long PATIENCE_MS = 30_000;
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

    static void refused(int number, Check body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            same(error.getErrorCode(), number);
            return;
        }
        throw new AssertionError("no error instead of " + number);
    }

    static Connection connect(String database, String... more) throws SQLException {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        properties.put("useSsl", "true");
        properties.put("serverSslCert", System.getenv("PGSSLROOTCERT"));
        properties.put("allowMultiQueries", "true");
        for (int i = 0; i < more.length; i += 2) {
            properties.put(more[i], more[i + 1]);
        }
        String host = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        return DriverManager.getConnection("jdbc:mariadb://" + host + "/" + database, properties);
    }

    static void using(Use body, String... more) throws Exception {
        try (Connection connection = connect(DATABASE, more)) {
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

    // Reads of different sessions go to different servers, and only own writes are waited for.
    static void settled(String sql, String expected) throws Exception {
        long end = System.currentTimeMillis() + PATIENCE_MS;
        for (int held = 0; held < 10; held++) {
            try (Connection connection = connect(DATABASE)) {
                if (!value(connection, sql).equals(expected)) {
                    held = -1;
                }
            }
            if (System.currentTimeMillis() > end) {
                throw new AssertionError(sql + " is not " + expected + " on every server");
            }
        }
    }

    static void writes() throws Exception {
        check("connects_without_tls", () -> using(
                connection -> same(value(connection, "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"),
                        System.getenv("PGUSER")),
                "useSsl", "false", "allowPublicKeyRetrieval", "true"));
        check("makes_its_tables", () -> {
            using(connection -> {
                run(connection, "CREATE TABLE dish (id INT AUTO_INCREMENT PRIMARY KEY, "
                        + "name VARCHAR(100) UNIQUE, price DECIMAL(10, 2), raw LONGBLOB)");
                String insert = "INSERT INTO dish (name, price) VALUES (?, ?)";
                try (PreparedStatement statement = connection.prepareStatement(insert)) {
                    for (int n = 1; n <= 500; n++) {
                        statement.setString(1, "dish " + n);
                        statement.setInt(2, n);
                        statement.addBatch();
                    }
                    same(statement.executeBatch().length, 500);
                }
            });
            settled("SELECT COUNT(*) FROM dish", "500");
        });
        check("generated_keys_come_back", () -> using(connection -> {
            String insert = "INSERT INTO dish (name) VALUES ('keyed')";
            try (Statement statement = connection.createStatement()) {
                same(statement.executeUpdate(insert, Statement.RETURN_GENERATED_KEYS), 1);
                ResultSet keys = statement.getGeneratedKeys();
                same(keys.next(), true);
                same(value(connection, "SELECT name FROM dish WHERE id = ?", keys.getInt(1)), "keyed");
            }
        }));
        check("transactions_and_savepoints", () -> using(connection -> {
            String count = "SELECT COUNT(*) FROM dish WHERE name LIKE 'kept%'";
            connection.setAutoCommit(false);
            run(connection, "INSERT INTO dish (name) VALUES ('kept 1')");
            Savepoint savepoint = connection.setSavepoint("a");
            run(connection, "INSERT INTO dish (name) VALUES ('kept 2')");
            connection.rollback(savepoint);
            same(value(connection, count), "1");
            connection.rollback();
            same(value(connection, count), "0");
            connection.setAutoCommit(true);
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            same(connection.getTransactionIsolation(), Connection.TRANSACTION_READ_COMMITTED);
        }));
        check("large_values", () -> using(connection -> {
            byte[] large = new byte[LARGE_BYTES];
            for (int n = 0; n < large.length; n++) {
                large[n] = (byte) n;
            }
            try (PreparedStatement statement = connection.prepareStatement("INSERT INTO dish (name, raw) VALUES ('large', ?)")) {
                statement.setBytes(1, large);
                same(statement.executeUpdate(), 1);
            }
            try (Statement statement = connection.createStatement()) {
                ResultSet rows = statement.executeQuery("SELECT raw FROM dish WHERE name = 'large'");
                rows.next();
                same(Arrays.equals(rows.getBytes(1), large), true);
            }
        }));
    }

    static void reads() throws Exception {
        check("statements_of_the_server", () -> using(connection -> {
            for (int n = 1; n <= 50; n++) {
                same(value(connection, "SELECT name FROM dish WHERE id = ?", n), "dish " + n);
                same(value(connection, "SELECT CONCAT(?, " + n + ")", "ü"), "ü" + n);
            }
        }, "useServerPrepStmts", "true"));
        check("rows_in_parts", () -> using(connection -> {
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(10);
                ResultSet rows = statement.executeQuery("SELECT id FROM dish ORDER BY id");
                int count = 0;
                while (rows.next()) {
                    count++;
                }
                same(count >= 500, true);
            }
        }));
        check("several_results", () -> using(connection -> {
            try (Statement statement = connection.createStatement()) {
                same(statement.execute("SELECT 1; SELECT 2"), true);
                same(statement.getMoreResults(), true);
                ResultSet rows = statement.getResultSet();
                rows.next();
                same(rows.getInt(1), 2);
            }
            run(connection, "CREATE PROCEDURE doubled(IN a INT, OUT b INT) SET b = 2 * a");
            try (CallableStatement call = connection.prepareCall("{call doubled(?, ?)}")) {
                call.setInt(1, 21);
                call.registerOutParameter(2, Types.INTEGER);
                call.execute();
                same(call.getInt(2), 42);
            }
        }));
        check("metadata", () -> using(connection -> {
            DatabaseMetaData metadata = connection.getMetaData();
            Set<String> columns = new HashSet<>();
            ResultSet rows = metadata.getColumns(DATABASE, null, "dish", null);
            while (rows.next()) {
                columns.add(rows.getString("COLUMN_NAME"));
            }
            same(columns, Set.of("id", "name", "price", "raw"));
            rows = metadata.getPrimaryKeys(DATABASE, null, "dish");
            rows.next();
            same(rows.getString("COLUMN_NAME"), "id");
        }));
        check("reads_are_spread", () -> {
            Set<Integer> seen = new HashSet<>();
            int strays = 0;
            int count = 0;
            long end = System.currentTimeMillis() + PATIENCE_MS;
            for (; count < SESSIONS_MIN || !seen.containsAll(READ_PORTS); count++) {
                try (Connection connection = connect(DATABASE)) {
                    int port = Integer.parseInt(value(connection, "SELECT @@port FROM dish LIMIT 1"));
                    if (!READ_PORTS.contains(port)) {
                        strays++;
                    } else {
                        seen.add(port);
                    }
                }
                same(System.currentTimeMillis() < end, true);
            }
            same(strays <= count * STRAYS_MAX, true);
        });
    }

    public static void main(String[] arguments) throws Exception {
        String version = org.mariadb.jdbc.internal.util.constant.Version.version;
        System.out.println("version MariaDB Connector/J " + version + ", Java " + System.getProperty("java.version"));
        check("connects_over_tls", () -> using(connection -> {
            same(value(connection, "SELECT DATABASE()"), DATABASE);
            same(connection.isValid(5), true);
        }));
        check("wrong_password_and_database_are_refused", () -> {
            refused(1045, () -> connect(DATABASE, "password", "no").close());
            refused(1044, () -> connect("nowhere").close());
        });
        writes();
        check("errors_have_the_servers_numbers", () -> using(connection -> {
            refused(1146, () -> run(connection, "SELECT * FROM no_such_table"));
            refused(1064, () -> run(connection, "SELEC 1"));
            refused(1062, () -> run(connection, "INSERT INTO dish (name) VALUES ('dish 1')"));
            same(value(connection, "SELECT 1"), "1");
        }));
        reads();
        System.exit(failed == 0 ? 0 : 1);
    }
}
