"""Platforms for scripted servers, which never sleep, and certificates for TLS on loopback."""

import datetime as dt
import ipaddress
import itertools
import logging
import traceback
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from canfar_batch.records import LaunchRequest, Resources
from canfar_batch.rest.credentials import Token
from canfar_batch.rest.platform import RestPlatform
from canfar_batch.rest.redaction import Secrets
from canfar_batch.rest.transport import Sizes, Timeouts, Transport

TOKEN = "tok-4c0ffee-SECRET-9d1b7e55aa21"
REQUEST = LaunchRequest(name="b-1", image="images.canfar.net/skaha/x:1", resources=Resources(cores=2, ram=4), cmd="ls")


@pytest.fixture
def naps():
    """The pauses between attempts; none is slept."""
    return []


@pytest.fixture
def connect(naps):
    """Connect to a server."""
    opened = []

    def make(server, *, tokens=TOKEN, registry=None, read=10.0, total=20.0, create=20.0, most=10**7, **sizes):
        secrets = Secrets()
        left = itertools.chain([tokens] if isinstance(tokens, str) else tokens, itertools.repeat(None))
        now = [next(left)]
        provider = Token(
            lambda: now[0], source="CANFAR_TOKEN", remedy="Set CANFAR_TOKEN to a new token.", secrets=secrets
        )
        transport = Transport(
            server if isinstance(server, str) else server.url,
            provider,
            secrets,
            user_agent="canfar_batch/test",
            timeouts=Timeouts(read=read, total=total, create=create, connect=10.0),
            sizes=Sizes(**{"error": 65536, "data": most, **sizes}),
            sleep=naps.append,
            uniform=lambda low, high: high,
        )
        platform = RestPlatform(transport, provider, registry=registry)
        platform.set_token = lambda token: now.__setitem__(0, token)  # as if the environment changed
        opened.append(platform)
        return platform

    yield make
    for platform in opened:
        platform.close()


@pytest.fixture
def nothing_leaks(caplog):
    """Check that no error, however it is shown, and no log record holds the token."""
    caplog.set_level(logging.DEBUG)

    def check(*errors, secrets=(TOKEN,)):
        texts = [caplog.text, *(repr(record.__dict__) for record in caplog.records)]
        for error in errors:
            texts += [str(error), repr(error), "".join(traceback.format_exception(error)), repr(vars(error))]
            while error is not None:
                texts += [str(error), repr(error), repr(error.args)]
                error = error.__cause__ or error.__context__
        for text in texts:
            for secret in secrets:
                assert secret not in text
                assert secret[:16] not in text

    return check


class Authority:
    """Certifies servers and people, for TLS on loopback."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._sign(self.name, self.key.public_key(), days=30, authority=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def write(self, path, name, *, days=1.0, chain=False, password=None, host="127.0.0.1"):
        """A PEM file with a certificate for *name* and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), days=days, host=host)
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_bytes(pem + (self.file.read_bytes() if chain else b""))
        new.chmod(0o600)
        new.replace(path)
        return path

    def _sign(self, subject, public, *, days, authority=False, host="127.0.0.1"):
        now = dt.datetime.now(dt.timezone.utc)
        end = now + dt.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - dt.timedelta(days=1))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            names = [x509.IPAddress(ipaddress.ip_address(host))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))
