"""What model_import.py runs: export, certify, measure, write."""
