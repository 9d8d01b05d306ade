"""Images into shards, and shards into folders."""
