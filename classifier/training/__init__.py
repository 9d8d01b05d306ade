"""A training run: its flags, its data, its trials."""
