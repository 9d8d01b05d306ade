"""What tests share: real images, stores, commands, faults."""
