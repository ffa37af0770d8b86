"""Property tests search modestly: they run on every change, and find the rest in the course of time."""

import hypothesis

hypothesis.settings.register_profile("modest", max_examples=40, deadline=None)
hypothesis.settings.load_profile("modest")
