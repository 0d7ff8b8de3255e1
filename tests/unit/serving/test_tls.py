"""The files of a certificate are checked before anything starts."""

import pytest

from backstay.errors import UsageError
from backstay.serving.tls import Certificate
from tests.support.certificates import self_signed


def test_two_files_that_fit_together(tmp_path, monkeypatch):
    cert, key = self_signed(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert Certificate.of("cert.pem", key) == Certificate(cert, key)
    assert Certificate.of(None, None) is None


def test_one_file_with_both(tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(file.read_bytes() for file in self_signed(tmp_path)))
    assert Certificate.of(both, both) == Certificate(both, both)


def test_a_certificate_or_key_alone_is_refused(tmp_path):
    cert, key = self_signed(tmp_path)
    with pytest.raises(UsageError, match="expected --tls-key with --tls-cert"):
        Certificate.of(cert, None)
    with pytest.raises(UsageError, match="expected --tls-cert with --tls-key"):
        Certificate.of(None, key)


@pytest.mark.parametrize("fault", ["other", "encrypted", "text", "swapped", "absent"])
def test_files_that_do_not_fit_are_refused(tmp_path, fault):
    cert, key = self_signed(tmp_path)
    if fault == "other":
        (tmp_path / "other").mkdir()
        _, key = self_signed(tmp_path / "other")
    elif fault == "encrypted":
        cert, key = self_signed(tmp_path, password=b"secret")
    elif fault == "text":
        key.write_text("a key")
    elif fault == "swapped":
        cert, key = key, cert
    else:
        key.unlink()
    with pytest.raises(UsageError, match=r"without a password, in .*, both in PEM"):
        Certificate.of(cert, key)
