"""Training loops of users: what they leave out is said, and averages of weights can be masked."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rsas.errors import InputError
from rsas.sparse import (
    GradualPruning,
    NoisePruning,
    Position,
    ReinforcedPruning,
    RigLPruning,
    SetPruning,
    Sparsifier,
    StaticPruning,
    Target,
)

METHODS = {
    "static": StaticPruning(),
    "set": SetPruning(update_interval=2),
    "rigl": RigLPruning(update_interval=2),
    "gmp": GradualPruning(update_interval=2),
    "noise": NoisePruning(update_interval=2),
    "reinforced": ReinforcedPruning(update_interval=2),
    "global": ReinforcedPruning(update_interval=2, credit="global"),
}
STEPS = 12


class Loop:
    """A loop from which calls can be left out."""

    def __init__(self, method, model=None, sparsity=0.9):
        torch.manual_seed(0)
        self.model = model or nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(1)
        self.sparsifier = Sparsifier(
            self.model, self.optimizer, method, Target(sparsity=sparsity), generator=generator
        )
        self.x = torch.randn(64, 20, generator=generator)
        self.y = torch.randint(0, 3, (64,), generator=generator)

    def go(self, steps=STEPS, without=(), given=lambda loss: loss, after=lambda: None):
        for step in range(steps):
            at = Position(0, step, 1, STEPS)
            loss = nn.functional.cross_entropy(self.model(self.x), self.y)
            self.optimizer.zero_grad()
            if "backward" not in without:
                loss.backward()
            if "observe" not in without:
                self.sparsifier.observe(given(loss), at)
            self.optimizer.step()
            if "gradients" in without:
                self.optimizer.zero_grad()
            if "step" not in without:
                self.sparsifier.step(at)
            after()
        return self

    def zeros(self, model=None):
        layers = [m for m in (model or self.model).modules() if isinstance(m, nn.Linear)]
        return sum(int((m.weight == 0).sum()) for m in layers) / 690


def refused(loop, **options):
    """The one line that the loop ends with."""
    with pytest.raises(InputError) as caught:
        loop.go(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_is_left_out_is_named_at_the_next_one(method):
    message = refused(Loop(METHODS[method]), without=("step",))
    assert "step() was not called after step 0 of epoch 0" in message
    assert "after each optimizer.step()" in message


@pytest.mark.parametrize("call", [Sparsifier.sparsity, Sparsifier.attach])
def test_the_sparsity_of_weights_that_are_not_masked_is_no_number(call):
    loop = Loop(StaticPruning()).go(without=("step", "observe"))
    assert loop.zeros() < 0.5
    with pytest.raises(InputError, match=r"layer '0': \d+ of its weights are off but not zero"):
        call(loop.sparsifier)
    assert not hasattr(loop.model[0], "weight_orig")
    loop.sparsifier.step(Position(0, STEPS - 1, 1, STEPS))
    assert loop.sparsifier.sparsity()[0] == loop.zeros() == pytest.approx(0.9, abs=1e-3)


def test_weights_that_are_not_numbers_are_no_mistake_of_the_loop():
    """As after a step with an infinite learning rate: there the loss is the error."""
    loop = Loop(StaticPruning())
    with torch.no_grad():
        loop.model[0].weight.fill_(torch.inf)
    loop.sparsifier.step(Position(0, 0, 1, STEPS))
    assert loop.sparsifier.sparsity()[0] == pytest.approx(0.9, abs=1e-3)


def counted(epochs=3, steps_per_epoch=4, method="reinforced"):
    """A loop whose sparsifier counts the steps."""
    loop = Loop(METHODS[method])
    loop.sparsifier = Sparsifier(
        loop.model,
        loop.optimizer,
        METHODS[method],
        Target(sparsity=0.9),
        generator=torch.Generator().manual_seed(1),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
    )
    return loop


def count(loop, steps, position=lambda step: None):
    for step in range(steps):
        loss = nn.functional.cross_entropy(loop.model(loop.x), loop.y)
        loop.optimizer.zero_grad()
        loss.backward()
        loop.sparsifier.observe(loss, position(step))
        loop.optimizer.step()
        loop.sparsifier.step(position(step))


@pytest.mark.parametrize("method", METHODS)
def test_counted_steps_equal_positions(method):
    by_count, by_position = counted(method=method), counted(method=method)
    count(by_count, 12)
    count(by_position, 12, lambda step: Position(step // 4, step % 4, 3, 4))
    pairs = zip(by_count.model.parameters(), by_position.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert by_count.sparsifier.steps == 12


def test_the_count_of_steps_is_part_of_the_state():
    whole, first, second = counted(), counted(), counted()
    count(whole, 12)
    count(first, 5)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.sparsifier.load_state_dict(copy.deepcopy(first.sparsifier.state_dict()))
    count(second, 7)
    pairs = zip(whole.sparsifier.masks(), second.sparsifier.masks(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_more_steps_than_the_training_has_are_an_error():
    loop = counted()
    with pytest.raises(InputError, match=r"epochs=3 and steps_per_epoch=4; count the steps"):
        count(loop, 13)
    assert loop.sparsifier.steps == 12


def test_a_sparsifier_without_a_length_needs_positions():
    with pytest.raises(InputError, match=r"observe: needs a Position, as Sparsifier\(epochs"):
        count(Loop(METHODS["rigl"]), 1)


@pytest.mark.parametrize("method", ["noise", "reinforced", "global"])
def test_observe_that_is_left_out_is_named(method):
    message = refused(Loop(METHODS[method]), without=("observe",))
    assert "observe(loss) was not called for step 0 of epoch 0" in message
    assert "between loss.backward() and optimizer.step()" in message


@pytest.mark.parametrize("method", ["static", "set", "rigl", "gmp"])
def test_methods_that_need_no_loss_train_without_observe(method):
    with_it = Loop(METHODS[method]).go()
    without = Loop(METHODS[method]).go(without=("observe",))
    for one, other in zip(with_it.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_observe_of_another_step_is_named():
    loop = Loop(METHODS["reinforced"]).go(steps=3)
    nn.functional.cross_entropy(loop.model(loop.x), loop.y).backward()
    loop.sparsifier.observe(torch.tensor(1.0), Position(0, 2, 1, STEPS))
    with pytest.raises(InputError, match="was not called for step 3 of epoch 0"):
        loop.sparsifier.step(Position(0, 3, 1, STEPS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda loss: loss.item(), r"loss is \d\.\d+; expected a tensor of one number"),
        (lambda loss: loss.expand(3), r"loss is shape \(3,\); expected a tensor of one number"),
        (lambda loss: None, "loss is None; expected a tensor of one number"),
    ],
)
@pytest.mark.parametrize("method", ["static", "global"])
def test_a_loss_that_is_no_scalar_tensor_is_named(method, given, message):
    with pytest.raises(InputError, match=message):
        Loop(METHODS[method]).go(given=given)


def test_a_loss_with_its_graph_is_as_good():
    plain, detached = Loop(METHODS["global"]), Loop(METHODS["global"])
    plain.go(given=lambda loss: loss[None])
    detached.go(given=lambda loss: loss.detach())
    assert all(map(torch.equal, plain.sparsifier.masks(), detached.sparsifier.masks()))
    state = plain.sparsifier.state_dict()["learner"]["losses"]
    assert not state.requires_grad  # or the graphs of all batches would be kept


@pytest.mark.parametrize("method", ["noise", "reinforced", "global"])
def test_gradients_that_are_not_there_are_named(method):
    message = refused(Loop(METHODS[method]), without=("backward",))
    assert "observe: no pruned weight has a gradient; call it after loss.backward()" in message


@pytest.mark.parametrize("method", ["set", "rigl", "noise", "reinforced", "global"])
def test_gradients_that_are_gone_before_a_redraw_are_named(method):
    message = refused(Loop(METHODS[method]), without=("gradients",))
    assert "step: no pruned weight has a gradient; call it before optimizer.zero_grad()" in message


def test_gmp_needs_no_gradients():
    with_them, without = Loop(METHODS["gmp"]).go(), Loop(METHODS["gmp"]).go(without=("gradients",))
    assert all(map(torch.equal, with_them.sparsifier.masks(), without.sparsifier.masks()))


def test_a_loop_goes_on_from_a_state_after_an_interruption():
    """Between ``observe`` and ``step``, as by a lack of memory."""
    loop = Loop(METHODS["reinforced"]).go(steps=2)
    state = copy.deepcopy(loop.sparsifier.state_dict())
    nn.functional.cross_entropy(loop.model(loop.x), loop.y).backward()
    loop.sparsifier.observe(torch.tensor(1.0), Position(0, 2, 1, STEPS))
    loop.sparsifier.load_state_dict(state)
    loop.go()


def test_paired_rewards_without_the_second_loss_are_named():
    loop = Loop(ReinforcedPruning(credit="global", paired=True))
    assert "paired=True: Sparsifier.step needs loss_again" in refused(loop)


@pytest.mark.parametrize("sparsity", [1, 1.0])
def test_a_network_without_weights_is_refused(sparsity):
    with pytest.raises(InputError, match=r"sparsity=1(\.0)?: expected a number in \[0, 1\)$"):
        Target(sparsity=sparsity)


@pytest.mark.parametrize("often", [True, False], ids=["after each update", "at the end"])
@pytest.mark.parametrize("average", ["swa", "ema"])
def test_averaged_weights_are_as_sparse_as_the_model(average, often):
    loop = Loop(METHODS["gmp"])
    averaging = get_ema_multi_avg_fn(0.9) if average == "ema" else None
    averaged = AveragedModel(loop.model, multi_avg_fn=averaging)
    plain = AveragedModel(loop.model, multi_avg_fn=averaging)

    def after():
        for each in (averaged, plain):
            each.update_parameters(loop.model)
        if often:
            loop.sparsifier.apply_to(averaged)

    loop.go(after=after)
    if not often:
        assert loop.zeros(averaged) == 0.0
        loop.sparsifier.apply_to(averaged)
    assert loop.zeros(averaged) == loop.sparsifier.sparsity()[0] == loop.zeros()
    for one, other, mask in zip(
        (averaged.module[0], averaged.module[2]),
        (plain.module[0], plain.module[2]),
        loop.sparsifier.masks(),
        strict=True,
    ):
        # Masks of GMP only shrink: a weight that is on was never touched.
        assert torch.equal(one.weight, other.weight * mask)
        assert torch.equal(one.bias, other.bias)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ((), "layer '2' has shape (3, 30), and this model has no such layer"),
        (
            (nn.ReLU(), nn.Linear(30, 4)),
            "layer '2' has shape (3, 30), and this model has one of shape (4, 30)",
        ),
    ],
)
def test_a_model_of_another_structure_is_refused_and_left_alone(rest, message):
    model = nn.Sequential(nn.Linear(20, 30), *rest)
    before = model[0].weight.clone()
    with pytest.raises(InputError) as caught:
        Loop(StaticPruning()).sparsifier.apply_to(model)
    assert message in str(caught.value)
    assert torch.equal(model[0].weight, before)


def test_names_are_those_of_the_model_inside_its_wrappers():
    child = nn.ModuleDict({"module": nn.Linear(4, 4), "compiled": torch.compile(nn.Linear(4, 4))})
    for model in (child, AveragedModel(child), nn.DataParallel(torch.compile(child))):
        assert list(Target(sparsity=0.5).kept(model)) == ["module", "compiled"]
