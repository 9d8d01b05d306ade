"""Files on any file system: addresses, retries, atomic writes."""
