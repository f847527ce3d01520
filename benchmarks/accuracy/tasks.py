"""All tasks by name."""

from __future__ import annotations

from benchmarks.accuracy.task import Task
from benchmarks.accuracy.vision import MobileNetV2, ResNet20

TASKS: dict[str, Task] = {task.name: task for task in (ResNet20(), MobileNetV2())}
