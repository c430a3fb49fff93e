"""The connection to Temporal, from the environment as ``temporalio.envconfig`` reads it."""

from __future__ import annotations

import os
from datetime import timedelta

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError, RPCStatusCode

from calltasks.errors import PassingError, SettingsError
from calltasks.names import SEARCH_ATTRIBUTES
from calltasks.observing import tracing
from calltasks.settings import EncryptionSettings, load
from calltasks.temporal.encryption import data_converter


async def registered_search_attributes(client: Client) -> list[str]:
    """Those of ``names.SEARCH_ATTRIBUTES`` that the namespace knows; a run that sets another one would hang."""
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace), timeout=timedelta(seconds=10)
        )
    except RPCError:
        return []
    known = answer.custom_attributes
    return [key.name for key in SEARCH_ATTRIBUTES if known.get(key.name) == int(key.indexed_value_type)]


async def connect(runtime: Runtime | None = None) -> Client:
    """Connect to the configured server and namespace; what is sent is encrypted if PAYLOAD_ENCRYPTION_KEYS says so.

    Args:
        runtime: the SDK's, if not its default one.

    Raises:
        SettingsError: the ``TEMPORAL_`` variables or the profile cannot be read, the server has no such namespace, or
            an encryption key is wrong.
        PassingError: the server is out of reach.
    """
    try:
        config = ClientConfig.load_client_connect_config(override_env_vars=_readable_environment())
    except (ValueError, OSError, RuntimeError) as error:
        raise SettingsError(
            f"settings: TEMPORAL_PROFILE or another TEMPORAL_ variable is wrong: {_line(error)}"
        ) from None
    if "://" in config.setdefault("target_host", "localhost:7233"):
        raise SettingsError("settings: TEMPORAL_ADDRESS: must be host:port, without a scheme")
    converter = data_converter(load(EncryptionSettings).keys)
    interceptors = tracing.interceptors()
    operation = f"connect to {config['target_host']} (TEMPORAL_ADDRESS)"
    try:
        client = await Client.connect(**config, data_converter=converter, interceptors=interceptors, runtime=runtime)
    except ValueError as error:
        raise SettingsError(f"settings: a TEMPORAL_ variable is wrong: {_line(error)}") from None
    except RuntimeError:
        raise PassingError("Temporal", operation, "Unreachable") from None
    await _check_namespace(client)
    return client


async def _check_namespace(client: Client) -> None:
    """A namespace that does not exist would else look like a run, or a schedule, that does not."""
    try:
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=timedelta(seconds=10)
        )
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise SettingsError("settings: TEMPORAL_NAMESPACE: the server has no namespace of this name") from None
        # Not everybody may ask; who may not work there is told by the work itself.


def _readable_environment() -> dict[str, str]:
    """The environment, without what is no text: another program's odd variable is no matter of ours.

    Raises:
        SettingsError: one of Temporal's is none.
    """
    readable = {}
    for name, value in os.environ.items():
        try:
            (name + value).encode()
            readable[name] = value
        except UnicodeEncodeError:
            if name.startswith("TEMPORAL_"):
                raise SettingsError(f"settings: {ascii(name).strip(chr(39))}: is not text in UTF-8") from None
    return readable


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
