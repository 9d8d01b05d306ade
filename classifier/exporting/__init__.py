"""One file from pixels to probabilities, and the proof that it computes what the run computes."""
