"""Off-policy actor-critics: run offline as baselines, online as experts."""
