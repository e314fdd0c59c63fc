"""An entry with lists of seeds or of values stands for several models: it is written out, an entry for each of them.

Other rooms see single entries only. A model made from a list is the one that a single entry with its label, seed and
settings makes, and is found again as such.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from unlearn_audit.config.fields import ConfigModel
from unlearn_audit.config.settings import LABEL, LONGEST_LABEL, ApplyEntry, AuditConfig, Seed, TrainEntry
from unlearn_audit.errors import unknown_name
from unlearn_audit.files import without_ending
from unlearn_audit.strict_json import ConfigIssue, Place, dotted, explain

MOST_MODELS = 1000  # that the entries of one config make, where any of them has lists

Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


class TrainEntries(TrainEntry):
    """A model that `audit` trains first, or one for each of `seeds`, labelled LABEL-SEED."""

    seeds: Seeds | None = None


class ApplyEntries(ApplyEntry):
    """A model that `audit` makes by unlearning, or one for each combination of what it has lists of.

    These are `seeds`, lists in `settings`, and `to` where that names an entry with lists. Labels are LABEL-SEED where
    the seeds are the only list, else LABEL-to-PARENT-KEY-VALUE-seed-SEED of those that there are. `recipe =
    "published"` follows the method's source where `settings` say nothing.
    """

    seeds: Seeds | None = None


class WrittenConfig(AuditConfig):
    """Everything an audit needs to know, as a file has it; a measurement runs when its section is there."""

    train: tuple[TrainEntries, ...] = ()
    apply: tuple[ApplyEntries, ...] = ()


class WrittenOut(NamedTuple):
    """The values of a config whose entries make one model each, and what is wrong with its lists and labels.

    `sources` says of which entry of the file each of them is.
    """

    values: dict[str, Any]
    problems: Sequence[ConfigIssue]
    sources: Mapping[Place, Place]

    def in_file(self, place: Place) -> Place:
        """Return where in the file it is said what stands at a place of the values."""
        return (*self.sources.get(place[:2], place[:2]), *place[2:])

    def issue_in_file(self, issue: ConfigIssue) -> ConfigIssue:
        """Return an issue that was found in the values with its place in the file."""
        place = self.in_file(issue.place)
        return ConfigIssue(place, issue.text.replace(dotted(issue.place), dotted(place), 1))

    def repeats(self, place: Place) -> bool:
        """Return whether an issue with all entries of a table is one of labels that `problems` tell with its line."""
        return bool(self.problems) and len(place) == 1 and (place[0], 0) in self.sources


def written_out(values: Mapping[str, Any]) -> WrittenOut:
    """Write out the entries of `[[train]]` and `[[apply]]` that have lists, and look at the labels of all.

    What has another type than it should is left as it is. What is good in a list is written out even where something
    in it is not, so that everything that is wrong can be told at once.

    Args:
        values: of a config, of any type.
    """
    found, sources, known = dict(values), dict[Place, Place](), _Known()
    for index, entry in enumerate(_entries(values, "checkpoint")):
        known.add_checkpoint(("checkpoint", index), entry)
    for table in ("train", "apply"):
        models: list[Any] = []
        for index, entry in enumerate(_entries(values, table)):
            of_entry = _models_of((table, index), entry, known)
            sources |= {(table, len(models) + number): (table, index) for number in range(len(of_entry))}
            models += of_entry
        if models:
            found[table] = models
    return WrittenOut(found, known.problems, sources)


class _List(NamedTuple):
    """What an entry has several values of: a key of the entry, or one of its settings."""

    key: Place
    values: Sequence[Any]


class _Group(NamedTuple):
    """The models of an entry with lists: the entry, and their labels."""

    place: Place
    labels: Sequence[str]


@dataclass
class _Known:
    """What is known of the entries so far: which models they make, and what is wrong with them.

    `all_named` is whether the labels of all could be read; where they could not, a label that is not here may be
    right all the same. `asked` counts models, `written` those that were written out.
    """

    models: dict[str, Place] = field(default_factory=dict)
    groups: dict[str, list[_Group]] = field(default_factory=dict)
    problems: list[ConfigIssue] = field(default_factory=list)
    all_named: bool = True
    too_many: bool = False
    asked: int = 0
    written: int = 0

    def tell(self, place: Place, text: str) -> None:
        """Keep what is wrong at a place."""
        self.problems.append(ConfigIssue(place, f"{dotted(place)}: {text}"))

    def add_checkpoint(self, place: Place, entry: Any) -> None:
        """Keep the label of a checkpoint that is there already."""
        label, path = (entry.get("label"), entry.get("path")) if isinstance(entry, Mapping) else (None, None)
        if isinstance(label or path, str):
            self.models.setdefault(label or without_ending(str(path)), place)
        else:
            self.all_named = False

    def names(self) -> set[str]:
        """Return the labels that entries have, not those of each model of their lists."""
        with_lists = {group.place for groups in self.groups.values() for group in groups}
        return {*self.groups, *(label for label, place in self.models.items() if place not in with_lists)}


def _entries(values: Mapping[str, Any], table: str) -> Sequence[Any]:
    entries = values.get(table)
    return entries if isinstance(entries, list | tuple) else ()


def _models_of(place: Place, entry: Any, known: _Known) -> list[Any]:
    """Return an entry for each model that an entry asks for; only the first where they cannot be labelled."""
    if not isinstance(entry, Mapping):
        known.all_named = False
        return [entry]
    asked = [*_parents(place, entry, known), *_settings(place, entry, known), *_seeds(place, entry, known)]
    lists = [each for each in asked if each.values]
    rest = _without(entry, [("seeds",), *(each.key for each in asked if not each.values)])
    label = entry.get("label")
    well_formed = isinstance(label, str) and re.fullmatch(LABEL, label)  # else it is told with the types
    labels = _labels(place, str(label), lists, known) if well_formed else []
    if not labels:
        known.all_named = False
        return [_single(rest, lists, [each.values[0] for each in lists])]
    _register(place, labels, known, of_lists=bool(lists))
    if not lists:
        return [rest]
    known.groups.setdefault(str(label), []).append(_Group(place, labels))
    choices = itertools.product(*(each.values for each in lists))
    return [_single(rest | {"label": own}, lists, choice) for own, choice in zip(labels, choices, strict=True)]


def _parents(place: Place, entry: Mapping[str, Any], known: _Known) -> list[_List]:
    """Return the models that an entry with lists stands for, where the entry here starts from that one."""
    to = entry.get("to", ApplyEntry.model_fields["to"].default)
    if place[0] != "apply" or not isinstance(to, str):
        return []
    groups = known.groups.get(to, [])
    meant = [*([known.models[to]] if to in known.models else []), *(group.place for group in groups)]
    if len(meant) > 1:
        places = " and ".join(map(dotted, meant))
        known.tell((*place, "to"), f"'{to}' may be each of {places}; give one of these entries another label")
        return []
    if not meant and known.all_named:
        known.tell((*place, "to"), unknown_name("model", to, known.names(), hint="`to` names another model's label"))
    return [_List(("to",), group.labels) for group in groups]


def _settings(place: Place, entry: Mapping[str, Any], known: _Known) -> list[_List]:
    """Return the lists among the settings of a method, in the order of the file."""
    settings = entry.get("settings")
    if place[0] != "apply" or not isinstance(settings, Mapping):
        return []
    return [
        _List(("settings", key), _different((*place, "settings", key), value, known))
        for key, value in settings.items()
        if isinstance(value, list | tuple)
    ]


def _different(place: Place, values: Sequence[Any], known: _Known) -> list[Any]:
    """Return the values of a list that can stand in a label, each once."""
    found: dict[object, Any] = {}
    for value in values:
        if not _in_label(value):
            known.tell(place, f"{value!r:.60} makes no part of a label; write an entry of its own for it")
        elif _identity(value) in found:
            known.tell(place, f"{value!r:.60} is there twice; take one out")
        else:
            found[_identity(value)] = value
    if not values:
        known.tell(place, "a list stands for each of its values, and this one has none; name one or more")
    return list(found.values())


def _identity(value: Any) -> object:
    """Return what two values have in common where they are the same; 1 and 1.0 are, 1 and true are not."""
    return tuple(map(_identity, value)) if isinstance(value, list | tuple) else (isinstance(value, bool), value)


def _seeds(place: Place, entry: Mapping[str, Any], known: _Known) -> list[_List]:
    """Return the seeds of an entry that has a list of them."""
    if "seeds" not in entry:
        return []
    at, seeds = (*place, "seeds"), entry["seeds"]
    wrong = set[Place]()
    if "seed" in entry:
        known.tell(at, "there is `seed`, too; keep one of the two")
    try:
        _Seeds.model_validate({"seeds": seeds})
    except ValidationError as problem:
        for issue in explain(problem, {"seeds": seeds}, _Seeds, lambda inner: dotted((*place, *inner))):
            known.problems.append(ConfigIssue((*place, *issue.place), issue.text))
            wrong.add(issue.place)
    if not isinstance(seeds, list | tuple) or not seeds:
        return []
    good = [seed for index, seed in enumerate(seeds) if ("seeds", index) not in wrong]
    return [_List(("seed",), _different(at, good, known) if good else [])]


class _Seeds(ConfigModel):
    """The seeds of an entry by themselves, whose types are looked at before they are written out."""

    seeds: Seeds


def _labels(place: Place, label: str, lists: Sequence[_List], known: _Known) -> list[str]:
    """Return the labels of the models of an entry; none where they are too many or too long."""
    size = math.prod(len(each.values) for each in lists)
    known.asked += size
    if not lists:
        known.written += 1
        return [label]
    if known.asked > MOST_MODELS and not known.too_many:
        known.too_many = True
        text = f"its lists make {size:,} models, {known.asked:,} with those before it, and {MOST_MODELS:,} are the most"
        known.tell(place, f"{text}; take values out, or make several configs of it")
    if known.written + size > MOST_MODELS:
        return []
    known.written += size
    found = [_label(label, lists, choice) for choice in itertools.product(*(each.values for each in lists))]
    longest = max(found, key=len)
    if len(longest) > LONGEST_LABEL:
        text = f"with what the lists add it is '{longest}', and {LONGEST_LABEL} characters are the most; shorten it"
        known.tell((*place, "label"), text)
        return []
    return found


def _label(label: str, lists: Sequence[_List], choice: Sequence[Any]) -> str:
    """Return the label of the model that a choice out of lists makes, e.g. `ieu-c-0.05-seed-1`, `retrained-3`."""
    if [each.key for each in lists] == [("seed",)]:
        return f"{label}-{choice[0]}"
    parts = [f"{_legible(each.key[-1])}-{_legible(value)}" for each, value in zip(lists, choice, strict=True)]
    return "-".join([label, *parts])


def _legible(value: Any) -> str:
    """Return a value as it stands in a label.

    >>> [_legible(value) for value in (0.05, 1e-5, 1e20, True, "class:3,5", [1, 2])]
    ['0.05', '1e-5', '1e20', 'true', 'class-3-5', '1-2']
    """
    if isinstance(value, list | tuple):
        return "-".join(map(_legible, value))
    if isinstance(value, str):
        return re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-.")
    text = str(value)
    return re.sub(r"e(-?)\+?0*", r"e\1", text) if isinstance(value, float) else text.lower()


def _in_label(value: Any) -> bool:
    """Return whether a value can be told from others in a label: numbers, texts, true and false, lists of them."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_in_label, value))
    return isinstance(value, int | float) or isinstance(value, str) and bool(_legible(value))


