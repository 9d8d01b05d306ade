"""What a machine and a command would run into, found before anything runs."""
