"""HTTP for backends: ``python -m api`` (docs/http.md)."""
