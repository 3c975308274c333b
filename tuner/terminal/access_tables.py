"""Tables of access tokens and of what happened to a study."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tuner.terminal.tables import plain_table, state
from tuner.wire.access import TokenView
from tuner.wire.views import EventView


def tokens_table(views: Sequence[TokenView]) -> Table:
    """List tokens."""
    table = plain_table("id", "role", "label", "state", "created", "by", "expires", right=("id",), fold=("label",))
    for view in views:
        expires = f"{view.expires_at:%Y-%m-%d}" if view.expires_at else "never"
        table.add_row(
            str(view.id), view.role, Text(view.label), state(view.state), f"{view.created_at:%Y-%m-%d}",
            Text(view.created_by or "-"), expires,
        )  # fmt: skip
    return table


def history_table(views: Sequence[EventView]) -> Table:
    """List what happened, and who asked for it."""
    table = plain_table("when (UTC)", "what", "trial", "by", "details", right=("trial",), fold=("details",))
    for view in views:
        told = ", ".join(f"{name}: {value}" for name, value in view.data.items() if value is not None)
        trial = "" if view.trial is None else str(view.trial)
        table.add_row(f"{view.at:%m-%d %H:%M:%S}", view.kind, trial, Text(view.by or ""), Text(told[:200]))
    return table
