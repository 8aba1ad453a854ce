"""What serves: artifact, inference, HTTP. Packed whole into the bento."""
