"""Clipping of every layer's largest singular value (FastClip: Boroojeny, Telgarsky & Sundaram 2024).

A layer is f(x) = Mx + f(0). Every so many steps its leading right singular vectors v_j with values sigma_j > c are
found by PowerQR, and the weight is moved until M·v_j = (c / sigma_j)·M₀·v_j, where M₀ is the layer as it was. The
weight of a linear layer is M itself: its values are clipped all at once. A convolution's weight reaches many
directions, so that one round moves others, too: within a run each call is one round, and the bound is a property of the
end alone.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn

from unlearn_audit.engine import Hooks
from unlearn_audit.errors import UsageError
from unlearn_audit.layers import Layer, Singular, affine_layers, power_qr, start_vectors
from unlearn_audit.methods import Course, Settings, StepContext, StepTransform

ITERATIONS = 10  # of PowerQR before a round, from new vectors
SURE = 100  # of PowerQR before a layer counts as clipped at the end
DESCENTS = 5  # steps on the weight for one direction
WITHIN = 1.02  # the end's bound over c
AIMED_AT = 1.01  # the same as it is found, since what is found may be a little low
END_K = 8  # directions in a round of the end, at least
RAISED_BELOW = 0.05  # two-sided: how far below c a convolution's largest value may stay
MEMORY = "clip/edited"  # which layers have been, in what is kept over a kill
MOVED = 0.2  # by the end rounds, of a layer's largest value: from there on it is said


class ClipSettings(Settings):
    """Settings of the clipping: c, cadence and the one vector are those of the published code with free BatchNorm."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"two_sided": True, "rounds": 0}

    c: Annotated[float, Field(gt=0, le=1e30)] = Field(default=1.0, description="largest singular value allowed")
    on: Literal["layers", "conv-bn"] = Field(
        default="layers", description="each layer alone, or a convolution with the BatchNorm that follows it as one map"
    )
    every: Annotated[int, Field(ge=1)] = Field(default=50, description="steps between two rounds")
    k: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="directions of a layer in one round")
    two_sided: bool = Field(default=False, description="raise a convolution's largest value to c, too")
    rounds: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=100, description="rounds at the end at most, until every layer is within 1.02 c"
    )

    @model_validator(mode="after")
    def _one_sided_together(self) -> "ClipSettings":
        """Refuse to raise what the source only ever lowers."""
        if self.two_sided and self.on == "conv-bn":
            raise ValueError("two_sided is of convolutions alone; with on=conv-bn values are only lowered")
        return self


class Clip:
    """The clipping of one model: rounds within the run, the end, and what is to be told of both.

    Args:
        context: the model, and a sample that shows what its layers are given.
        settings: the bound and how it is held.
    """

    def __init__(self, context: StepContext, settings: ClipSettings) -> None:
        self.context, self.settings = context, settings
        self._layers: list[Layer] = []
        self._ends: list[End] = []

    @property
    def layers(self) -> list[Layer]:
        """The layers that are clipped; found by one forward pass when they are first asked for.

        Raises:
            UsageError: there is none.
        """
        if not self._layers:
            found = affine_layers(self.context.model, self.context.sample, with_norms=self.settings.on == "conv-bn")
            self._layers = [layer for layer in found if layer.weight.requires_grad]
            if not self._layers:
                raise UsageError("clip has nothing to clip: no linear layer and no convolution has a weight that moves")
        return self._layers

    def after(self, step: int) -> None:
        """Do one round on every layer where it is time."""
        if (step + 1) % self.settings.every == 0:
            self._mark([self._round(layer, step) for layer in self.layers])

    def finish(self) -> None:
        """Do rounds until every layer is within the bound, or there have been as many as are allowed."""
        count = len(self.layers)
        self._ends = []
        for number, layer in enumerate(self.layers):
            self._ends.append(self._end(layer))
            self.context.progress("clipping at the end", number + 1, count, layer.name)
        self._mark([end.rounds > 0 for end in self._ends])

    def figures(self) -> dict[str, float]:
        """Return how far the bound holds, and what it took."""
        if not self._ends:
            return {}
        return {
            "clip.sigma_max": max(end.after for end in self._ends),
            "clip.sigma_max_before_end": max(end.before for end in self._ends),
            "clip.layers": len(self._ends),
            "clip.layers_clipped": int(self.context.memory[MEMORY].sum()),
        }

    def told(self) -> list[str]:
        """Say where the end moved a layer far, and where the bound does not hold."""
        c, found = self.settings.c, []
        far = [end for end in self._ends if abs(end.after - end.before) > MOVED * end.before]
        if far:
            worst = max(far, key=lambda end: abs(end.after - end.before) / end.before)
            found.append(
                f"clip: the rounds at the end moved the largest singular value of {len(far)} of {len(self._ends)} "
                f"layers by over {MOVED:.0%} ({worst.name}: from {worst.before:.3g} to {worst.after:.3g}), so that "
                "the model is another one than was trained: train on, clipping oftener (every=5,k=8)"
            )
        over = [end for end in self._ends if end.after > WITHIN * c]
        if over:
            worst = max(over, key=lambda end: end.after)
            found.append(
                f"clip: {len(over)} of {len(self._ends)} layers are above {WITHIN:g} c after {self.settings.rounds} "
                f"rounds at the end ({worst.name}: {worst.after:.4g})"
            )
        return found

    def _mark(self, edited: Sequence[bool]) -> None:
        """Remember which layers were edited, over a kill, too."""
        now = torch.tensor(edited, device=self.context.compute.device)
        before = self.context.memory.get(MEMORY)
        self.context.memory[MEMORY] = now if before is None else before | now

    def _round(self, layer: Layer, step: int) -> bool:
        """Do one round on a layer from new vectors; return whether it was edited."""
        if layer.is_matrix:
            return clip_matrix(layer, self.settings.c)
        start = start_vectors(layer, self.settings.k, seed=self.context.seed, parts=(step,))
        found = power_qr(layer, start, k=self.settings.k, iterations=ITERATIONS)
        return clip_directions(layer, found, self.settings.c, raising=self._raises(layer))

    def _raises(self, layer: Layer) -> bool:
        return self.settings.two_sided and not isinstance(layer.module, nn.Linear)

    def _end(self, layer: Layer) -> "End":
        """Do rounds on a layer until it is surely within the bound."""
        c, k = self.settings.c, max(self.settings.k, END_K)
        if layer.is_matrix:
            before = matrix_norm(layer)
            edited = bool(self.settings.rounds) and clip_matrix(layer, c)
            return End(layer.name, before, matrix_norm(layer) if edited else before, int(edited))

        def sure(number: int) -> Singular:
            start = start_vectors(layer, k, seed=self.context.seed, parts=("end", number))
            return power_qr(layer, start, k=k, iterations=SURE)

        found, rounds, low = sure(0), 0, c - RAISED_BELOW if self._raises(layer) else 0.0
        before = float(found.values[0])
        while not low <= float(found.values[0]) <= AIMED_AT * c and rounds < self.settings.rounds:
            clip_directions(layer, found, c, raising=self._raises(layer))
            rounds += 1
            found = power_qr(layer, found.basis, k=k, iterations=ITERATIONS)
            if low <= float(found.values[0]) <= AIMED_AT * c or rounds == self.settings.rounds:
                found = sure(rounds)
        return End(layer.name, before, float(found.values[0]), rounds)


