"""How long work tells the outside how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called as `progress(task, done, total, note)`; a task is finished when `done == total`."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:
        """Tell that `done` of `total` units of `task` are finished; `note` is shown beside the bar."""


def silent(task: str, done: int, total: int, note: str = "") -> None:
    """Tell nobody."""
