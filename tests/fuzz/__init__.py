"""Mutation and coverage-guided fuzzing of the decode path; docs/preprocessing.md says how."""
