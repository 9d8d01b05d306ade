"""One chunk, from reading its images to committing its rows."""
