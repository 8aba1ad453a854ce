"""The artifact: everything needed to reproduce a model's numbers, with digests."""
