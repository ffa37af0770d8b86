"""What happens next: pure decisions over values, without I/O, clock or randomness."""
