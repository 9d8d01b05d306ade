"""Who is alive, how far a run is, and where its time goes."""
