"""Trio: workers, scopes, intake, settlement and stopping."""
