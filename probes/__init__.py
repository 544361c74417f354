"""What the kernel and the driver say."""
