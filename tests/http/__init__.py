"""HTTP without a server: parsing uploads, reading and sending messages."""
