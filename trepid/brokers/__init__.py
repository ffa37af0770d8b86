"""The engines, one package each.  None of them knows another, or the runtime."""
