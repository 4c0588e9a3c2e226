"""What all tests of random examples have in common: none fails because the machine is busy."""

from hypothesis import HealthCheck, settings

# Fixtures that all examples share are meant so.
settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("untimed")
