"""Finding the images of a folder without going in circles: links are followed, each folder once."""

import os
import stat
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unlearn_audit.data.formats.array_files import reading
from unlearn_audit.errors import DataError

MOST_OTHERS = 100_000  # entries of a split that are no images
DEEPEST = 50  # folders within a class folder
# What macOS, Windows, network storages and Python leave in folders, in lower case; a dot in front says so of others.
LEFT_OVER = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
     "thumbs.db", "ehthumbs.db", "desktop.ini"}
)  # fmt: skip
Place = tuple[int, int]  # device and inode, the same for all paths that lead to a folder


@dataclass
class _Walk:
    """One walk through a split.

    Attributes:
        folder: of the split.
        suffixes: endings of images, in lower case.
        above: the places of the folder and of all folders around it.
        seen: places of the folders that were visited, with the path that led there first.
        others: entries that are no images.
    """

    folder: Path
    suffixes: Container[str]
    above: Container[Place]
    seen: dict[Place, Path] = field(default_factory=dict)
    others: int = 0

    def below(self, folder: Path) -> Iterator[Path]:
        """Yield the images in a folder and the folders in it."""
        self._enter(folder)
        with reading("folder", folder), os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            path = folder / entry.name
            if is_left_over(entry.name):
                self._pass_over(path)  # and it is not walked into
                continue
            with reading("folder", path):
                found = path if entry.is_symlink() else entry  # a path finds no folder in a link to itself
                is_folder, is_file = found.is_dir(), found.is_file()
            if is_folder:
                yield from self.below(path)
            elif path.suffix.lower() in self.suffixes:
                if not is_file:
                    raise DataError(f"{path} is {_what(path)}, not an image; remove it")
                yield path
            else:
                self._pass_over(path)

    def _enter(self, folder: Path) -> None:
        """Refuse a folder that was visited, and one that holds the split."""
        with reading("folder", folder):
            found = folder.stat()
        place = (found.st_dev, found.st_ino)
        if place in self.above:
            raise DataError(
                f"{folder} is a link to {folder.resolve()}, which holds {self.folder} itself; remove the link"
            )
        if place in self.seen:
            raise DataError(
                f"{folder} and {self.seen[place]} lead to the same folder, whose images would count twice; remove the "
                "link"
            )
        if len(folder.parts) > len(self.folder.parts) + DEEPEST:
            raise DataError(f"{self.folder} has folders nested more than {DEEPEST} deep; its classes hold the images")
        self.seen[place] = folder

    def _pass_over(self, path: Path) -> None:
        self.others += 1
        if self.others > MOST_OTHERS:
            raise DataError(
                f"{self.folder} has more than {MOST_OTHERS:,} files that are no images, such as {path}: is it the "
                "right folder, and where do its links lead?"
            )


def is_left_over(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by a system for itself: thumbnails, resource forks, backups.

    >>> [is_left_over(name) for name in (".ipynb_checkpoints", "__MACOSX", "._1.png", "Thumbs.db", "cat")]
    [True, True, True, True, False]
    """
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in LEFT_OVER


def image_paths(folder: Path, classes: Sequence[str], suffixes: Container[str]) -> list[Path]:
    """Return the images below the class folders of a split, class by class, sorted part by part.

    Links to images and to folders are followed. A link back to a folder around the split, two ways to one folder, a
    link to nothing and a pipe, socket or device in the place of an image are refused.

    Args:
        folder: of the split.
        classes: names of its class folders.
        suffixes: endings of images, in lower case.

    Raises:
        DataError: as said; or a class without images, or a folder that cannot be read.
    """
    walk = _Walk(folder, suffixes, frozenset(_places_above(folder)))
    found = []
    for name in classes:
        images = sorted(walk.below(folder / name), key=lambda path: path.relative_to(folder).parts)
        if not images:
            raise DataError(f"{folder / name} holds no images")
        found += images
    return found


def _places_above(folder: Path) -> Iterator[Place]:
    """Yield the places of a folder and of those around it, by its own path and by where its links lead."""
    with reading("folder", folder):
        for path in {*(folder.absolute(), *folder.absolute().parents), *(folder.resolve(), *folder.resolve().parents)}:
            found = path.stat()
            yield found.st_dev, found.st_ino


def _what(path: Path) -> str:
    """Return what a path is that is neither file nor folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link to nothing"
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")
