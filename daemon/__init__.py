"""What a kernel line means, and what is kept."""
