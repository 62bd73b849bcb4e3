"""What several imitation methods share and what is no method itself."""
