"""The commands that look after a database: db upgrade, check, backup, move.

They work on the database itself, with or without a server. `tuner.cli` brings what does the work: this package knows
neither server nor database.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from tuner.errors import TunerError
from tuner.terminal.options import DataDir

Db = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The database, without its password (default: SQLite in the data directory)."),
]


class Upkeep(Protocol):
    """What does the work (`api.upkeep`); `settings` are the server's."""

    def upgrade(self, settings: Any) -> tuple[str | None, str]:
        """Bring the schema up to date; return its version before and after."""

    def check(self, settings: Any) -> list[str]:
        """Return what is wrong, a line each."""

    def backup(self, settings: Any, file: Path) -> None:
        """Write a copy into a new file."""

    def move(self, settings: Any, target: str, told: Callable[[str, int], None]) -> dict[str, int]:
        """Copy everything into an empty database; return the rows per table."""


def commands(load: Callable[[str | None, Path | None], tuple[Upkeep, Any]]) -> typer.Typer:
    """Build the commands. `load` gets --db and --data-dir, and returns what does the work and the server's settings."""
    app = typer.Typer(help="Look after the server's database: upgrade, check, backup, move.", no_args_is_help=True)

    @app.command()
    def upgrade(db: Db = None, data_dir: DataDir = None) -> None:
        """Bring the schema up to date, as `tuner serve` does when it starts.

        Example:
          tuner db upgrade --db postgresql+psycopg://tuner@db/tuner
        """
        upkeep, settings = load(db, data_dir)
        before, after = upkeep.upgrade(settings)
        _say(f"schema {after} already" if before == after else f"schema {before or 'none'} -> {after}")

    @app.command()
    def check(db: Db = None, data_dir: DataDir = None) -> None:
        """Check that what is stored fits together; exit code 1 if anything does not. Servers may run meanwhile.

        Example:
          tuner db check
        """
        upkeep, settings = load(db, data_dir)
        faults = upkeep.check(settings)
        if faults:
            raise TunerError("\n".join(faults))
        _say("all is well")

    @app.command()
    def backup(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A new SQLite file.")],
        db: Db = None,
        data_dir: DataDir = None,
    ) -> None:
        """Write a consistent copy of the database into one SQLite file. Servers may run meanwhile.

        Put it back with `tuner db move`, or serve it: it is a whole database. Checkpoints are not in it.

        Example:
          tuner db backup monday.sqlite
        """
        upkeep, settings = load(db, data_dir)
        upkeep.backup(settings, file)
        _say(f"{file}: {file.stat().st_size / 1e6:,.1f} MB")

    @app.command()
    def move(
        target: Annotated[
            str, typer.Argument(metavar="TARGET", help="URL of an empty database, without its password.")
        ],
        db: Db = None,
        data_dir: DataDir = None,
    ) -> None:
        """Copy everything into an empty database, of the same kind or the other. Stop the server first.

        Rows are counted on both sides before the copy is kept. The old database stays as it is. PGPASSWORD or
        ~/.pgpass holds PostgreSQL's password.

        Examples:
          tuner db move postgresql+psycopg://tuner@db/tuner
          tuner db move sqlite:////data/tuner.sqlite --db postgresql+psycopg://tuner@db/tuner
        """
        from tuner.terminal.formats import many
        from tuner.terminal.serving import check_database_option

        check_database_option(target)
        upkeep, settings = load(db, data_dir)
        counts = upkeep.move(settings, target, lambda table, rows: _say(f"{table}: {many(rows, 'row')}"))
        total = sum(counts.values())
        _say(f"moved {many(total, 'row')}; serve {'it' if total == 1 else 'them'} with --db {target}")

    return app


def _say(text: str) -> None:
    from tuner.terminal.console import messages

    messages().print(text, markup=False, soft_wrap=True)
