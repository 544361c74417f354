"""The `xidwatch` command."""
