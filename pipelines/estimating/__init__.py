"""What a run would cost: a short trial on this machine."""
