"""Django: migrations of an application (`kitchen/`) and of Django's own, the ORM, persistent and
pooled connections."""

import concurrent.futures
import contextlib
import io

import django
import psycopg
from django.conf import settings

import checks
from checks import check, eventually, refused, same

DATABASE = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": checks.HOST,
    "PORT": checks.PORT,
    "USER": checks.USER,
    "PASSWORD": checks.PASSWORD,
    "NAME": checks.DATABASE,
    "CONN_MAX_AGE": None,
    "CONN_HEALTH_CHECKS": True,
    "OPTIONS": {"sslmode": "verify-full", "sslrootcert": checks.CA},
}
settings.configure(
    DATABASES={
        "default": DATABASE,
        "each": {**DATABASE, "CONN_MAX_AGE": 0, "TEST": {"NAME": f"test_{checks.DATABASE}"}},
        "prepared": {**DATABASE, "OPTIONS": {**DATABASE["OPTIONS"], "server_side_binding": True}},
        "pooled": {
            **DATABASE,
            "CONN_MAX_AGE": 0,
            "OPTIONS": {**DATABASE["OPTIONS"], "pool": {"min_size": 2, "max_size": 6, "timeout": 30}},
        },
        "wrong": {**DATABASE, "PASSWORD": "no"},
    },
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
        "django.contrib.postgres",
        "kitchen",
    ],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    SECRET_KEY="not secret",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.contrib.postgres.search import SearchVector  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DataError, IntegrityError, OperationalError, connection, connections, models, transaction  # noqa: E402
from django.db.models import Avg, Count, Exists, F, OuterRef, Sum, Window  # noqa: E402
from django.db.models.functions import Rank  # noqa: E402
from django.utils import timezone  # noqa: E402
from kitchen.models import Cook, Dish  # noqa: E402


def command(*words, **options):
    out = io.StringIO()
    call_command(*words, stdout=out, **options)
    return out.getvalue()


@check
def connects_with_scram_over_tls():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        same(cursor.fetchone(), (checks.USER,))
    assert connection.connection.pgconn.ssl_in_use
    try:
        connections["wrong"].ensure_connection()
        raise AssertionError("a wrong password is let in")
    except OperationalError as error:
        assert "password authentication failed" in str(error), error


@check
def migrations():
    command("migrate", "kitchen", "0001")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO kitchen_dish (name, price, labels, facts, maker) "
            "SELECT 'dish ' || n, n, '{}', '{}', 'cook ' || n %% 5 FROM generate_series(1, %s) n",
            [100],
        )
    assert "Applying kitchen.0004_index... OK" in command("migrate")
    same(Dish.objects.count(), 100)
    same(Cook.objects.count(), 5)
    assert "No migrations to apply" in command("migrate")
    same(command("showmigrations", "kitchen").count("[X]"), 4)
    # The models say nothing that the migrations do not.
    command("makemigrations", check=True, dry_run=True)
    # Back and forth again.
    command("migrate", "kitchen", "0001")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(maker) FROM kitchen_dish")
        same(cursor.fetchone(), (100, 100))
    command("migrate", "kitchen")
    same(Cook.objects.count(), 5)
    assert "CREATE INDEX CONCURRENTLY" in command("sqlmigrate", "kitchen", "0004")


@check
def introspection_and_fixtures():
    text = command("inspectdb")
    assert "class KitchenDish" in text and "class AuthUser" in text, text
    data = command("dumpdata", "kitchen")
    with contextlib.closing(open(f"{checks.DATABASE}.json", "w+")) as file:
        file.write(data)
        file.flush()
        command("loaddata", file.name)
    same(Dish.objects.count(), 100)


