"""The connection to Temporal, from the environment as ``temporalio.envconfig`` reads it."""

from __future__ import annotations

from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError

from clients import tracing
from clients.encryption import data_converter
from clients.errors import PassingError
from settings import EncryptionSettings, SettingsError, load

SEARCH_ATTRIBUTES = {
    "OrganizationId": "Keyword",
    "TaskId": "Int",
    "TaskType": "Keyword",
    "Unfinished": "Int",
    "AnalysisFailed": "Int",
    "StalledSince": "Datetime",
}
"""What runs can be found and sorted by, where the namespace has these registered (docs/operations.md)."""


async def registered_search_attributes(client: Client) -> list[str]:
    """Those of :data:`SEARCH_ATTRIBUTES` that the namespace knows; a run that sets another one would hang."""
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace), timeout=timedelta(seconds=10)
        )
    except RPCError:
        return []
    known = {name: IndexedValueType.Name(kind) for name, kind in answer.custom_attributes.items()}
    return [name for name, kind in SEARCH_ATTRIBUTES.items() if known.get(name) == f"INDEXED_VALUE_TYPE_{kind.upper()}"]


async def connect(runtime: Runtime | None = None) -> Client:
    """Connect to the configured server and namespace; what is sent is encrypted if PAYLOAD_ENCRYPTION_KEYS says so.

    Args:
        runtime: the SDK's, if not its default one.

    Raises:
        SettingsError: the ``TEMPORAL_`` variables or the profile cannot be read, or an encryption key is wrong.
        PassingError: the server is out of reach.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (ValueError, OSError, RuntimeError) as error:
        raise SettingsError(f"settings: TEMPORAL_PROFILE or another TEMPORAL_ variable is wrong: {error}") from None
    config.setdefault("target_host", "localhost:7233")
    converter = data_converter(load(EncryptionSettings).keys)
    interceptors = tracing.interceptors()
    try:
        return await Client.connect(**config, data_converter=converter, interceptors=interceptors, runtime=runtime)
    except RuntimeError:
        raise PassingError(
            "Temporal", f"connect to {config['target_host']} (TEMPORAL_ADDRESS)", "Unreachable"
        ) from None
