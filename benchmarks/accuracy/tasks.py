"""All tasks by name."""

from __future__ import annotations

from benchmarks.accuracy.pages import LineDirection, PageDirection, Recogniser
from benchmarks.accuracy.sound import Notes, Speech
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.text import FileTypes, Sentences
from benchmarks.accuracy.vision import MobileNetV2, ResNet20

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ResNet20(),
        MobileNetV2(),
        Recogniser(),
        LineDirection(),
        PageDirection(),
        FileTypes(),
        Notes(),
        Speech(),
        Sentences(),
    )
}
