"""A complete classifier becomes a run, as if its head had been trained here."""
