"""A first config and a first policy for checkpoints that somebody points at, commented so that they explain themselves.

What a checkpoint says of its own data and model is shown in a comment and never made a setting: a config that is named
may choose code to run, and an untrusted file must not get there by way of this one.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from unlearn_audit.catalogue import DATA_SOURCES, MODELS
from unlearn_audit.errors import UsageError
from unlearn_audit.gate import shipped_policy

POLICY_NAME = "policy.toml"


class StartingCheckpoint(NamedTuple):
    """A checkpoint: its path as the config is to have it, its role, and what it says of itself."""

    path: str
    role: str | None = None
    data: str | None = None
    model: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tells_recipe: bool = False


class StarterFiles(NamedTuple):
    """What is known before the first audit; `forget_from` names who said what is to be forgotten."""

    checkpoints: Sequence[StartingCheckpoint]
    forget: str | None = None
    forget_from: str | None = None
    data: str | None = None
    model: str | None = None
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    generators: bool = False


HEAD = """\
# What to audit, and how. Paths are relative to this file; what is commented out is off, or has its default.
#
#   unlearn-audit validate unlearn-audit.toml                        every problem of this file at once
#   unlearn-audit audit unlearn-audit.toml --out report/             measure
#   unlearn-audit show report/report.json --html report.html         look
#   unlearn-audit gate report/report.json --policy policy.toml       an exit code
schema_version = 1
seed = 0                        # of the unseen twin, the controls and the resampling
"""

SECTIONS = """\
# ----- what to measure: a section that is here runs

[gaps]                          # accuracy on every split, and the gaps to the retrained models

[rcd]                           # relearning: is the forget set quicker to relearn than data that was never seen?
steps = 100                     # K: K + 1 forward and K backward passes over the forget set
step_size = "auto"              # 1 / (4 lambda_max), halved until no curve rises; or a number
# match_difficulty = true       # match the unseen twin on difficulty under the retrained models

[twosample]                     # given the retrained models, can forget examples be told from unseen ones?

[mia]                           # membership inference: can an attacker tell forget examples from unseen ones?
attacks = ["loss"]              # or "threshold", or "all" with shadow models
# shadows = "shadows"           # a folder that `unlearn-audit shadows run` made: lira, rmia, ulira

# [detectable]                  # how small a leak could be seen: on where an original and two retrained models are
# [truncation]                  # is the truncation error of RCD_K really exponential in K?
# [outputs]                     # answers beside retrained models', with their floor; ToW, ZRF, CKA
# [spectrum]                    # curvature of the loss on the forget set
# [layers]                      # largest singular values of each layer
# [resurgence]                  # does it come back in copies that are rounded, pruned, fine-tuned on other data?
# [generation]                  # of image generators: what a judge finds in samples, forgotten and kept ones
"""

OF_GENERATORS = """\
# ----- what to measure: a section that is here runs

[generation]                    # what a judge finds in samples, forgotten and kept ones
judge = "train"                 # a small classifier of the same data; or a checkpoint, or nudenet
# samples = 100                 # of each forgotten class
# kept_samples = 40             # of each kept class
# prompts = "prompts.csv"       # of a generator of texts: its samples are asked for by these

[rcd]                           # relearning: samples cannot show that something is gone
# optimizer = "adam"            # with K = 40 steps, on fresh noise, over the original's own curve

