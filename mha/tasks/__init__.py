"""What the benchmark suite asks of a task, and helpers to write one: batches of sequences of like length."""

from mha.tasks.batching import by_length, padded, rows_by_length
from mha.tasks.protocol import Batch, Task

__all__ = ["Batch", "Task", "by_length", "padded", "rows_by_length"]
