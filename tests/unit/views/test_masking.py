"""Masking secrets."""

from __future__ import annotations

import attrs
import pytest
from made import SPEC, attempt, job

from canfar_batch.spec import Secret
from canfar_batch.views.masking import secret_values, without_secrets


def test_given_values_are_masked_whatever_they_look_like():
    assert without_secrets("login as hunter2 failed: hunter2!", ["hunter2"]) == "login as [secret] failed: [secret]!"


def test_the_values_of_secret_variables_are_read_if_they_are_set(monkeypatch):
    monkeypatch.setenv("LONG", "abcdef-longer")
    monkeypatch.setenv("SHORT", "abcdef")
    monkeypatch.setenv("TINY", "a")
    spec = attrs.evolve(SPEC, env={name: Secret(name) for name in ("SHORT", "LONG", "TINY", "UNSET_IT_IS")})
    made = attrs.evolve(job("a", attempt()), filled=spec.fill({"path": "a"}))
    assert secret_values([made, made]) == ("abcdef-longer", "abcdef")  # "a" would mask half of every text


@pytest.mark.parametrize(
    "text",
    [
        "fit --token s3cr3t a.fits",
        "fit --api-key=s3cr3t",
        "export MY_PASSWORD='s3cr3t'",
        '{"client_secret": "s3cr3t", "a": 1}',
        "Authorization: Bearer s3cr3t",
        "curl -H 'authorization: basic s3cr3t'",
        "git clone https://me:s3cr3t@host/x",
        "-----BEGIN RSA PRIVATE KEY-----\ns3cr3t\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\ns3cr3t",
    ],
)
def test_what_looks_like_a_secret_is_masked(text):
    assert "s3cr3t" not in without_secrets(text)
    assert "[secret]" in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "the token is bad",
        "no password was given",
        "keyword: value",
        "--key 3 --secretive",
        "https://host/a:b@c",
        "/usr/bin/env: '/etc/passwd': Permission denied",
        "open /run/secrets/token: No such file",
    ],
)
def test_prose_about_secrets_stays(text):
    assert without_secrets(text) == text


@pytest.mark.timeout(60)  # a pattern that backtracks would take hours
@pytest.mark.parametrize("piece", ["token", "-token", "token ", "--", "bearer ", '"', 'token="', "://", "a:"])
def test_long_lines_are_masked_in_linear_time(piece):
    assert without_secrets(piece * 50_000)
