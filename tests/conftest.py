"""For all tests: how long one input of a property takes says nothing about what is tested."""

from hypothesis import settings

settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")
