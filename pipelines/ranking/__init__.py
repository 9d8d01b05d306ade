"""Several bases on the same images: which is accurate, which is cheap, and which differ at all."""
