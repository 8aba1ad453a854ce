"""The ways to run a network, one library each."""
