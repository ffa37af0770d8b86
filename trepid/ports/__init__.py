"""What the runtime and a broker promise each other.  The first room that knows Trio."""
