"""The settings of the HTTP interface, until ``settings.py`` holds them."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from settings import Text, _Group


def _digests(value: Any) -> Any:
    """``{"token": "organization_id"}`` as a mapping of the tokens' SHA-256 digests: the tokens go no further."""
    try:
        tokens = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        tokens = None
    if not isinstance(tokens, dict) or not tokens:
        raise ValueError('must be a JSON object like {"token": "organization_id"}')
    if not all(token and isinstance(owner, str) and owner for token, owner in tokens.items()):
        raise ValueError("every token and every organization_id must be a text that is not empty")
    return {hashlib.sha256(token.encode("utf-8", "replace")).digest(): owner for token, owner in tokens.items()}


class ApiSettings(_Group):
    """The HTTP interface. ``api_tokens`` is read from JSON ``{"token": "organization_id"}`` and holds SHA-256 digests
    instead of the tokens. ``api_port`` 0 takes any free port."""

    api_tokens: Annotated[dict[bytes, str], NoDecode, BeforeValidator(_digests)]
    api_host: Text = "127.0.0.1"
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8000
