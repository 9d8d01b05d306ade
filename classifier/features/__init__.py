"""Which stored rows reach a head, in what order, and with what labels."""
