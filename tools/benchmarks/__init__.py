"""Measures the service, its in-process limit and its peers on one machine, in one run."""
