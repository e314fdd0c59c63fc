"""Diffusion models: the noise that they are trained and measured on, their folders, conditions and samples."""

from unlearn_audit.generation.noising import denoising_task, task_of

__all__ = ["denoising_task", "task_of"]
