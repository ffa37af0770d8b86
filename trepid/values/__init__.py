"""What a job is: pure values, without I/O and without Trio."""
