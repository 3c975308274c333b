"""The server's settings: environment variables `TUNER_...`, or flags of `tuner serve`.

A mistyped variable is rejected: a setting that silently does nothing is worse than an error. SQLAlchemy, which takes a
quarter of a second to load, is loaded only where a database's URL is read: `tuner demo` needs the other settings.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from api.networks import networks
from tuner.errors import Fault, InvalidInput
from tuner.store import absolute_root
from tuner.token import token_in

if TYPE_CHECKING:
    from sqlalchemy import URL

LOOPBACK = ("127.0.0.1", "localhost", "::1")
READ_ELSEWHERE = ("TUNER_SERVER", "TUNER_HEADERS", "TUNER_HOME")
"""Variables with our prefix that the client reads."""


class Settings(BaseSettings):
    """Immutable; built once in the command line and passed down."""

    model_config = SettingsConfigDict(env_prefix="TUNER_", frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8700, ge=0, le=65535, description="0 picks a free port")
    data_dir: Path = Field(default=Path("var"), description="database and logs")
    database_url: SecretStr | None = Field(default=None, description="default: SQLite in data_dir")
    sqlite_synchronous: Literal["NORMAL", "FULL"] = Field(default="NORMAL", description="FULL survives a power cut")
    database_connections: int = Field(default=40, ge=2, le=1000, description="most open at a time")
    token: SecretStr | None = Field(default=None, description="shared bearer token; required off loopback")
    token_file: Path | None = Field(default=None, description="a file that holds the token")
    allowed_hosts: list[str] = Field(default_factory=list, description="additional host names of the server")
    local_workers: bool = Field(default=True, description="start a worker per GPU, or one for the CPU")
    workloads: list[str] = Field(default_factory=list, description="files or modules for the local workers")
    width: int | None = Field(
        default=None, ge=1, le=4096, description="slots of local workers' stacks; default: measured"
    )
    lease_s: float = Field(default=15.0, ge=1.0, le=3600.0, description="seconds without a sync until a lease is lost")
    log_form: Literal["text", "json"] = Field(default="text", description="format of log lines")
    checkpoints: str | None = Field(default=None, description="directory or URL that all workers see; see store_root")
    checkpoint_every_s: float = Field(default=10.0, ge=0.1, le=86400.0, description="between checkpoints of a trial")
    hang_s: float = Field(
        default=300.0, ge=1.0, le=86400.0, description="seconds without a tick until a device process is terminated"
    )
    trusted_proxies: list[str] = Field(
        default_factory=list, description="addresses of proxies that log people in, e.g. 10.0.0.7 or 10.0.0.0/8"
    )
    proxy_user_header: str = Field(
        default="X-Forwarded-User", pattern="^[A-Za-z0-9-]{1,100}$", description="where those proxies name the person"
    )
    proxy_role: Literal["viewer", "submitter", "admin"] = Field(
        default="submitter", description="role of the people whom those proxies name"
    )
    proxy_admins: list[str] = Field(default_factory=list, description="people among them who are admins")
    root_path: str = Field(
        default="", pattern="^(/[A-Za-z0-9._~-]+)*$", description="path below which a proxy serves Tuner, e.g. /tuner"
    )
    keep_states_days: float = Field(
        default=7.0, ge=0, le=36_500, description="states of failed and cancelled trials, for trying them again"
    )
    keep_weights_days: float | None = Field(default=None, ge=0, le=36_500, description="best weights of ended studies")
    keep_events_days: float | None = Field(default=None, ge=0, le=36_500, description="events of ended studies")
    keep_reports_days: float | None = Field(default=None, ge=0, le=36_500, description="curves of ended studies")
    webhook_secret: SecretStr | None = Field(default=None, description="signs what webhooks are told (HMAC-SHA256)")
    webhook_private: bool = Field(default=False, description="webhooks may have addresses of our own network")
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024, description="largest request body")
    max_event_streams: int = Field(default=500, ge=1, description="most event streams open at a time")

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _paths_are_text(cls, place: object) -> object:
        return str(place) if isinstance(place, Path) else place

    @model_validator(mode="before")
    @classmethod
    def _token_from_file(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("token_file"):
            if values.get("token"):
                raise InvalidInput([Fault("TUNER_TOKEN", "is set, and so is a token file; give one of them")])
            return {**values, "token": token_in(values["token_file"])}
        return values

    @field_validator("token")
    @classmethod
    def _token_is_long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < 16:
            raise ValueError("a token needs 16 characters or more")
        if token is not None and not (token.get_secret_value().isascii() and token.get_secret_value().isprintable()):
            raise ValueError("a token is one line of printable ASCII")
        return token

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, given: list[str]) -> list[str]:
        networks(given)
        return given

    @field_validator("database_url")
    @classmethod
    def _database_is_known(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None:
            database_of(given.get_secret_value())
        return given

    @property
    def url(self) -> "URL":
        """The database's URL; its text shows no password."""
        from sqlalchemy import URL

        if self.database_url is not None:
            return database_of(self.database_url.get_secret_value())
        return URL.create("sqlite", database=str(self.data_dir.absolute() / "tuner.sqlite"))

    @property
    def store_root(self) -> str:
        """The checkpoint store: the configured directory or URL, or a directory in `data_dir` for local workers."""
        return absolute_root(self.checkpoints or str((self.data_dir / "checkpoints").absolute()))

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK

    def check(self, *, guarded: bool) -> None:
        """Raise `InvalidInput` for combinations with which the server must not start.

        `guarded` says that it asks who comes, and that somebody has what it asks for.
        """
        if not self.on_loopback and not guarded:
            raise InvalidInput(
                f"host is {self.host!r}, which other machines can reach; set TUNER_TOKEN (16 characters or more) "
                "or listen on 127.0.0.1"
            )


def database_of(text: str) -> "URL":
    """Parse a database's URL. Raises `ValueError`, which shows no more of it than its kind."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(text)
        kind = url.get_backend_name()
        url.get_dialect()
    except (ArgumentError, ValueError):
        kind = "not a URL"
    except (NoSuchModuleError, ImportError):
        kind = text.partition(":")[0]
    if kind in ("sqlite", "postgresql"):
        return url
    raise ValueError(f"{kind} given; allowed are postgresql+psycopg://USER@HOST/NAME and sqlite:////PATH")


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Raise `InvalidInput` for `TUNER_...` variables that are not read anywhere."""
    known = [f"TUNER_{name.upper()}" for name in Settings.model_fields] + list(READ_ELSEWHERE)
    faults = []
    for name in environment:
        if name.startswith("TUNER_") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            faults.append(Fault(name, f"unknown environment variable; {hint}"))
    if faults:
        raise InvalidInput(faults)
