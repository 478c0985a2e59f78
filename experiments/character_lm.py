"""A character-level language model on the sources of Python's standard library.

The training loop is an ordinary one with AdamW, warm-up and a cosine schedule. All linear layers of
the transformer are pruned, and the search trades perplexity for sparsity.
"""

import math
import sysconfig
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rsas

CHARACTERS, CONTEXT, WIDTH = 128, 64, 64
BATCH, STEPS = 16, 200  # sequences in a batch; steps in an epoch
VALIDATION = 32  # batches


class Transformer(nn.Module):
    """Predicts the next character: tokens (N, T) -> logits (N, T, characters)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        block = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=dropout, batch_first=True
        )
        self.blocks = nn.TransformerEncoder(block, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        x = self.embedding(tokens) + self.positions.weight[:length]
        logits: Tensor = self.head(self.blocks(x, mask=mask, is_causal=True))
        return logits


def text(characters: int = 1_000_000) -> Tensor:
    """Return the first characters of the library's modules, in the order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    content = "".join(file.read_text("utf-8", errors="replace") for file in files)[:characters]
    return torch.tensor([min(ord(character), CHARACTERS - 1) for character in content])


def batch(tokens: Tensor, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return sequences from random places, shape (N, T + 1)."""
    starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH,), generator=generator)
    return torch.stack([tokens[start : start + CONTEXT + 1] for start in starts]).to(device)


def loss_of(model: nn.Module, sequences: Tensor) -> Tensor:
    logits = model(sequences[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor, device: torch.device) -> float:
    model.eval()
    generator = torch.Generator().manual_seed(0)  # the same sequences each time
    losses = [loss_of(model, batch(tokens, generator, device)) for _ in range(VALIDATION)]
    model.train()
    return math.exp(torch.stack(losses).mean().item())


def train(run: rsas.Run) -> None:
    tokens = text()
    training, validation = tokens.split(
        [len(tokens) * 9 // 10, len(tokens) - len(tokens) * 9 // 10]
    )
    model = Transformer(run.params["dropout"]).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.params["lr"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, run.params["lr"], total_steps=run.total_epochs * STEPS, pct_start=0.1
    )
    batches = torch.Generator().manual_seed(run.seed)
    sparsifier = run.sparsify(model, optimizer, steps_per_epoch=STEPS)
    run.track(model=model, optimizer=optimizer, schedule=schedule, batches=batches)
    for _ in run.epochs():
        losses = []
        for _ in range(STEPS):
            loss = loss_of(model, batch(training, batches, run.device))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            sparsifier.observe(loss)
            optimizer.step()
            sparsifier.step()
            schedule.step()
            losses.append(loss.detach())
        run.report(
            train_loss=torch.stack(losses).mean(),
            val_perplexity=perplexity(model, validation, run.device),
        )


def space(trial: Any) -> dict[str, Any]:
    return {
        "sparsity": trial.suggest_float("sparsity", 0.5, 0.98),
        "lr": trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.2),
    }


def experiment() -> rsas.Experiment:
    return rsas.Experiment(
        name="character_lm",
        train=train,
        epochs=10,
        pruning=rsas.Pruning(method="reinforced", distribution="erk"),
        space=space,
        objectives=(
            rsas.Objective("val_perplexity", "min", worst=30.0),
            rsas.Objective("sparsity", "max", worst=0.0),
        ),
        budget=rsas.Budget(trials=16),
    )
