"""What a run has to do: the listing, what the store holds, the chunks."""
