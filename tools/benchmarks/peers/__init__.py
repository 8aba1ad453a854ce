"""Other ways to serve the same engine: one small program each, as in its documentation."""
