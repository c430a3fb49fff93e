"""The embedded stack: Temporal's dev server, MariaDB, the simulators and workers, on free ports of 127.0.0.1."""
