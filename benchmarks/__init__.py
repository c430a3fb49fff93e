"""Measures the pipeline against its targets on this machine: ``python -m benchmarks`` (docs/performance.md)."""
