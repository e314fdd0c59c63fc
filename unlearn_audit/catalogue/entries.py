"""What there is, by name, and where it stands: "module:attribute", imported when it is used."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from unlearn_audit.errors import UsageError, unknown_name

STAND_IN = "stand-in"  # who names a forget set that nothing measured depends on
ASSUMED_INPUTS = "assumed: inputs normalised"  # how the note of a checkpoint begins whose normalisation nobody says


class Entry(NamedTuple):
    """Where a thing is, "module:attribute", and what it is, for help that must not import it."""

    where: str
    what: str


MODELS: Mapping[str, str] = {
    "small-cnn": "unlearn_audit.models.small:small_cnn",
    "resnet20": "unlearn_audit.models.cifar:resnet20",
    "resnet32": "unlearn_audit.models.cifar:resnet32",
    "resnet44": "unlearn_audit.models.cifar:resnet44",
    "resnet56": "unlearn_audit.models.cifar:resnet56",
    "cifar-resnet18": "unlearn_audit.models.cifar:cifar_resnet18",
    "cifar-resnet50": "unlearn_audit.models.cifar:cifar_resnet50",
    "small-unet": "unlearn_audit.models.denoisers:small_unet",
    "tiny-unet": "unlearn_audit.models.denoisers:tiny_unet",
}
# Of these models, which make images instead of naming their class.
GENERATORS = ("small-unet", "tiny-unet")
PIPELINE = "diffusers:"  # how the model of a pipeline's folder begins that says no other name

DATA_SOURCES: Mapping[str, str] = {
    "digits": "unlearn_audit.data.sources:digits",
    "idx": "unlearn_audit.data.sources:idx",
    "npz": "unlearn_audit.data.sources:npz",
    "folder": "unlearn_audit.data.sources:folder",
    "captioned": "unlearn_audit.data.sources:captioned",
    "torchvision": "unlearn_audit.data.sources:torchvision_dataset",
}

RECIPES: Mapping[str, str] = {
    "small": "unlearn_audit.training:SMALL",
    "resnet": "unlearn_audit.training:RESNET",
    "diffusion": "unlearn_audit.training:DIFFUSION",
}

METHODS: Mapping[str, Entry] = {
    "ieu": Entry("unlearn_audit.methods.ieu:IEU", "descend on retain, ascend on forget, re-initialise step by step"),
    "ft": Entry("unlearn_audit.methods.ft:FT", "fine-tune on the retain set"),
    "ft-wd": Entry("unlearn_audit.methods.ft:FT_WD", "fine-tune while the weights shrink: IEU Noisy without its noise"),
    "ga": Entry("unlearn_audit.methods.ga:GA", "gradient ascent on the forget set alone"),
    "neggrad-plus": Entry("unlearn_audit.methods.neggrad_plus:NEGGRAD_PLUS", "descend on retain and ascend on forget"),
    "rl": Entry("unlearn_audit.methods.random_labels:RL", "fine-tune with random labels on the forget set"),
    "scrub": Entry("unlearn_audit.methods.scrub:SCRUB", "leave the original on forget, stay with it on retain"),
    "salun": Entry("unlearn_audit.methods.salun:SALUN", "random labels, and only the salient weights move"),
    "esd": Entry("unlearn_audit.methods.esd:ESD", "denoise away from a concept: generators alone"),
    "pseudo": Entry("unlearn_audit.methods.pseudo:PSEUDO", "denoise as under another condition: generators alone"),
    "label-swap": Entry(
        "unlearn_audit.methods.label_swap:LABEL_SWAP",
        "swap a row of the label embedding, no training: a control",
    ),
    "entanglement": Entry(
        "unlearn_audit.methods.entanglement:ENTANGLEMENT",
        "suppress forget while the rest stays, then repair what is close to it",
    ),
    "amun": Entry(
        "unlearn_audit.methods.amun:AMUN", "fine-tune with the nearest adversarial examples of the forget set"
    ),
    "boundary-shrink": Entry(
        "unlearn_audit.methods.boundary:SHRINK", "give forget examples to the class one signed step away"
    ),
    "boundary-expand": Entry(
        "unlearn_audit.methods.boundary:EXPAND", "give forget examples to a new class, then drop it"
    ),
    "shrink-perturb": Entry(
        "unlearn_audit.methods.shrink_perturb:SHRINK_PERTURB",
        "throw most of the weights away at once, then learn retain again",
    ),
    "bad-teacher": Entry(
        "unlearn_audit.methods.bad_teacher:BAD_TEACHER", "learn from a random network on forget, the original on retain"
    ),
    "reference": Entry(
        "unlearn_audit.methods.reference:REFERENCE",
        "answer on forget as the original does on held-out data",
    ),
    "sfron": Entry("unlearn_audit.methods.sfron:SFRON", "now and then ascend forget where it matters more than retain"),
    "cf-k": Entry("unlearn_audit.methods.last_layers:CF_K", "fine-tune the last k layers on retain; the others rest"),
    "eu-k": Entry("unlearn_audit.methods.last_layers:EU_K", "draw the last k layers anew and train them on retain"),
    "msg": Entry("unlearn_audit.methods.msg:MSG", "draw anew the kernel weights that both sets pull alike, fine-tune"),
    "ct": Entry("unlearn_audit.methods.ct:CT", "transpose every convolution kernel, then fine-tune on retain"),
    "l1-sparse": Entry("unlearn_audit.methods.l1_sparse:L1_SPARSE", "fine-tune with an l1 penalty that fades"),
    "trw": Entry("unlearn_audit.methods.trw:TRW", "fit a forgotten class to what a model without it might say of it"),
    "delete": Entry("unlearn_audit.methods.delete:DELETE", "distil the original without the label's class; no retain"),
    "mask-only": Entry(
        "unlearn_audit.methods.mask_only:MASK_ONLY", "bar forgotten classes as answers, no training: a control"
    ),
    "ssd": Entry("unlearn_audit.methods.ssd:SSD", "dampen weights that matter most to the forget set; no training"),
    "fisher": Entry("unlearn_audit.methods.fisher:FISHER", "noise on every weight, as much as retain bears"),
    "iu": Entry("unlearn_audit.methods.iu:IU", "one Newton step away from the forget set; no training"),
    "newton": Entry("unlearn_audit.methods.newton:NEWTON", "a Newton step of the last linear layer; no training"),
    "retrain": Entry("unlearn_audit.methods.retrain:RETRAIN", "train anew without the forget set: the reference"),
}

# What edits the gradient or the weights in each step, whatever the objective: `--with NAME`.
TRANSFORMS: Mapping[str, Entry] = {
    "ascent": Entry("unlearn_audit.methods.transforms.ascent:ASCENT", "ascend the forget set's loss, too (IEU's GA)"),
    "reinit": Entry(
        "unlearn_audit.methods.transforms.reinit:REINIT",
        "mix the weights with draws of an initialisation (IEU's Noisy)",
    ),
    "mask": Entry("unlearn_audit.methods.transforms.mask:MASK", "only the most salient weights, or random ones, move"),
    "l1": Entry("unlearn_audit.methods.transforms.l1:L1", "an l1 penalty that fades"),
    "feasible": Entry(
        "unlearn_audit.methods.transforms.feasible:FEASIBLE", "of each step what makes neither forget nor retain worse"
    ),
    "nash": Entry("unlearn_audit.methods.transforms.nash:NASH", "the bisector of the forget and the retain gradient"),
    "clip": Entry(
        "unlearn_audit.methods.transforms.clip:CLIP", "no layer stretches its input more than c-fold (FastClip)"
    ),
}

ATTACKS: Mapping[str, Entry] = {
    "loss": Entry("unlearn_audit.attacks.threshold:loss", "a threshold on the loss"),
    "confidence": Entry("unlearn_audit.attacks.threshold:confidence", "a threshold on the largest probability"),
    "entropy": Entry("unlearn_audit.attacks.threshold:entropy", "a threshold on the entropy of the outputs"),
    "modified-entropy": Entry(
        "unlearn_audit.attacks.threshold:modified_entropy", "a threshold on the entropy towards the label"
    ),
    "quantile": Entry("unlearn_audit.attacks.quantile:quantile", "the margin against what held-out images have"),
    "shokri": Entry("unlearn_audit.attacks.shokri:shokri", "a classifier a class, trained on shadow models' outputs"),
    "lira": Entry("unlearn_audit.attacks.lira:lira", "log-odds against shadow models with and without the example"),
    "lira-offline": Entry("unlearn_audit.attacks.lira:lira_offline", "log-odds against shadow models without it"),
    "rmia": Entry("unlearn_audit.attacks.rmia:rmia", "likelihood against that under all shadow models"),
    "rmia-offline": Entry("unlearn_audit.attacks.rmia:rmia_offline", "likelihood against shadow models without it"),
    "ulira": Entry("unlearn_audit.attacks.ulira:ulira", "log-odds against models that unlearned it or never saw it"),
    "svc": Entry("unlearn_audit.attacks.svc:svc", "the field's MIA-efficacy; legacy, never a verdict"),
}

# Attacks on generators, in the place of those above, which need class probabilities; `loss` is here and there the same.
GENERATOR_ATTACKS: Mapping[str, Entry] = {
    "loss": Entry("unlearn_audit.attacks.denoising:loss", "a threshold on the denoising loss"),
    "pia": Entry("unlearn_audit.attacks.denoising:pia", "whether an image's own noise is found in it again"),
    "secmi": Entry("unlearn_audit.attacks.denoising:secmi", "whether an image comes back after a step on and back"),
}

# Tests of a model's outputs as a whole, beside the attacks in `mia` and [mia]: no score of an example, no verdict.
MODEL_ATTACKS: Mapping[str, Entry] = {
    "nn": Entry("unlearn_audit.audit.mia.nn:measure_nn", "answers on forgotten classes against retrained models'"),
}

# Names for several attacks at once, which leave out those that lack what they need, and say so; of a generator "all"
# means those on generators, too.
_THRESHOLD = ("loss", "confidence", "entropy", "modified-entropy")
ATTACK_GROUPS: Mapping[str, tuple[str, ...]] = {
    "threshold": _THRESHOLD,
    "population": _THRESHOLD,  # another name of "threshold"
    "all": tuple(ATTACKS),
}

# What may happen to a model after its release -> where that is done, and how a sentence has it: "after ...".
ALTERATIONS: Mapping[str, Entry] = {
    "int8": Entry("unlearn_audit.audit.resurgence.alterations:int8", "rounding of the weights to 8 bits"),
    "int4": Entry("unlearn_audit.audit.resurgence.alterations:int4", "rounding of the weights to 4 bits"),
    "prune-30": Entry("unlearn_audit.audit.resurgence.alterations:prune_30", "pruning of 30 % of the weights"),
    "prune-50": Entry("unlearn_audit.audit.resurgence.alterations:prune_50", "pruning of 50 % of the weights"),
    "prune-70": Entry("unlearn_audit.audit.resurgence.alterations:prune_70", "pruning of 70 % of the weights"),
    "recentre": Entry("unlearn_audit.audit.resurgence.alterations:recentre", "recentring of the logits"),
    "fine-tune": Entry("unlearn_audit.audit.resurgence.alterations:fine_tune", "fine-tuning on the retain set"),
}


def is_generator(spec: str) -> bool:
    """Return whether a model spec is that of a generator.

    >>> is_generator("small-unet"), is_generator("diffusers:UNet2DModel"), is_generator("small-cnn")
    (True, True, False)
    """
    return spec in GENERATORS or spec.startswith(PIPELINE)


def load(kind: str, table: Mapping[str, str] | Mapping[str, Entry], name: str) -> Any:
    """Import and return what `table` has under `name`.

    Args:
        kind: what the table holds, for the message ("model", "attack").
        table: one of the dict literals of the catalogue.
        name: the key asked for.

    Raises:
        UsageError: the name is not in the table; the message has the nearest match and the list.
    """
    if name not in table:
        raise UsageError(unknown_name(kind, name, table))
    entry = table[name]
    module, _, attribute = (entry if isinstance(entry, str) else entry.where).partition(":")
    return getattr(import_module(module), attribute)
