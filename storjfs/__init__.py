"""storjfs: an encrypted, erasure-coded directory kept by farmers who prove that they hold it and are paid."""

__version__ = "0.1.0"
