"""What the benchmark suite asks of a task."""

from mha.tasks.protocol import Batch, Task

__all__ = ["Batch", "Task"]