class End(NamedTuple):
    """What the end did to a layer: its largest singular value before and after, and how many rounds it took."""

    name: str
    before: float
    after: float
    rounds: int


def matrix_norm(layer: Layer) -> float:
    """Return the largest singular value of a linear layer's weight."""
    return float(torch.linalg.matrix_norm(layer.weight.detach(), 2))


def clip_matrix(layer: Layer, c: float) -> bool:
    """Lower every singular value above c of a linear layer's weight to c; return whether there was one.

    Only the part above c is taken away, so that all other values and vectors stay as they are.
    """
    weight = layer.weight.detach()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    above = values > c
    if not bool(above.any()):
        return False
    weight.sub_(left[:, above] * (values[above] - c) @ right[above])
    return True


def clip_directions(layer: Layer, found: Singular, c: float, *, raising: bool = False) -> bool:
    """Move a layer's weight W until M·v_j is (c / sigma_j) of what it was for every v_j with sigma_j > c, nearly.

    M·v is linear in W, T_v·W. So ½·Σ‖T_j·W - target_j‖² is a least-squares problem, and 5 steps of steepest descent are
    taken on it, each with the best step size ‖g‖² / Σ‖T_j·g‖². Directions within the bound are no part of it.

    Args:
        layer: edited in place.
        found: its leading directions.
        c: the bound.
        raising: whether the first direction is raised to c where its value is less than c - 0.05.

    Returns:
        Whether the weight was edited.
    """
    wanted = found.values > c
    if raising and 0 < float(found.values[0]) < c - RAISED_BELOW:
        wanted[0] = True
    wanted = wanted.to(found.vectors.device)
    if not bool(wanted.any()):
        return False
    weight, vectors = layer.weight.detach(), found.vectors[wanted]
    share = (c / found.values.to(wanted.device)[wanted]).to(vectors.dtype)
    with torch.enable_grad():
        leaf = weight.clone().requires_grad_()
        images = layer.times(vectors, leaf)
    rest = images.detach() * (1 - share).reshape(-1, *(1 for _ in layer.shape))
    for _ in range(DESCENTS):
        (gradient,) = torch.autograd.grad(images, leaf, rest, retain_graph=True)
        moved = layer.times(vectors, gradient)
        curvature = moved.square().sum()
        if not bool(curvature > 0):
            break
        size = gradient.square().sum() / curvature
        weight.sub_(size * gradient)
        rest = rest - size * moved
    return True


def _make(context: StepContext, settings: ClipSettings, course: Course) -> Hooks:
    """Clip every layer every so many steps, and surely at the end."""
    clip = Clip(context, settings)
    return Hooks(after=clip.after, finish=clip.finish, told=clip.told, figures=clip.figures)


CLIP = StepTransform(
    "clip",
    "Boroojeny, Telgarsky & Sundaram 2024 (FastClip), with its code's cadence",
    ClipSettings,
    _make,
    deviations=(
        "a linear layer is clipped by its singular value decomposition, all values at once; the published code moves "
        "one direction",
        "steps on a convolution's weight are as long as is best; the published code's are of a fixed size",
        "PowerQR begins anew before each round and has 3 spare vectors; the published code goes on from the last ones",
        "rounds at the end hold the bound; the published code has none",
    ),
    trains=True,
    on={"generator": "it is shown one image to find out what each layer is given, and a generator is called otherwise"},
)