@check
def rows_come_and_go():
    cook = Cook.objects.create(name="meera")
    dish = Dish.objects.create(name="thali", price="12.50", labels=["veg", "hot"], facts={"heat": 3}, cook=cook)
    dish.refresh_from_db()
    same(str(dish.price), "12.50")
    same(Dish.objects.get(labels__contains=["hot"], facts__heat__gt=2), dish)
    same(Dish.objects.filter(pk=dish.pk).update(price=F("price") + 1, served=timezone.now()), 1)
    same(Dish.objects.values_list("price", flat=True).get(pk=dish.pk), dish.price + 1)
    made, created = Dish.objects.update_or_create(name="thali", defaults={"price": 5})
    same((made.pk, created), (dish.pk, False))
    found, created = Dish.objects.get_or_create(name="dosa", defaults={"cook": cook})
    assert created
    found.delete()
    with refused("23503"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM kitchen_cook WHERE name = 'meera'")
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    same(User.objects.create_user("ravi", password="chai").check_password("chai"), True)


@check
def bulk_statements():
    dishes = Dish.objects.bulk_create([Dish(name=f"bulk {n}", price=n) for n in range(2000)], batch_size=500)
    assert all(dish.pk for dish in dishes)
    for dish in dishes:
        dish.price += 1
    same(Dish.objects.bulk_update(dishes, ["price"], batch_size=500), 2000)
    Dish.objects.bulk_create(
        [Dish(name="bulk 0", price=7)], update_conflicts=True, unique_fields=["name"], update_fields=["price"]
    )
    same(Dish.objects.get(name="bulk 0").price, 7)
    same(len(Dish.objects.in_bulk([dish.pk for dish in dishes])), 2000)
    same(Dish.objects.filter(name__startswith="bulk").delete()[0], 2000)


@check
def queries_of_all_kinds():
    same(Dish.objects.filter(name__startswith="dish").aggregate(Sum("price"), Avg("price"))["price__sum"], 5050)
    rows = Cook.objects.annotate(n=Count("dishes"), total=Sum("dishes__price")).filter(n=20).order_by("name")
    same([row.n for row in rows], [20] * 5)
    ranked = Dish.objects.annotate(rank=Window(Rank(), partition_by="cook", order_by="-price"))
    assert len(ranked) > 100
    same(Cook.objects.filter(Exists(Dish.objects.filter(cook=OuterRef("pk"), price__gt=99))).count(), 1)
    same(len(Dish.objects.select_related("cook").prefetch_related("cook__dishes").filter(price=50)), 1)
    same(Dish.objects.annotate(words=SearchVector("name")).filter(words="thali").count(), 1)
    union = Dish.objects.filter(name="dish 1").union(Dish.objects.filter(name="dish 2"))
    same(union.count(), 2)
    same(Dish.objects.filter(name="dish 1").explain(analyze=True).count("Execution Time"), 1)
    same(Dish.objects.raw("SELECT * FROM kitchen_dish WHERE name = %s", ["dish 7"])[0].price, 7)


@check
def atomic_blocks():
    told = []
    with transaction.atomic():
        transaction.on_commit(lambda: told.append("committed"))
        Dish.objects.create(name="outer")
        try:
            with transaction.atomic():
                Dish.objects.create(name="outer")
        except IntegrityError as error:
            same(error.__cause__.sqlstate, "23505")
        with transaction.atomic():
            Dish.objects.create(name="inner")
        point = transaction.savepoint()
        Dish.objects.create(name="dropped")
        transaction.savepoint_rollback(point)
        same(told, [])
    same(told, ["committed"])
    same(Dish.objects.filter(name__in=["outer", "inner", "dropped"]).count(), 2)
    try:
        with transaction.atomic():
            Dish.objects.create(name="dropped")
            raise ValueError
    except ValueError:
        pass
    assert not Dish.objects.filter(name="dropped").exists()
    with refused("23514"):
        Dish.objects.create(name="negative", price=-1)


@check
def locked_rows():
    with transaction.atomic():
        Dish.objects.select_for_update().get(name="dish 1")

        def other(**options):
            try:
                with transaction.atomic():
                    return list(Dish.objects.select_for_update(**options).filter(name="dish 1"))
            finally:
                connections.close_all()

        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            same(thread.submit(other, skip_locked=True).result(), [])
            with refused("55P03"):
                thread.submit(other, nowait=True).result()


@check
def errors_have_a_sqlstate():
    for sql, state in [("SELECT 1/0", "22012"), ("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01")]:
        with refused(state), connection.cursor() as cursor:
            cursor.execute(sql)
    try:
        Dish.objects.create(name="x" * 100)
        raise AssertionError("too long a name")
    except DataError as error:
        same(error.__cause__.sqlstate, "22001")


@check
def rows_by_a_cursor_of_the_server():
    # Outside of a transaction Django declares it WITH HOLD.
    same(sum(1 for _ in Dish.objects.filter(name__startswith="dish").iterator(chunk_size=10)), 100)
    half = Dish.objects.order_by("pk").iterator(chunk_size=10)
    first = next(half)
    same(Dish.objects.order_by("pk").first(), first)
    half.close()
    with transaction.atomic():
        same(sum(1 for _ in Dish.objects.filter(name__startswith="dish").iterator(chunk_size=10)), 100)


@check
def parameters_bound_by_the_server():
    dishes = Dish.objects.using("prepared")
    for number in range(1, 31):
        same(dishes.get(name=f"dish {number}").price, number)
    same(dishes.filter(price__lte=10, name__startswith="dish").count(), 10)
    with transaction.atomic(using="prepared"):
        dishes.filter(name="dish 1").update(price=F("price") + 0)
    same([dish.name for dish in dishes.filter(name__startswith="dish").order_by("price").iterator(chunk_size=7)][:2],
         ["dish 1", "dish 2"])


@check
def copy_notify_and_cancel_of_the_driver_below():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE copied (n int)")
        with cursor.copy("COPY copied FROM STDIN") as copy:
            copy.write("".join(f"{n}\n" for n in range(10_000)))
        with cursor.copy("COPY copied TO STDOUT") as copy:
            same(sum(1 for _ in copy.rows()), 10_000)
        cursor.execute("LISTEN kitchen")
        cursor.execute("NOTIFY kitchen, 'served'")
        notes = connection.connection.notifies(timeout=20, stop_after=1)
        same([note.payload for note in notes], ["served"])
        cursor.execute("UNLISTEN *")
    with (
        checks.cancelling(connection.connection.cancel_safe),
        refused("57014"),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT pg_sleep(30)")


@check
def large_values():
    photo = bytes(range(256)) * (checks.LARGE_BYTES // 256)
    dish = Dish.objects.create(name="large", photo=photo, facts={"words": "x" * 1_000_000})
    dish = Dish.objects.get(pk=dish.pk)
    assert bytes(dish.photo) == photo and len(dish.facts["words"]) == 1_000_000, "another value came back"
    dish.delete()


@check
def sessions_of_django():
    from django.contrib.sessions.backends.db import SessionStore

    for number in range(30):
        store = SessionStore()
        store["dish"] = number
        store.save()
        same(SessionStore(session_key=store.session_key)["dish"], number)


def in_threads(using, threads, count):
    """Work as requests do it: some thread takes a connection of its own or of the pool."""
    dishes = Dish.objects.using(using)

    def work(_):
        try:
            with transaction.atomic(using=using):
                dishes.filter(name="dish 1").update(price=F("price") + 1)
            return dishes.filter(name__startswith="dish").count()
        finally:
            connections[using].close()

    def price():
        # In a transaction that may write: what other sessions wrote is not on every replica yet.
        with transaction.atomic(using=using):
            return dishes.get(name="dish 1").price

    before = price()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        same(set(pool.map(work, range(count))), {100})
    same(price(), before + count)


@check
def connections_of_threads():
    in_threads("each", 8, 60)


@check
def pool():
    in_threads("pooled", 12, 200)


@check
def a_test_database_comes_and_goes():
    """What `manage.py test` does first and last."""
    creation = connections["each"].creation
    name = f"test_{checks.DATABASE}"
    creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        same(Dish.objects.using("each").count(), 0)
        Dish.objects.using("each").create(name="only here")
    finally:
        creation.destroy_test_db(checks.DATABASE, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_database WHERE datname = %s", [name])
        same(cursor.fetchone(), (0,))


class Port(models.Func):
    function = "inet_server_port"
    output_field = models.IntegerField()


# Django runs without a transaction unless told: reads go to replicas.
@check
def reads_spread_over_replicas():
    for using in ["each", "prepared"]:
        def read():
            try:
                return Dish.objects.using(using).annotate(port=Port()).values_list("port", flat=True)[0]
            finally:
                connections[using].close()

        eventually(lambda: read() in checks.READ_PORTS, "a read where reads belong")
        spread = checks.Spread()
        while spread.wants_more():
            spread.ran_on(read())


checks.main("Django", f"{django.__version__}, psycopg {psycopg.__version__}")
