"""Settings: where the token and the database come from, and that neither shows."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from api.settings import Settings
from tuner.errors import InvalidInput

TOKEN = "correct-horse-battery"


def test_the_token_comes_from_a_file_or_the_environment_but_not_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("TUNER_TOKEN_FILE", str(file))
    found = Settings().token
    assert found is not None and found.get_secret_value() == TOKEN
    monkeypatch.setenv("TUNER_TOKEN", TOKEN)
    with pytest.raises(InvalidInput, match="TUNER_TOKEN: is set, and so is a token file"):
        Settings()


def test_a_file_that_holds_no_token_is_refused_without_showing_it(tmp_path: Path) -> None:
    for content in (b"", b"two\nlines-of-a-secret", b"\xff" * 20, b"s" * 2000):
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(InvalidInput, match="is not a token") as caught:
            Settings(token_file=tmp_path / "token")
        assert "secret" not in str(caught.value)
    with pytest.raises(InvalidInput, match="the token cannot be read: no such file"):
        Settings(token_file=tmp_path / "none")


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:hunter2@db/x", "sqlite:////tmp/x?key=hunter2"])
def test_settings_show_no_secret(url: str) -> None:
    found = Settings(database_url=url, token=TOKEN)  # type: ignore[arg-type]
    for text in (repr(found), str(found), repr(found.model_dump()), found.model_dump_json()):
        assert "hunter2" not in text and TOKEN not in text
    assert found.url.render_as_string(hide_password=False) == url


def test_a_database_of_an_unknown_kind_is_refused_without_its_password() -> None:
    for url in (
        "mysql://me:hunter2@db/x",
        "hunter2",
        "postgresql+odd://me:hunter2@db/x",
        "postgresql://me:hunter2@db:port/x",
    ):
        with pytest.raises(ValidationError, match=r"allowed are postgresql\+psycopg") as caught:
            Settings(database_url=url)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b"])
def test_data_directories_are_told_apart(tmp_path: Path, name: str) -> None:
    found = Settings(data_dir=tmp_path / name)
    assert found.url.database == str(tmp_path / name / "tuner.sqlite")
    assert found.store_root == str(tmp_path / name / "checkpoints")
