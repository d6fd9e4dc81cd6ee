"""The verbs: one module per command of the command line, which is also a function of the Python API."""
