"""What the on-policy methods share, and is no method."""