# [mia]                         # membership, where examples and no whole class are forgotten
# attacks = ["loss", "pia", "secmi"]
"""

NO_RETRAINED = """\
# There is no retrained model yet, so the gaps stay open and the policy cannot pass. Train three or more without the
# forget set, and add each as a [[checkpoint]] with role = "retrained"; or let the audit train them
# as the original {how}:
#
#   {audit}
#   {train}
"""


def starting_config(start: StarterFiles) -> str:
    """Return the text of a first config.

    Raises:
        UsageError: a path or a spec is no text that a TOML file can hold.
    """
    of_classifiers = () if start.generators else (_model, _weights, _normalisation)
    blocks = [HEAD, *("".join(part(start)) for part in (_forget, _data, *of_classifiers))]
    blocks += ["".join(_checkpoint(checkpoint, start)) for checkpoint in start.checkpoints]
    blocks += [] if any(checkpoint.role == "retrained" for checkpoint in start.checkpoints) else [_no_retrained(start)]
    return "\n".join([*blocks, OF_GENERATORS if start.generators else SECTIONS])


def starting_policy(*, generators: bool = False) -> str:
    """Return the text of a first policy: the default one, or that of generators, to be changed at will."""
    name = "generation" if generators else "default"
    return shipped_policy(name).replace(f"--policy {name}", f"--policy {POLICY_NAME}")


def _forget(start: StarterFiles) -> Iterator[str]:
    yield "# The training examples to forget: a file of indices (.npy, .txt, .csv, .json), class:3, random:0.1:0,\n"
    yield "# range:0-99 or mislabelled.\n"
    if start.forget is None:
        yield '# forget = "forget.npy"       # needed: fill it in\n'
    else:
        said = f"   # as {_quoted(start.forget_from)} says" if start.forget_from else ""
        yield f"forget = {_quoted(start.forget)}{said}\n"


def _data(start: StarterFiles) -> Iterator[str]:
    yield "# The data: digits, idx:DIR, npz:FILE, folder:DIR, torchvision:NAME, or package.module:callable.\n"
    if start.data is not None:
        yield f"data = {_quoted(start.data)}\n"
        return
    said = [checkpoint.data for checkpoint in start.checkpoints if checkpoint.data]
    yield from _said("data", said, len(start.checkpoints))
    if len(said) < len(start.checkpoints):
        yield '# data = "digits"             # needed where a checkpoint does not say it: fill it in\n'


def _model(start: StarterFiles) -> Iterator[str]:
    yield "# The architecture: a name, torchvision:NAME, timm:NAME, or package.module:callable.\n"
    if start.model is not None:
        yield f"model = {_quoted(start.model)}\n"
        return
    said = [checkpoint.model for checkpoint in start.checkpoints if checkpoint.model]
    yield from _said("model", said, len(start.checkpoints))
    if len(said) < len(start.checkpoints):
        yield '# model = "resnet20"           # needed where the weights do not tell it: `unlearn-audit inspect CKPT`\n'


def _weights(start: StarterFiles) -> Iterator[str]:
    if start.weights is not None:
        yield "# Which of several sets of weights in a file is meant; a [[checkpoint]] can have its own.\n"
        yield f"weights = {_quoted(start.weights)}\n"


def _normalisation(start: StarterFiles) -> Iterator[str]:
    yield "# How inputs are normalised, after scaling to [0, 1]: (x - mean) / std, one number or one per channel.\n"
    said = [(one.mean, one.std) for one in start.checkpoints if one.mean and one.std]
    for (mean, std), count in Counter(said).items():
        yield f"# {count} of {len(start.checkpoints)} checkpoints say: mean = {list(mean)}, std = {list(std)}\n"
    if len(said) < len(start.checkpoints) and start.mean is None:
        yield "# mean = 0.5                   # needed where a checkpoint does not say it, here or in its own table:\n"
        yield "# std = 0.25                   # else the data's own are assumed, and the report says so\n"


def _no_retrained(start: StarterFiles) -> str:
    """Return what is to be done without a retrained model: commands as complete as what is known."""
    tells = any(one.tells_recipe for one in start.checkpoints)
    train = ["unlearn-audit", "train", "--data", _known(start, "data", DATA_SOURCES) or "SPEC"]
    model = _known(start, "model", MODELS)
    train += ["--model", model] if model else []
    train += ["--without", start.forget if start.forget and start.forget.isprintable() else "FORGET"]
    for key, value in (("mean", start.mean), ("std", start.std)):
        train += [f"--{key}", ",".join(map(str, value))] if value else []
    train += ["--seed", "1", "--out", "retrained-1/" if start.generators else "retrained-1.safetensors"]
    audit = "unlearn-audit audit unlearn-audit.toml --out report/ --retrain 3" + ("" if tells else " --recipe NAME")
    how = "says that it was trained" if tells else "was trained, by a recipe that you name, since no file says it"
    return NO_RETRAINED.format(how=how, audit=audit, train=shlex.join(train))


def _known(start: StarterFiles, key: str, names: Iterable[str]) -> str | None:
    """Return what the person says, or what all checkpoints that say it agree on, where it is no code to run."""
    if (asked := getattr(start, key)) is not None:
        return str(asked) if str(asked).isprintable() else None
    said = {getattr(one, key) for one in start.checkpoints} - {None}
    only = str(said.pop()) if len(said) == 1 else ""
    harmless = only.partition(":")[0].partition("?")[0] in (*names, "torchvision", "timm")
    return only if harmless and only.isprintable() else None


def _said(key: str, specs: Sequence[str], of: int) -> Iterator[str]:
    """Yield what checkpoints say of themselves, which holds without being a setting."""
    for spec, count in Counter(specs).items():
        yield f"# {count} of {of} checkpoints say: {key} = {_quoted(spec)}\n"


def _checkpoint(checkpoint: StartingCheckpoint, start: StarterFiles) -> Iterator[str]:
    yield f"[[checkpoint]]\npath = {_quoted(checkpoint.path)}\n"
    if checkpoint.role:
        yield f"role = {_quoted(checkpoint.role)}\n"
    else:
        yield '# role = "unlearned"          # original, retrained or unlearned: the file does not say; fill it in\n'
    for key in ("mean", "std"):  # for those alone that say nothing of their own, which would be overruled
        if getattr(start, key) is not None and getattr(checkpoint, key) is None:
            yield f"{key} = {list(getattr(start, key))}\n"


def _quoted(text: str) -> str:
    r"""Return a text as a TOML string in one line, with what is no visible character or space written out.

    >>> print(_quoted('a "b"\n'))
    "a \"b\"\u000a"
    """
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise UsageError(f"{text!r} is not UTF-8, so no TOML file can hold it; rename it")
    return '"' + "".join(map(_character, text)) + '"'


def _character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return char if char.isprintable() else f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"
