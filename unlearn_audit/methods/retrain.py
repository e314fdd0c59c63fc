"""Retraining from scratch on the retain set with the original's recipe: the reference itself."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Settings, Unlearned, UnlearningContext
from unlearn_audit.models import name_of
from unlearn_audit.training import Recipe, pick_recipe, recorded_recipe, train


class RetrainSettings(Settings):
    """Settings of retraining: none is needed where the checkpoint says how it was trained."""

    recipe: str | None = Field(default=None, description="a named recipe, instead of the checkpoint's own")
    epochs: Annotated[int, Field(gt=0)] | None = Field(default=None, description="passes, instead of the recipe's")


def run_retrain(context: UnlearningContext, settings: RetrainSettings) -> Unlearned:
    """Train a new network without the forget set, as the original was trained; nothing of the checkpoint is used."""
    recipe, notes = _recipe(context, settings)
    assumed = not context.recipe and settings.recipe is None
    splits = context.splits
    if not len(splits.retain):
        raise UsageError("the retain set is empty; there is nothing to train on")
    if context.seed == context.original_seed:
        notes += (
            f"the original was trained with seed {context.seed}, too: both began with the same weights; a reference of "
            "its own wants another --seed",
        )
    steps = recipe.epochs * -(-len(splits.retain) // recipe.batch_size)
    done = Unlearned(
        steps, recipe.epochs * len(splits.retain), notes=notes, recipe=recipe.settings(), recipe_assumed=assumed
    )
    if context.count_only:
        return done
    mean, std = context.transform.mean, context.transform.std  # as the original is read, and as the file will say
    model, found = train(
        context.spec,
        replace(splits.dataset, mean=mean, std=std),
        splits.retain,
        recipe,
        seed=context.seed,
        compute=context.compute,
        allow_code=True,  # the checkpoint's own network was built from this spec, so whoever asked has allowed it
        resumable=context.resumable,
        progress=context.progress,
        task="retraining",
    )
    context.model.load_state_dict(model.state_dict())
    return replace(done, figures=found.figures, notes=(*done.notes, *found.notes))


def _recipe(context: UnlearningContext, settings: RetrainSettings) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe, and what is to be said when it is not the original's."""
    known = context.recipe
    if settings.recipe is None and known:
        own = recorded_recipe(known)
        return (
            (replace(own, epochs=settings.epochs), ("not the original's number of epochs",))
            if (settings.epochs and settings.epochs != own.epochs)
            else (own, ())
        )
    chosen = pick_recipe(settings.recipe, name_of(context.spec), epochs=settings.epochs)
    if known:
        return chosen, (f"recipe {chosen.name}, while the original's is {known.get('name', 'not known')}",)
    if settings.recipe is None:
        return chosen, (
            f"recipe {chosen.name}, epochs {chosen.epochs}, is assumed: nothing says how the original was trained; "
            "name it with --recipe and --epochs",
        )
    return chosen, (f"recipe {chosen.name}, epochs {chosen.epochs}, as it was named: the original's file says none",)


RETRAIN = Method(
    "retrain", "the definition of unlearning", RetrainSettings, run_retrain, composes=False, role="retrained"
)
