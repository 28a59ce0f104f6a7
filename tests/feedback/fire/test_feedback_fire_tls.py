"""TLS that can't be trusted: nothing is sent, nothing is charged, and the error says what to do. Keys are made here."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from feedback_fakes import KEY, FakeServer, completion
from test_feedback_fire_server import ask_one, told

from rlaif_ray.errors import JudgeUnreachable
from rlaif_ray.feedback.budget import Amount

NOW = datetime.datetime.now(datetime.UTC)


def serving(authority: trustme.CA, name: str = "127.0.0.1", not_after: datetime.datetime | None = None) -> FakeServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=not_after).configure_cert(context)
    return FakeServer(lambda *_: completion(), tls=context)


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(trustme.CA()) as server:
        seen = ask_one(server.base_url, tmp_path / "labels.sqlite")
        assert server.asked == 0
    told("TLS: self-signed certificate", seen)
    assert seen.sees == JudgeUnreachable.__name__
    assert seen.spent == Amount(0.0, 0, 0)
    assert seen.labels == []
    assert "certificate" in seen.said
    assert "SSL_CERT_FILE" in seen.said
    assert KEY not in seen.said


@pytest.mark.parametrize(
    ("case", "name", "not_after"),
    [("for another host", "judge.invalid", None), ("out of date", "127.0.0.1", NOW - datetime.timedelta(days=1))],
)
def test_a_certificate_that_is_not_this_servers(
    case: str, name: str, not_after: datetime.datetime | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with serving(authority, name, not_after) as server:
        seen = ask_one(server.base_url, tmp_path / "labels.sqlite")
        assert server.asked == 0
    told(f"TLS: certificate {case}", seen)
    assert seen.sees == JudgeUnreachable.__name__
    assert seen.spent == Amount(0.0, 0, 0)


def test_a_certificate_of_an_authority_that_the_user_names_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with serving(authority) as server:
        seen = ask_one(server.base_url, tmp_path / "labels.sqlite")
    told("TLS: certificate of an own authority", seen)
    assert seen.sees == "good"


def test_an_authority_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with serving(trustme.CA()) as server:
        seen = ask_one(server.base_url, tmp_path / "labels.sqlite")
    assert seen.sees == JudgeUnreachable.__name__
    assert "missing.pem" in seen.said
    assert seen.spent == Amount(0.0, 0, 0)
