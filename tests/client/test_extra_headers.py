"""TUNER_HEADERS: headers for a proxy between client and server."""

import httpx2
import pytest

from tuner.client import Client
from tuner.errors import InvalidInput
from tuner.extra_headers import extra_headers

HEALTH = {"status": "ok", "service": "tuner", "version": "0"}


def sent(monkeypatch: pytest.MonkeyPatch, lines: str, token: str | None) -> httpx2.Headers:
    """Return the headers of a client's request."""
    monkeypatch.setenv("TUNER_HEADERS", lines)
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json=HEALTH)

    with Client("http://tuner.test/lab/tuner", token, transport=httpx2.MockTransport(answer)) as client:
        client.health()
    assert str(seen[0].url) == "http://tuner.test/lab/tuner/healthz"
    return seen[0].headers


def test_headers_are_sent_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = sent(monkeypatch, "X-Api-Key: abc\n\nCF-Access-Client-Id:  with: colon \n", "our token")
    assert (headers["x-api-key"], headers["cf-access-client-id"]) == ("abc", "with: colon")
    assert headers["authorization"] == "Bearer our token"


def test_a_proxy_may_have_authorization_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = sent(monkeypatch, "authorization: Basic cHJveHk=", "our token")
    assert (headers["authorization"], headers["tuner-token"]) == ("Basic cHJveHk=", "our token")
    assert "tuner-token" not in sent(monkeypatch, "Authorization: Basic cHJveHk=", None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("nonsense secret", "line 1 is no header"),
        ("X-A: 1\na b: secret", "line 2 is no header"),
        ("Host: secret", "Host is set by Tuner itself"),
        ("X-A:", "the value of X-A is not one line"),
        ("X-A: sécret", "the value of X-A is not one line"),
    ],
)
def test_what_is_no_header_is_refused_without_showing_it(lines: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        extra_headers({"TUNER_HEADERS": lines})
    assert "secret" not in str(caught.value)
