from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.rest.certificates import der_expiry, has_private_key, pem_expiry


def utc(*parts):
    return datetime(*parts, tzinfo=timezone.utc)


KEY = ec.generate_private_key(ec.SECP256R1())
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


def certificate(end, *, name="ann", key=KEY, serial=None, encoding=PEM):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(datetime(1990, 1, 1, tzinfo=timezone.utc))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
        .public_bytes(encoding)
    )


@given(
    st.datetimes(utc(1991, 1, 1).replace(tzinfo=None), utc(9999, 12, 31).replace(tzinfo=None)),
    st.text("abc", min_size=1, max_size=64),
    st.integers(1, 2**158),
)
def test_expiry_is_the_one_that_cryptography_wrote(end, name, serial):
    end = end.replace(microsecond=0, tzinfo=timezone.utc)
    assert der_expiry(certificate(end, name=name, serial=serial, encoding=DER)) == end


def test_large_key_can_be_read():
    key = rsa.generate_private_key(65537, 2048)
    assert pem_expiry(certificate(utc(2040, 1, 2), key=key)) == utc(2040, 1, 2)


def test_first_certificate_to_expire_counts():
    chain = (
        certificate(utc(2040, 1, 1))
        + b"\nwords between\n"
        + certificate(utc(2031, 5, 5))
        + certificate(utc(2050, 1, 1))
    )
    assert pem_expiry(chain) == utc(2031, 5, 5)


def test_private_key_is_recognised_by_its_header():
    for kind in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        assert has_private_key(KEY.private_bytes(PEM, kind, serialization.NoEncryption()))
    assert not has_private_key(certificate(utc(2040, 1, 1)))


@given(st.binary(max_size=200))
def test_junk_is_a_value_error(junk):
    with pytest.raises(ValueError):
        der_expiry(junk)


@given(st.integers(0, 180))
def test_certificate_cut_short_is_a_value_error(keep):
    with pytest.raises(ValueError):
        der_expiry(certificate(utc(2040, 1, 1), encoding=DER)[:keep])


@pytest.mark.parametrize(
    "pem",
    [b"", b"hello", b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----", certificate(utc(2040, 1, 1))[:99]],
    ids=["empty", "words", "junk", "cut"],
)
def test_file_without_a_certificate_says_why(pem):
    with pytest.raises(ValueError, match=r"it holds no certificate|its certificate"):
        pem_expiry(pem)


def test_expiry_in_the_last_century_is_in_the_past():
    assert pem_expiry(certificate(utc(1999, 12, 31))) < datetime.now(timezone.utc) - timedelta(days=365)
