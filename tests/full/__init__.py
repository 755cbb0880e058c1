"""A disk that is really full: drives and farmers on a small filesystem of their own."""
