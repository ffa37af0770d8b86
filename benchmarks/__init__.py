"""Measurements: each module runs alone (``python -m benchmarks.memory``); ``python -m benchmarks`` runs them all."""
