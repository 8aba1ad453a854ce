"""Other ways to serve the same model: one small file a peer, each in its documented best way."""