def _register(place: Place, labels: Sequence[str], known: _Known, *, of_lists: bool) -> None:
    """Keep the labels of an entry's models; of those that are there already the first is told."""
    own = set[str]()
    clash: tuple[str, Place] | None = None
    for label in labels:
        other = place if label in own else known.models.get(label)
        # The label of a checkpoint that is there may be that of a model to be trained, which then gets a number.
        if other and (of_lists or place[0] == "apply" or other[0] != "checkpoint"):
            clash = clash or (label, other)
        own.add(label)
        known.models.setdefault(label, place)
    if clash is None:
        return
    label, other = clash
    if other == place:
        way_out = "two values of one list look alike in a label; write an entry of its own for one of them"
        known.tell(place, f"two models are labelled '{label}': {way_out}")
    else:
        way_out = f"one of {dotted(other)}, one of {dotted(place)}; give one of these entries another label"
        known.tell((*place, "label"), f"two models are labelled '{label}': {way_out}")


def _without(entry: Mapping[str, Any], keys: Sequence[Place]) -> dict[str, Any]:
    """Return an entry without some keys, of its own or of its settings."""
    found = {key: value for key, value in entry.items() if (key,) not in keys}
    if isinstance(found.get("settings"), Mapping):
        found["settings"] = {key: value for key, value in found["settings"].items() if ("settings", key) not in keys}
    return found


def _single(entry: Mapping[str, Any], lists: Sequence[_List], choice: Sequence[Any]) -> dict[str, Any]:
    """Return the entry of the model that a choice out of lists makes."""
    found = dict(entry)
    for each, value in zip(lists, choice, strict=True):
        *table, key = each.key
        if table:
            found["settings"] = found["settings"] | {key: value}
        else:
            found[str(key)] = value
    return found
