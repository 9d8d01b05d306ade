"""Whether a store holds what was committed."""
