"""Policy gradients from episodes of the policy itself."""
