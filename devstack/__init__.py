"""The embedded stack: Temporal's dev server, MariaDB or MySQL, simulators and workers, on free ports of 127.0.0.1."""
