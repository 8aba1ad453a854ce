"""Imports of real weights, finished graphs and whole artifacts."""
