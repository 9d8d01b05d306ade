"""What a head is, and how each kind is fitted."""
