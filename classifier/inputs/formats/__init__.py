"""Archives and record files, read as streams of images."""
