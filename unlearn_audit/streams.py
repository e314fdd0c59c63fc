"""Every random stream of the package under its name, so that no two purposes ever share their draws.

A stream's name goes into its seed and never changes: what was drawn under it can be drawn again by every later version.
Three streams are older than this list and keep the sequences of a number beside the seed, since the digests of what
they drew stand in checkpoints and reports.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

STREAMS: Mapping[str, str] = {
    # sets and labels
    "label changes": "mislabel= of a data spec: which labels become wrong, and what they become",
    "training subset": "train= of a data spec",
    "test subset": "test= of a data spec",
    "random set": "random: where examples are named, in each split",
    "sample": "--sample: which forget examples are measured",
    "retain sample": "--retain-sample: which examples of the retain set are measured",
    "spare twin": "held-out examples beside the unseen twin, in pairs with forget examples, that a stop looks at",
    "twin": "the unseen twin: which held-out example is the partner of which",
    "population": "labels of the held-out examples that attacks learn from",
    "assignment": "which half of the pool a shadow model is trained on",
    # training and unlearning
    "initialisation": "weights that a model begins with",
    "train": "minibatches of training",
    "retain": "minibatches of the retain set",
    "forget": "minibatches of the forget set",
    "mixture": "minibatches of several sets under one permutation",
    "adjacent": "minibatches of the adjacent set",
    "remote": "minibatches of what is retained and not adjacent",
    "stage": "seeds of the later stages of a method, and of their minibatches",
    "relearn": "minibatches of relearning",
    "augment": "crops and flips of a minibatch",
    "dropout": "whatever a model itself draws in a step of training: dropout, stochastic depth",
    "reinit": "noise of the re-initialisation",
    "random labels": "labels that relabelling methods give",
    "random direction": "where AMUN's ablation moves images to instead of to their adversarial examples",
    "random mask": "weights that a random mask leaves alone",
    "fisher": "noise of Fisher forgetting",
    "influence": "retain examples of influence unlearning's curvature, and the probes of its mean",
    "power qr": "start vectors of a layer's largest singular values",
    "shadow": "seeds of shadow models",
    "treatment": "seeds of the unlearning of shadow models",
    "demo": "seeds of the models of the demo, and which examples a partly retrained one keeps",
    # generators
    "noise": "noise that is put on the images of a denoising task: on the grid, in a step of training or relearning",
    "timestep": "how much of it, where that is drawn",
    "label drop": "which rows of a step are asked without their condition",
    "states": "what ESD's sampler begins with, and which of its states a step looks at",
    # measuring
    "image": "x_T of a generated image, and whatever noise its sampler adds",
    "probe": "whatever a model draws while it is tried out",
    "relearning": "anything random of relearning",
    "relearned part": "--relearn: which forget examples are relearned",
    "random control": "the randomly initialised control",
    "planted": "which forget examples of the original are put into retrained models; swaps of labels that test these",
    "bootstrap": "resampling of examples",
    "swaps": "two-sample test: which pairs exchange their labels, the folds of its classifier",
    "spectrum": "anything random of the spectrum",
    "lanczos": "start vectors and probes of a spectrum",
    "lanczos restart": "a new direction where a Krylov space is exhausted",
    "resurgence": "minibatches of the fine-tuning of copies, and whatever they draw in it",
    "nn": "MIA-NN: which half of a class's test examples a classifier learns from; what stands for other classes",
    "shokri": "which shadow outputs Shokri's networks are trained on",
    "shokri network": "initialisation and minibatches of Shokri's networks",
    "judge": "initialisation and minibatches of a judge of samples that is trained for them",
    "real images": "which real images of each class samples are compared with",
}

# 0 is the bare seed: NumPy takes [seed, 0] for the same entropy as seed.
NUMBERED: Mapping[str, int] = {"label changes": 0, "twin": 1, "population": 2}


def derive_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts, so that streams for different purposes never share draws.

    >>> derive_seed(0, "retain", 1) == derive_seed(0, "retain", 1) != derive_seed(0, "forget", 1)
    True

    Args:
        parts: the seed and the stream's name, one of `STREAMS`; then what else tells this use from others of the name.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(name: str, seed: int, *parts: object) -> np.random.Generator:
    """Return NumPy's generator at the beginning of a stream.

    >>> generator("sample", 0).random() == generator("sample", 0).random() != generator("twin", 0).random()
    True

    Args:
        name: one of `STREAMS`.
        seed: the person's.
        parts: what else tells this use from others of the name; a numbered stream has none.

    Raises:
        KeyError: there is no such stream.
    """
    if name not in STREAMS:
        raise KeyError(f"no random stream is called {name!r}; name it in STREAMS")
    if name in NUMBERED and not parts:
        return np.random.default_rng([seed, NUMBERED[name]])
    return np.random.default_rng(derive_seed(seed, name, *parts))
