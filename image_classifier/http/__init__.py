"""HTTP: what comes in, what goes out, the OpenAPI document."""
