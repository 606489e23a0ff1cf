"""The faults of ``make chaos`` are what they are called: a cut falls where it says, and every fault strikes."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chaos.proxy import Cut, CuttingProxy
from chaos.storm import COPY_AT, SET_BACK_AT, SHORT, Fault, storm


@pytest.fixture
def table(empty_dsn: str) -> str:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n integer)")
    return empty_dsn


async def insert(dsn: str, *, pipelined: bool) -> None:
    """One transaction of two statements, as the ledger's units are, or with an explicit COMMIT."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    try:
        async with connection.pipeline() if pipelined else connection.transaction():
            await connection.execute("INSERT INTO t VALUES (%s)", (1,))
            await connection.execute("INSERT INTO t VALUES (%s)", (2,))
    finally:
        await connection.close()


@pytest.mark.parametrize("pipelined", [True, False])
@pytest.mark.parametrize(("cut", "rows"), [(Cut.MIDDLE, 0), (Cut.DOUBT, 2), (Cut.STALL, 2)])
async def test_a_cut_in_the_middle_undoes_and_one_after_commit_does_not(
    table: str, pipelined: bool, cut: Cut, rows: int
) -> None:
    where = conninfo_to_dict(table)
    socket = Path(str(where["host"])) / f".s.PGSQL.{where.get('port') or 5432}"
    async with CuttingProxy(socket) as proxy:
        through = make_conninfo(
            table, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable", application_name="x/1"
        )
        await insert(through, pipelined=pipelined)
        proxy.cut(cut, "x/")
        with pytest.raises(psycopg.OperationalError):
            await insert(through, pipelined=pipelined)
        assert proxy.cuts[cut] == 1
        await insert(through, pipelined=pipelined)
    with psycopg.connect(table) as connection:
        [count] = connection.execute("SELECT count(*) FROM t").fetchone() or (None,)
    assert count == 4 + rows


@pytest.mark.parametrize("seed", range(5))
def test_every_fault_strikes_in_a_run_of_any_size_and_the_database_is_set_back_once(seed: int) -> None:
    for size in (1000, SHORT, 1_000_000):
        strikes = storm(size, seed)
        assert {strike.fault for strike in strikes} == set(Fault)
        assert [s.at for s in strikes if s.fault in (Fault.COPY, Fault.SET_BACK)] == [COPY_AT, SET_BACK_AT]
        assert strikes == sorted(strikes) == storm(size, seed)
    assert storm(SHORT, seed) != storm(SHORT, seed + 1)
