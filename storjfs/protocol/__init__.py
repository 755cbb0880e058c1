"""What renter and farmer say to each other: messages, signatures, contract life, challenges and vouchers.

Sans-IO: bytes in, values out. No sockets, no clock, no randomness; those come in as arguments. The wire
format is specified in docs/formats/protocol.md.
"""
