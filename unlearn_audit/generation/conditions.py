"""What a generator is asked for: a class's number, or a prompt as its text encoder embeds it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_audit.errors import UsageError

NOTHING = ""  # the prompt that stands for no condition
MOST_KEPT = 512  # embeddings; one of Stable Diffusion 1 has a quarter of a megabyte


class ClassConditions:
    """Class numbers.

    Args:
        classes: how many there are; the null condition is the number after them where there is one.
        null: whether there is.
    """

    def __init__(self, classes: int, *, null: bool) -> None:
        self.classes, self.rows = classes, classes + null

    def encode(self, conditions: Sequence[int | str], device: torch.device) -> Tensor:
        """Return the numbers, [N] int64.

        Raises:
            UsageError: one is none of a class.
        """
        for each in conditions:
            if isinstance(each, str) or not 0 <= each < self.rows:
                raise UsageError(
                    f"{each!r:.60} is no class of this generator, which has {self.classes} (0 to {self.classes - 1})"
                    + ("; it takes no prompts" if isinstance(each, str) else "")
                )
        return torch.tensor([int(each) for each in conditions], dtype=torch.int64, device=device)


class PromptConditions:
    """Prompts, each embedded by itself, so that it does not matter which others are asked for; kept once embedded.

    Args:
        tokenizer: of CLIP.
        encoder: CLIP's text encoder.
    """

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.kept: dict[str, Tensor] = {}
        self.cut: set[str] = set()  # prompts of which not all tokens are taken

    @property
    def length(self) -> int:
        """Tokens that are taken of a prompt."""
        config: Any = self.encoder.config
        return min(int(config.max_position_embeddings), int(self.tokenizer.model_max_length))

    def encode(self, conditions: Sequence[int | str], device: torch.device) -> Tensor:
        """Return the embeddings, [N, L, D] float32; the empty prompt is the null condition.

        Raises:
            UsageError: one is no text.
        """
        for each in conditions:
            if not isinstance(each, str):
                raise UsageError(f"this generator takes prompts, and {each!r:.60} is none; name some with --prompts")
        return torch.stack([self._embedded(str(each)) for each in conditions]).to(device)

    def _embedded(self, prompt: str) -> Tensor:
        found = self.kept.pop(prompt, None)
        if found is None:
            found = self._embed(prompt)
            while len(self.kept) >= MOST_KEPT:
                self.kept.pop(next(iter(self.kept)))
        self.kept[prompt] = found  # the last one asked for goes last
        return found

    @torch.no_grad()
    def _embed(self, prompt: str) -> Tensor:
        device = next(self.encoder.parameters()).device
        whole = self.tokenizer(prompt, truncation=False).input_ids
        if len(whole) > self.length:
            self.cut.add(prompt)
        taken = self.tokenizer(prompt, padding="max_length", max_length=self.length, truncation=True).input_ids
        tokens = torch.tensor([taken], device=device)
        embedded: Tensor = self.encoder(tokens)[0][0]
        return embedded.float()
