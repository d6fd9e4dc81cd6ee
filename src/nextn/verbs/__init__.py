"""The verbs: one module per command, each of which is also a function of the Python API."""
