"""What every command line shares: errors in one line, output, signals."""
