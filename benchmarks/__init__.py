"""Measurements: each module runs alone (``python -m benchmarks.memory``), and ``python -m benchmarks`` runs them all."""
