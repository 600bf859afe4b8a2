"""From a task's file to rows: its settings are read and checked, its tables divided and kept apart from one another."""
