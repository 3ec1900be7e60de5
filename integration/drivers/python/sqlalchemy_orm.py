"""SQLAlchemy with its ORM and Alembic's migrations, over psycopg and over asyncpg."""

import asyncio
import concurrent.futures
import datetime
import decimal
import ssl
import uuid

import alembic
import asyncpg
import psycopg
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.orm.exc import StaleDataError

import checks
from checks import check, eventually, refused, same

URL = sa.URL.create("postgresql+psycopg", checks.USER, checks.PASSWORD, checks.HOST, checks.PORT, checks.DATABASE)


class Base(DeclarativeBase):
    pass


class Dish(Base):
    __tablename__ = "dish"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    price: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(8, 2))
    labels: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), server_default="{}")
    facts: Mapped[dict] = mapped_column(JSONB, server_default="{}")
    photo: Mapped[bytes | None]
    version: Mapped[int] = mapped_column()
    ingredients: Mapped[list["Ingredient"]] = relationship(back_populates="dish", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Ingredient(Base):
    __tablename__ = "ingredient"
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    dish_id: Mapped[int] = mapped_column(sa.ForeignKey("dish.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    code: Mapped[uuid.UUID] = mapped_column(UUID, server_default=sa.text("gen_random_uuid()"))
    since: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    dish: Mapped[Dish] = relationship(back_populates="ingredients")


engine = sa.create_engine(URL, pool_size=5, max_overflow=5, pool_pre_ping=True)


@check
def connects_with_scram_over_tls():
    with engine.connect() as conn:
        assert conn.connection.dbapi_connection.pgconn.ssl_in_use
        same(conn.scalar(sa.text("SELECT current_user")), checks.USER)
        assert engine.dialect.server_version_info >= (15,)
    with refused_by_driver("password authentication failed"):
        sa.create_engine(URL.set(password="no")).connect()


class refused_by_driver:
    def __init__(self, text):
        self.text = text

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _traceback):
        assert error is not None and self.text in str(error), error
        return True


@check
def makes_and_reflects_its_tables():
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    # A second time: everything is found to be there.
    Base.metadata.create_all(engine)
    inspector = sa.inspect(engine)
    same(sorted(inspector.get_table_names()), ["dish", "ingredient"])
    same(inspector.get_pk_constraint("dish")["constrained_columns"], ["id"])
    same(inspector.get_foreign_keys("ingredient")[0]["referred_table"], "dish")
    same([index["name"] for index in inspector.get_indexes("ingredient")], ["ix_ingredient_dish_id"])
    reflected = sa.MetaData()
    reflected.reflect(engine)
    same(sorted(reflected.tables), ["dish", "ingredient"])


@check
def migrations():
    """What Alembic's migration environment does: one transaction for each revision, DDL in it."""
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"transaction_per_migration": True})
        operations = Operations(context)
        context._ensure_version_table()
        for revision, step in enumerate([_first, _second, _third]):
            with context.begin_transaction(_per_migration=True):
                step(operations)
                conn.execute(sa.text("DELETE FROM alembic_version"))
                conn.execute(sa.text(f"INSERT INTO alembic_version VALUES ('r{revision}')"))
        conn.commit()
        same(context.get_current_revision(), "r2")
        # A revision that fails leaves nothing.
        conn.rollback()
        try:
            with context.begin_transaction(_per_migration=True):
                operations.add_column("menu", sa.Column("half", sa.Integer))
                operations.execute("SELECT 1/0")
        except sa.exc.DataError:
            conn.rollback()
        columns = [column["name"] for column in sa.inspect(conn).get_columns("menu")]
        same(columns, ["id", "title", "day", "price"])
        conn.rollback()
        # Outside of a transaction.
        with context.autocommit_block():
            operations.create_index("menu_day", "menu", ["day"], postgresql_concurrently=True)
        # What the models say of their own tables is what is there.
        changes = compare_metadata(
            MigrationContext.configure(conn, opts={"include_object": _is_mine}), Base.metadata
        )
        same(changes, [])


def _is_mine(_object, name, kind, *_):
    return kind != "table" or name in Base.metadata.tables


def _first(operations):
    operations.create_table(
        "menu", sa.Column("id", sa.Integer, primary_key=True), sa.Column("title", sa.String(20))
    )
    operations.execute("INSERT INTO menu (title) SELECT 'menu ' || n FROM generate_series(1, 50) n")


def _second(operations):
    operations.add_column("menu", sa.Column("day", sa.Date, server_default=sa.func.current_date()))
    operations.alter_column("menu", "title", type_=sa.Text, nullable=False)
    operations.create_check_constraint("titled", "menu", "title <> ''")


def _third(operations):
    with operations.batch_alter_table("menu") as batch:
        batch.add_column(sa.Column("price", sa.Numeric))
    operations.execute("UPDATE menu SET price = id")


