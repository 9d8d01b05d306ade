"""The page of a finished extraction: what happened when, who worked, what was quarantined."""
