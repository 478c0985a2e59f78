"""A training loop of the user's own, for tests: a small network on data that it draws."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rsas

EPOCHS = 4


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 12, generator=generator)
    return x, (x[:, :3].argmax(1))


def train(run):
    """AdamW with warm-up, dropout and a shuffled loader: all that has a state."""
    x, y = data()
    loader = DataLoader(TensorDataset(x[:40], y[:40]), batch_size=8, shuffle=True)
    width = run.params.get("width", 16)
    model = nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.params["lr"])
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    sparsifier = run.sparsify(model, optimizer, steps_per_epoch=len(loader))
    run.track(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)
    for _ in run.epochs():
        model.train()
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            sparsifier.observe(loss)
            optimizer.step()
            sparsifier.step()
        model.eval()
        with torch.no_grad():
            outputs = model(x[40:])
        run.report(
            val_accuracy=(outputs.argmax(1) == y[40:]).float().mean(),
            val_loss=nn.functional.cross_entropy(outputs, y[40:]).item(),
        )
        scheduler.step()  # after the report: the epoch ends when the next one begins


def space(trial):
    return {
        "sparsity": trial.suggest_float("sparsity", 0.3, 0.9),
        "lr": trial.suggest_float("lr", 1e-3, 1e-1, log=True),
        "width": trial.suggest_int("width", 8, 24),
    }


def experiment(**options):
    return rsas.Experiment(
        **{
            "name": "mine",
            "train": train,
            "epochs": EPOCHS,
            "space": space,
            "objectives": (
                rsas.Objective("val_loss", "min", worst=2.0),
                rsas.Objective("sparsity", "max", worst=0.0),
            ),
            "pruning": rsas.Pruning(method="rigl", update_interval=4),
            "budget": rsas.Budget(trials=4),
            **options,
        }
    )
