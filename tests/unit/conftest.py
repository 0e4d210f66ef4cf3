"""Settings of hypothesis for all unit tests."""

from hypothesis import settings

# By default an example that takes longer than 0.2 s fails, as one does on a busy machine.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
