"""Inside a running pod: programs, files and ports, over SSH."""
