"""What imitation methods share and is no method."""
