"""What changes the node: ending a process that uses a GPU, resetting a GPU. Planned, confirmed, recorded."""
