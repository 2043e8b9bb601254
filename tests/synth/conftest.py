"""Settings of the property tests: no deadline, for a busy machine proves nothing."""

from hypothesis import settings

settings.register_profile("synth", deadline=None)
settings.load_profile("synth")
