"""What a task is, batches of like length, and tasks as objects in a user's own file."""
