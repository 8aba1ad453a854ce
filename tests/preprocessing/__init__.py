"""Tests of the conversion from file bytes to model input."""
