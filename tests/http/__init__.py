"""The HTTP application without a server and without a model."""
