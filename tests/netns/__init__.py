"""Farmers and renters as hosts of a network: namespaces with lines that are slow, lose packets, and break."""
