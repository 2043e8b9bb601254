"""Settings of the property tests: no deadline, for a busy machine proves nothing."""

from hypothesis import HealthCheck, settings

# Files under tmp_path are written anew for each example, so that sharing the folder among examples does no harm.
settings.register_profile("notes", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("notes")
