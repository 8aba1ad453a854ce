"""Fuzzing of the decode path; see docs/preprocessing.md."""
