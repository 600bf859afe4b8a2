"""Tasks: what they are, tasks from files, and helpers to write one: batches of sequences of like length."""

from mha.tasks.base.batching import by_length, padded, rows_by_length
from mha.tasks.base.protocol import Batch, Task
from mha.tasks.describe import describe_task
from mha.tasks.read import read_task

__all__ = ["Batch", "Task", "by_length", "describe_task", "padded", "read_task", "rows_by_length"]
