"""The connection to Temporal, from the environment as ``temporalio.envconfig`` reads it."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.envconfig import ClientConfig

from clients.errors import PassingError
from settings import SettingsError


async def connect() -> Client:
    """Connect to the configured server and namespace.

    Raises:
        SettingsError: the ``TEMPORAL_`` variables or the profile cannot be read.
        PassingError: the server is out of reach.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (ValueError, OSError, RuntimeError) as error:
        raise SettingsError(f"settings: TEMPORAL_PROFILE or another TEMPORAL_ variable is wrong: {error}") from None
    config.setdefault("target_host", "localhost:7233")
    try:
        return await Client.connect(**config)
    except RuntimeError:
        raise PassingError(
            "Temporal", f"connect to {config['target_host']} (TEMPORAL_ADDRESS)", "Unreachable"
        ) from None
