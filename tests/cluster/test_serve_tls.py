"""https by either proxy of Ray Serve."""

import httpx
import pytest

from backstay.registry import tokens
from backstay.serving.client import Client
from tests.support.certificates import self_signed
from tests.support.running_service import Running
from tests.support.served import SPACE


@pytest.mark.parametrize("ha_proxy", [True, False], ids=["HAProxy", "uvicorn"])
def test_clients_trust_the_certificate_and_send_their_token(tmp_path, ha_proxy):
    cert, key = self_signed(tmp_path)
    options = {"tls_cert": str(cert), "tls_key": str(key), "ha_proxy": ha_proxy}
    with Running(tmp_path, **options) as running:
        _, token = tokens.create(running.registry.files, "reader")
        url = running.wait_until_ready().url
        assert url.startswith("https://127.0.0.1:")
        with Client(url, token=token, verify=cert) as client:
            assert client.lookup(SPACE, "user", [5]).version == 1
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(url.replace("https", "http", 1))