@check
def units_of_work():
    with Session(engine) as session:
        for number in range(1, 101):
            dish = Dish(id=number, name=f"dish {number}", price=number, labels=["vegan"], facts={"hot": True})
            dish.ingredients = [Ingredient(name=f"spice {n}") for n in range(3)]
            session.add(dish)
        session.commit()
        found = session.scalars(
            sa.select(Dish).options(selectinload(Dish.ingredients)).where(Dish.id <= 10).order_by(Dish.id)
        ).all()
        same([len(dish.ingredients) for dish in found], [3] * 10)
        same(found[3].facts, {"hot": True})
        same(found[3].labels, ["vegan"])
        found[3].price += 1
        session.delete(found[9])
        session.commit()
        same(session.scalar(sa.select(sa.func.count()).select_from(Ingredient)), 297)
        same(session.get(Dish, 4).price, decimal.Decimal("5.00"))
        query = sa.select(Dish.name, sa.func.count(Ingredient.id)).join(Dish.ingredients)
        rows = session.execute(query.group_by(Dish.name).having(sa.func.count(Ingredient.id) > 2)).all()
        same(len(rows), 99)


@check
def savepoints_and_rollback():
    with Session(engine) as session:
        session.add(Dish(id=1001, name="kept", price=1))
        session.flush()
        with refused("23505"), session.begin_nested():
            session.add(Dish(id=1002, name="kept", price=1))
            session.flush()
        nested = session.begin_nested()
        session.add(Dish(id=1003, name="dropped", price=1))
        session.flush()
        nested.rollback()
        session.commit()
        same(session.scalars(sa.select(Dish.id).where(Dish.id > 1000)).all(), [1001])
        session.add(Dish(id=1004, name="dropped", price=1))
        session.rollback()
        same(session.get(Dish, 1004), None)


@check
def optimistic_and_pessimistic_locks():
    with Session(engine) as one, Session(engine) as two:
        first, second = one.get(Dish, 1), two.get(Dish, 1)
        first.price = 100
        one.commit()
        second.price = 200
        try:
            two.commit()
            raise AssertionError("a lost update")
        except StaleDataError:
            two.rollback()
        one.get(Dish, 2, with_for_update=True)
        with refused("55P03"):
            two.get(Dish, 2, with_for_update={"nowait": True})
        two.rollback()
        skipped = sa.select(Dish.id).where(Dish.id <= 3).with_for_update(skip_locked=True).order_by(Dish.id)
        same(two.scalars(skipped).all(), [1, 3])


@check
def isolation_levels():
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]:
        with engine.connect().execution_options(isolation_level=level) as conn:
            same(conn.scalar(sa.text("SHOW transaction_isolation")).upper(), level)
    with engine.connect().execution_options(postgresql_readonly=True) as conn, refused("25006"):
        conn.execute(sa.delete(Dish))
    options = {"isolation_level": "SERIALIZABLE", "postgresql_readonly": True, "postgresql_deferrable": True}
    with engine.connect().execution_options(**options) as conn:
        same(conn.scalar(sa.text("SHOW transaction_deferrable")), "on")
    with engine.connect() as conn:
        same(conn.scalar(sa.text("SHOW transaction_read_only")), "off")
        same(conn.scalar(sa.text("SHOW transaction_isolation")), "read committed")


@check
def bulk_statements():
    with engine.begin() as conn:
        rows = [{"id": 5000 + n, "name": f"bulk {n}", "price": n, "version": 1} for n in range(3000)]
        conn.execute(sa.insert(Dish), rows)
        upsert = insert(Dish).values(id=5000, name="bulk 0", price=7, version=1)
        upsert = upsert.on_conflict_do_update(index_elements=["id"], set_={"price": upsert.excluded.price})
        same(conn.execute(upsert.returning(Dish.price)).scalar(), decimal.Decimal("7.00"))
        same(conn.execute(sa.update(Dish).where(Dish.id >= 5000).values(price=1)).rowcount, 3000)
        many = conn.execute(
            sa.insert(Ingredient).returning(Ingredient.id, sort_by_parameter_order=True),
            [{"dish_id": 5000, "name": str(n)} for n in range(2000)],
        )
        same(len(many.scalars().all()), 2000)
        same(conn.execute(sa.delete(Dish).where(Dish.id >= 5000)).rowcount, 3000)


@check
def rows_by_a_cursor_of_the_server():
    with engine.connect().execution_options(yield_per=50) as conn:
        rows = conn.execute(sa.text("SELECT generate_series(1, 1000)"))
        same(sum(len(part) for part in rows.partitions()), 1000)
    with Session(engine) as session:
        found = session.scalars(sa.select(Dish).order_by(Dish.id).execution_options(yield_per=10))
        same(sum(1 for _ in found), 100)


@check
def errors_have_a_sqlstate():
    with engine.connect() as conn:
        for sql, state in [("SELECT 1/0", "22012"), ("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01")]:
            with refused(state):
                conn.execute(sa.text(sql))
            with refused("25P02"):
                conn.execute(sa.text("SELECT 1"))
            conn.rollback()
        with refused("23503") as it:
            conn.execute(sa.text("INSERT INTO ingredient (dish_id, name) VALUES (99999, 'x')"))
        same(it.error.orig.diag.constraint_name, "ingredient_dish_id_fkey")


