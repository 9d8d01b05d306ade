"""A training run, from its flags to its page, and learning curves."""
