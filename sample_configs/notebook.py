"""A network and a training loop of your own, unlearned and audited in memory: `python sample_configs/notebook.py`.

Each `# %%` begins a cell, for editors and `jupytext` that know them.
"""

# %% data, and what is to be forgotten
import torch
from torch import nn

import unlearn_audit as ua

data = ua.load_data("digits?train=600&test=300&mislabel=0.1")
splits = ua.make_splits(data, forget=data.changed)  # indices, a mask, or a spec such as "class:3"


# %% a network and a training loop that know nothing of this package
def make_net() -> nn.Module:
    """Return a small network for 8 x 8 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def trained(rows: torch.Tensor, *, seed: int) -> nn.Module:
    """Return a network that was trained on these training examples."""
    torch.manual_seed(seed)
    model = make_net()
    images, labels = data.transform(data.train.images[rows]), data.train.labels[rows]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


retain = torch.from_numpy(splits.retain)
m0 = trained(torch.arange(len(data.train)), seed=0)
r1, r2 = trained(retain, seed=1), trained(retain, seed=2)

# %% unlearn: m0 is left alone
new = ua.unlearn("ieu", m0, splits, steps=200, mean=data.mean, std=data.std)
print(f"{new.steps} steps; {'; '.join(new.deviations)}")

# %% how long does a model take to learn the forget set again?
for name, model in {"original": m0, "unlearned": new, "retrained": r1}.items():
    curve = ua.relearn(model, splits.forget, steps=50, step_size=0.05)
    print(f"{name}: RCD {ua.rcd(curve):.1f} nats x steps")

# %% the whole audit; in a notebook, `report` in a line of its own shows its tables
report = ua.audit(
    {"original": m0, "unlearned": new, "retrained-1": r1, "retrained-2": r2},
    splits,
    rcd={"steps": 50},
    mia=["loss"],
    mean=data.mean,
    std=data.std,
)
print(report)
ratio = report["rcd.ratio_to_unseen", "unlearned"]
print(ratio.value, ratio.interval, ratio.reference)
