"""The running service: real server processes, real connections."""
