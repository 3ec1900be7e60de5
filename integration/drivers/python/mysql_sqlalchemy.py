"""SQLAlchemy's ORM and pool over PyMySQL."""

import decimal

import sqlalchemy
from sqlalchemy import ForeignKey, Numeric, String, create_engine, func, inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import checks
from checks import check, same

URL = sqlalchemy.URL.create(
    "mysql+pymysql", checks.USER, checks.PASSWORD, checks.HOST, checks.PORT, checks.DATABASE
)
TLS = {"ssl": {"ca": checks.CA, "check_hostname": True}}
engine = create_engine(URL, connect_args=TLS, pool_size=5, pool_pre_ping=True)


class Base(DeclarativeBase):
    pass


class Cook(Base):
    __tablename__ = "cook"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    dishes: Mapped[list["Dish"]] = relationship(back_populates="cook")


class Dish(Base):
    __tablename__ = "dish"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    price: Mapped[decimal.Decimal] = mapped_column(Numeric(10, 2))
    cook_id: Mapped[int] = mapped_column(ForeignKey("cook.id"))
    cook: Mapped[Cook] = relationship(back_populates="dishes")


@check
def makes_and_sees_its_tables():
    Base.metadata.create_all(engine)
    same(set(inspect(engine).get_table_names()), {"cook", "dish"})
    columns = {column["name"] for column in inspect(engine).get_columns("dish")}
    same(columns, {"id", "name", "price", "cook_id"})


@check
def connects_without_tls():
    plain = create_engine(URL, connect_args={"ssl_disabled": True})
    with plain.connect() as connection:
        same(connection.scalar(text("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)")), checks.USER)
    plain.dispose()


@check
def objects_are_written_and_read():
    with Session(engine) as session:
        for cook in ("Asha", "Bala"):
            dishes = [Dish(name=f"{cook}'s {n}", price=n) for n in range(1, 21)]
            session.add(Cook(name=cook, dishes=dishes))
        session.commit()
        sums = select(Cook.name, func.sum(Dish.price)).join(Cook.dishes).group_by(Cook.name)
        same([tuple(row) for row in session.execute(sums.order_by(Cook.name))],
             [("Asha", 210), ("Bala", 210)])


@check
def what_is_flushed_is_seen_and_rolled_back():
    with Session(engine) as session:
        session.add(Cook(name="Chitra"))
        session.flush()
        same(session.scalar(select(func.count()).select_from(Cook)), 3)
        session.rollback()
        same(session.scalar(select(func.count()).select_from(Cook)), 2)


@check
def savepoints_nest():
    with Session(engine) as session:
        session.add(Cook(name="Devi"))
        try:
            with session.begin_nested():
                session.add(Cook(name="Asha"))
                session.flush()
        except IntegrityError:
            pass
        else:
            raise AssertionError("two cooks of one name")
        session.commit()
        same(session.scalar(select(func.count()).select_from(Cook)), 3)


@check
def rows_are_locked_and_changed():
    with Session(engine) as session:
        dish = session.scalars(select(Dish).where(Dish.name == "Asha's 1").with_for_update()).one()
        dish.price = 99
        session.commit()
        session.refresh(dish)
        same(dish.price, decimal.Decimal(99))


@check
def isolation_levels_are_set():
    for level in ("READ COMMITTED", "SERIALIZABLE", "REPEATABLE READ"):
        with engine.connect().execution_options(isolation_level=level) as connection:
            same(connection.get_isolation_level(), level)
            same(connection.scalar(select(func.count()).select_from(Cook)), 3)


@check
def autocommit_by_the_driver():
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("UPDATE dish SET price = 5 WHERE name = 'Bala''s 1'"))
        price = select(Dish.price).where(Dish.name == "Bala's 1")
        same(connection.scalar(price), decimal.Decimal(5))


@check
def reads_are_spread():
    spread = checks.Spread()
    while spread.wants_more():
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            spread.ran_on(connection.scalar(text("SELECT @@port FROM dish LIMIT 1")))
            # The next one is a session of its own.
            connection.invalidate()


checks.main("sqlalchemy pymysql", sqlalchemy.__version__)
