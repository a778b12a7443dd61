"""A hub that cannot be reached is asked once, and not for every file."""

import socket

import pytest
from huggingface_hub import constants

from heed.hub import offline_if_unreachable


@pytest.fixture
def asked(monkeypatch):
    """Whether the client is offline after a look at an address."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def of(port: int) -> bool:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        offline_if_unreachable.cache_clear()
        offline_if_unreachable()
        return bool(constants.HF_HUB_OFFLINE)

    yield of
    offline_if_unreachable.cache_clear()


def test_a_hub_that_answers_is_asked(asked):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not asked(server.getsockname()[1])


def test_a_hub_that_refuses_connections_is_not_asked_again(asked):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert asked(port)


def test_behind_a_proxy_the_client_finds_out_by_itself(asked, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert not asked(1)
