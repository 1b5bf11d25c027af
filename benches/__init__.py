"""The speed claims, each measured against a peer or a fixed limit in one run: `nox -s bench`."""
