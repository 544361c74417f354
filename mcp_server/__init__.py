"""How events reach people and assistants."""
