"""Django over mysqlclient: migrations of an application (`canteen/`) and of Django's own, the ORM,
persistent connections and those of threads."""

import concurrent.futures
import contextlib
import importlib.metadata
import io

import django
from django.conf import settings

import checks
from checks import check, eventually, same

DATABASE = {
    "ENGINE": "django.db.backends.mysql",
    "HOST": checks.HOST,
    "PORT": checks.PORT,
    "USER": checks.USER,
    "PASSWORD": checks.PASSWORD,
    "NAME": checks.DATABASE,
    "CONN_MAX_AGE": None,
    "CONN_HEALTH_CHECKS": True,
    "OPTIONS": {"ssl": {"ca": checks.CA}, "ssl_mode": "VERIFY_IDENTITY", "charset": "utf8mb4"},
}
settings.configure(
    DATABASES={
        "default": DATABASE,
        "each": {**DATABASE, "CONN_MAX_AGE": 0},
        "repeatable": {**DATABASE, "OPTIONS": {**DATABASE["OPTIONS"], "isolation_level": "repeatable read"}},
        "wrong": {**DATABASE, "PASSWORD": "no"},
        "plain": {**DATABASE, "OPTIONS": {"ssl_mode": "DISABLED", "charset": "utf8mb4"}},
    },
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
        "canteen",
    ],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    SECRET_KEY="not secret",
    USE_TZ=True,
)
django.setup()

from canteen.models import Cook, Dish  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DataError, IntegrityError, OperationalError, ProgrammingError, connection, connections, models, transaction  # noqa: E402
from django.db.models import Avg, Count, Exists, F, OuterRef, Sum, Window  # noqa: E402
from django.db.models.functions import Rank  # noqa: E402
from django.utils import timezone  # noqa: E402


def command(*words, **options):
    out = io.StringIO()
    call_command(*words, stdout=out, **options)
    return out.getvalue()


class refused:
    """`with refused(IntegrityError, 1062):` holds if the body fails so."""

    def __init__(self, kind, number):
        self.kind, self.number = kind, number

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _traceback):
        assert error is not None, f"no error instead of {self.number}"
        if not isinstance(error, self.kind):
            return False
        same(error.args[0], self.number, f"number of {error}")
        return True


@check
def connects_without_tls():
    with connections["plain"].cursor() as cursor:
        cursor.execute("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)")
        same(cursor.fetchone(), (checks.USER,))
    connections["plain"].close()


@check
def connects_over_tls():
    with connection.cursor() as cursor:
        cursor.execute("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1), DATABASE()")
        same(cursor.fetchone(), (checks.USER, checks.DATABASE))
    with refused(OperationalError, 1045):
        connections["wrong"].ensure_connection()


@check
def migrations():
    command("migrate", "canteen", "0001")
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO canteen_dish (name, price, facts, maker) VALUES (%s, %s, '{}', %s)",
            [(f"dish {n}", n, f"cook {n % 5}") for n in range(1, 101)],
        )
    assert "Applying canteen.0003_prices... OK" in command("migrate")
    same(Dish.objects.count(), 100)
    same(Cook.objects.count(), 5)
    assert "No migrations to apply" in command("migrate")
    same(command("showmigrations", "canteen").count("[X]"), 3)
    # The models say nothing that the migrations do not.
    command("makemigrations", check=True, dry_run=True)
    # Back and forth again.
    command("migrate", "canteen", "0001")
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*), COUNT(maker) FROM canteen_dish")
        same(cursor.fetchone(), (100, 100))
    command("migrate", "canteen")
    same(Cook.objects.count(), 5)
    assert "ADD CONSTRAINT" in command("sqlmigrate", "canteen", "0003")


@check
def introspection_and_fixtures():
    text = command("inspectdb")
    assert "class CanteenDish" in text and "class AuthUser" in text, text
    data = command("dumpdata", "canteen")
    with contextlib.closing(open(f"{checks.DATABASE}.json", "w+")) as file:
        file.write(data)
        file.flush()
        command("loaddata", file.name)
    same(Dish.objects.count(), 100)


@check
def rows_come_and_go():
    cook = Cook.objects.create(name="meera")
    dish = Dish.objects.create(name="thali 🍛", price="12.50", facts={"heat": 3}, cook=cook)
    dish.refresh_from_db()
    same((str(dish.price), dish.name), ("12.50", "thali 🍛"))
    same(Dish.objects.get(facts__heat__gt=2), dish)
    served = timezone.now()
    same(Dish.objects.filter(pk=dish.pk).update(price=F("price") + 1, served=served), 1)
    same(Dish.objects.values_list("price", "served").get(pk=dish.pk), (dish.price + 1, served))
    made, created = Dish.objects.update_or_create(name="thali 🍛", defaults={"price": 5})
    same((made.pk, created), (dish.pk, False))
    found, created = Dish.objects.get_or_create(name="dosa", defaults={"cook": cook})
    assert created
    found.delete()
    with refused(IntegrityError, 1451), connection.cursor() as cursor:
        cursor.execute("DELETE FROM canteen_cook WHERE name = 'meera'")
    same(User.objects.create_user("ravi", password="chai").check_password("chai"), True)


