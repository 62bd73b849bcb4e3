"""What several methods of this family share, and what is too large for the file of one."""
