"""HTTP for backends: ``python -m calltasks.api`` (docs/http.md)."""