@check
def bulk_statements():
    Dish.objects.bulk_create([Dish(name=f"bulk {n}", price=n) for n in range(600)], batch_size=200)
    dishes = list(Dish.objects.filter(name__startswith="bulk"))
    same(len(dishes), 600)
    for dish in dishes:
        dish.price += 1
    same(Dish.objects.bulk_update(dishes, ["price"], batch_size=200), 600)
    Dish.objects.bulk_create([Dish(name="bulk 0", price=7)], update_conflicts=True, update_fields=["price"])
    same(Dish.objects.get(name="bulk 0").price, 7)
    same(Dish.objects.bulk_create([Dish(name="bulk 0")], ignore_conflicts=True)[0].name, "bulk 0")
    same(len(Dish.objects.in_bulk([dish.pk for dish in dishes])), 600)
    same(Dish.objects.filter(name__startswith="bulk").delete()[0], 600)


@check
def queries_of_all_kinds():
    same(Dish.objects.filter(name__startswith="dish").aggregate(Sum("price"), Avg("price"))["price__sum"], 5050)
    rows = Cook.objects.annotate(n=Count("dishes"), total=Sum("dishes__price")).filter(n=20).order_by("name")
    same([row.n for row in rows], [20] * 5)
    ranked = Dish.objects.annotate(rank=Window(Rank(), partition_by="cook", order_by="-price"))
    assert len(ranked) > 100
    same(Cook.objects.filter(Exists(Dish.objects.filter(cook=OuterRef("pk"), price__gt=99))).count(), 1)
    same(len(Dish.objects.select_related("cook").prefetch_related("cook__dishes").filter(price=50)), 1)
    union = Dish.objects.filter(name="dish 1").union(Dish.objects.filter(name="dish 2"))
    same(union.count(), 2)
    assert Dish.objects.filter(name="dish 1").explain()
    same(Dish.objects.raw("SELECT * FROM canteen_dish WHERE name = %s", ["dish 7"])[0].price, 7)
    same(Dish.objects.filter(name__iregex="^DISH [12]$").count(), 2)


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
            same(error.args[0], 1062)
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
            try:
                thread.submit(other, nowait=True).result()
            except OperationalError as error:
                # ER_LOCK_NOWAIT of MySQL, ER_LOCK_WAIT_TIMEOUT of MariaDB.
                assert error.args[0] in (3572, 1205), error
            else:
                raise AssertionError("a locked row is given out")


@check
def errors_have_a_number():
    for sql, number in [("SELEC 1", 1064), ("SELECT * FROM nowhere", 1146)]:
        with refused(ProgrammingError, number), connection.cursor() as cursor:
            cursor.execute(sql)
    with refused(DataError, 1406):
        Dish.objects.create(name="x" * 100)
    with refused((IntegrityError, OperationalError), 3819 if not connection.mysql_is_mariadb else 4025):
        Dish.objects.create(name="negative", price=-1)


@check
def rows_one_by_one():
    same(sum(1 for _ in Dish.objects.filter(name__startswith="dish").iterator(chunk_size=10)), 100)
    half = Dish.objects.order_by("pk").iterator(chunk_size=10)
    first = next(half)
    same(Dish.objects.order_by("pk").first(), first)
    half.close()


@check
def isolation_levels():
    for using, level in [("default", "READ-COMMITTED"), ("repeatable", "REPEATABLE-READ")]:
        name = "tx_isolation" if connection.mysql_is_mariadb else "transaction_isolation"
        for _ in range(3):
            with connections[using].cursor() as cursor:
                cursor.execute(f"SELECT @@{name}")
                same(cursor.fetchone(), (level,))
                same(Dish.objects.using(using).filter(name="dish 1").count(), 1)


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


@check
def connections_of_threads():
    """Work as requests do it: some thread takes a connection of its own."""
    dishes = Dish.objects.using("each")

    def work(_):
        try:
            with transaction.atomic(using="each"):
                dishes.filter(name="dish 1").update(price=F("price") + 1)
            return dishes.filter(name__startswith="dish").count()
        finally:
            connections["each"].close()

    def price():
        # In a transaction that may write: what other sessions wrote is not on every replica yet.
        with transaction.atomic(using="each"):
            return dishes.get(name="dish 1").price

    before = price()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        same(set(threads.map(work, range(60))), {100})
    same(price(), before + 60)


class Port(models.Func):
    template = "@@port"
    output_field = models.IntegerField()


# Django runs without a transaction unless told: reads go to replicas.
@check
def reads_are_spread():
    def read():
        try:
            return Dish.objects.using("each").annotate(port=Port()).values_list("port", flat=True)[0]
        finally:
            connections["each"].close()

    eventually(lambda: read() in checks.READ_PORTS, "a read where reads belong")
    spread = checks.Spread()
    while spread.wants_more():
        spread.ran_on(read())


checks.main("Django", f"{django.__version__}, mysqlclient {importlib.metadata.version('mysqlclient')}")
