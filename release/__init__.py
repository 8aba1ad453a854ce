"""Commands around a bento: build it from its content, verify it, list its parts, sign its model."""