@check
def two_phase_commit():
    with engine.connect() as conn:
        transaction = conn.begin_twophase(f"{checks.DATABASE}-{checks.PORT}")
        conn.execute(sa.text("UPDATE menu SET price = 77 WHERE id = 1"))
        transaction.prepare()
        transaction.commit()
    with engine.connect() as conn:
        same(conn.scalar(sa.text("SELECT price FROM menu WHERE id = 1")), 77)


@check
def copy_notify_and_cancel_of_the_driver_below():
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        raw = conn.connection.dbapi_connection
        conn.execute(sa.text("CREATE TABLE copied (n int)"))
        with raw.cursor().copy("COPY copied FROM STDIN") as copy:
            copy.write("".join(f"{n}\n" for n in range(10_000)))
        with raw.cursor().copy("COPY copied TO STDOUT") as copy:
            same(sum(1 for _ in copy.rows()), 10_000)
        conn.execute(sa.text("LISTEN kitchen"))
        with engine.begin() as other:
            other.execute(sa.text("SELECT pg_notify('kitchen', 'served')"))
        same([note.payload for note in raw.notifies(timeout=20, stop_after=1)], ["served"])
        conn.execute(sa.text("UNLISTEN *"))
        with checks.cancelling(raw.cancel_safe), refused("57014"):
            conn.execute(sa.text("SELECT pg_sleep(30)"))
        conn.execute(sa.text("SET statement_timeout = '100ms'"))
        with refused("57014"):
            conn.execute(sa.text("SELECT pg_sleep(30)"))
        conn.execute(sa.text("RESET statement_timeout"))


@check
def large_values():
    photo = bytes(range(256)) * (checks.LARGE_BYTES // 256)
    with Session(engine) as session:
        session.add(Dish(id=9001, name="large", price=1, photo=photo, facts={"words": "x" * 1_000_000}))
        session.commit()
    with Session(engine) as session:
        dish = session.get(Dish, 9001)
        assert dish.photo == photo and dish.facts == {"words": "x" * 1_000_000}, "another value came back"
        session.delete(dish)
        session.commit()


@check
def pool():
    with engine.begin() as conn:
        conn.execute(sa.text("CREATE TABLE counter AS SELECT 0 AS n"))

    def work(_):
        with Session(engine) as session, session.begin():
            session.execute(sa.text("UPDATE counter SET n = n + 1"))
        with Session(engine) as session:
            return session.scalar(sa.select(sa.func.count()).select_from(Dish).where(Dish.id <= 100))

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        same(set(threads.map(work, range(150))), {99})
    with engine.connect() as conn:
        same(conn.scalar(sa.text("SELECT n FROM counter")), 150)
    same(engine.pool.checkedout(), 0)


@check
async def over_asyncpg():
    url = URL.set(drivername="postgresql+asyncpg")
    tls = ssl.create_default_context(cafile=checks.CA)
    engine = create_async_engine(url, pool_size=5, connect_args={"ssl": tls})

    async def work(number):
        async with AsyncSession(engine) as session, session.begin():
            session.add(Dish(id=20_000 + number, name=f"async {number}", price=number))
            await session.flush()
            with refused("23505"):
                async with session.begin_nested():
                    await session.execute(sa.insert(Dish).values(id=1, name="x", price=1, version=1))
            return (await session.get(Dish, 20_000 + number)).name

    names = await asyncio.gather(*(work(number) for number in range(50)))
    same(names, [f"async {number}" for number in range(50)])
    async with engine.connect() as conn:
        rows = await conn.stream(sa.select(Dish.id).where(Dish.id >= 20_000).order_by(Dish.id))
        same([row[0] async for row in rows], [20_000 + number for number in range(50)])
        # A change of the table makes prepared statements invalid.
        same((await conn.execute(sa.text("SELECT * FROM menu WHERE id = 2"))).keys().__len__(), 4)
        await conn.rollback()
        async with engine.begin() as other:
            await other.execute(sa.text("ALTER TABLE menu ADD extra int"))
        for _ in range(2):
            try:
                same((await conn.execute(sa.text("SELECT * FROM menu WHERE id = 2"))).keys().__len__(), 5)
            except sa.exc.NotSupportedError:
                # SQLAlchemy's own word on it: the first use after the change fails and its cache
                # is emptied.
                await conn.rollback()
    await engine.dispose()


# An engine's sessions begin transactions that may write, which belong on the primary. What is
# marked as only reading, or runs without a transaction, goes to replicas.
@check
def reads_spread_over_replicas():
    port = sa.select(sa.func.inet_server_port()).select_from(Dish).limit(1)
    for options in [{"isolation_level": "AUTOCOMMIT"}, {"postgresql_readonly": True}]:
        reader = sa.create_engine(URL, poolclass=sa.NullPool, execution_options=options)

        def read():
            with reader.connect() as conn:
                return conn.scalar(port)

        eventually(lambda: read() in checks.READ_PORTS, "a read where reads belong")
        spread = checks.Spread()
        while spread.wants_more():
            spread.ran_on(read())


checks.main(
    "SQLAlchemy",
    f"{sa.__version__}, Alembic {alembic.__version__}, psycopg {psycopg.__version__}, asyncpg {asyncpg.__version__}",
)
