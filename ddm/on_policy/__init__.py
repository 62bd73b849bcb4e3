"""Methods that learn from the steps of their present policy alone."""
