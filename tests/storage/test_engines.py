"""Connections to PostgreSQL notice that the other end is gone, on both sides."""

from sqlalchemy import make_url, text

from storage.database import Database
from storage.engines import CLIENT_ENDS, noticing


def test_postgresql_looks_whether_a_client_that_waits_is_still_there(postgresql: Database) -> None:
    with postgresql.write() as session:
        assert session.execute(text("show client_connection_check_interval")).scalar_one() == "2s"
        driver = session.connection().connection.driver_connection
    assert driver is not None
    told = driver.info.get_parameters()
    assert {name: int(told[name]) for name in CLIENT_ENDS} == CLIENT_ENDS


def test_what_a_url_says_itself_counts() -> None:
    url = make_url("postgresql+psycopg://tuner@db/tuner?connect_timeout=30&keepalives_idle=60")
    assert set(noticing(url)) == set(CLIENT_ENDS) - {"connect_timeout", "keepalives_idle"}
