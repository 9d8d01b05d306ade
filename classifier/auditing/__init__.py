"""What a store knows about its own images: copies, doubtful labels, outliers, nearest images."""
