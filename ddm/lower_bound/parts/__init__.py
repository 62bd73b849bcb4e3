"""What methods of this family share and is no method."""
