"""Whether the hub can be reached, found out once: its client would try every file of a mistyped name for long."""

from __future__ import annotations

import os
import socket
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies

SECONDS_TO_CONNECT = 5


@lru_cache(maxsize=1)
def offline_if_unreachable() -> None:
    """Put the hub's client into its offline mode if no connection to the hub can be made.

    What was fetched before is found still. Behind a proxy it is left to the client to find out.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or getproxies():
        return
    place = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    try:
        socket.create_connection(
            (place.hostname or "", place.port or (80 if place.scheme == "http" else 443)), SECONDS_TO_CONNECT
        ).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
