from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from velodrome.core.clock import SystemClock
from velodrome.core.errors import Diverged, IntegrityError, OutOfMemory, Preempted, StorageError, TrainingError
from velodrome.core.progress import Silent
from velodrome.data.order import EpochOrder
from velodrome.data.torch import TensorBatches
from velodrome.training.accounting import Stopwatch
from velodrome.training.learners import EMA, AdamW
from velodrome.training.loop import Memory, Plan, Trainer
from velodrome.training.samples import SampleLedger, check_samples
from velodrome.training.torch_optimizers import Average, Stepper, TorchStepper, make_stepper
from velodrome.training.torch_state import State, StateCopy, decode_state, digest_weights
from velodrome.training.torch_step import Objective, Scaler
from velodrome.training.work import RollBack

ROWS, WIDTH = 200, 6


class Network(torch.nn.Module):
    """Dropout makes the random state count, the tied weight the alias map, the unused layer the missing gradient."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.second = torch.nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.dropout = torch.nn.Dropout(dropout)
        self.last = torch.nn.Linear(WIDTH, 1)
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(torch.relu(self.second(torch.relu(self.first(x))))))[:, 0]


class Histories:
    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}

    def log(self, step: int, /, **values: float) -> None:
        for name, value in values.items():
            self.values.setdefault(name, {})[step] = value


class Trial:
    """One training, stopped and gone on with as often as a test likes. It saves after each step that `saves` holds for."""

    def __init__(
        self,
        plan: Plan,
        poison: int | None = None,
        *,
        saves: Callable[[int], bool] = lambda step: False,
        dropout: float = 0.3,
        ema: EMA | None = None,
        **of_objective: Any,
    ) -> None:
        torch.manual_seed(1)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
        y = (x @ rng.normal(size=WIDTH)).astype(np.float32)
        if poison is not None:
            x[poison] = np.nan
        self.plan, self.module, self.histories = plan, Network(dropout), Histories()
        self.order = EpochOrder(ROWS, 32, seed=3)
        self.batches = TensorBatches({"x": x}, self.order, target=y)
        self.scores: Iterator[float] = iter(())
        self.stepper: Stepper = make_stepper(AdamW(lr=0.01), self.module)
        self.average = Average(ema, self.stepper.parameters) if ema else None
        self.saves, self.of_objective = saves, of_objective
        self.saved: dict[int, tuple[Memory, bytes]] = {}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.leave_after: int | None = None
        self.loss_of: Any = lambda inputs, target: torch.nn.functional.mse_loss(self.module(**inputs), target)

    def due(self, step: int, now: float) -> bool:
        return self.saves(step)

    def save(self, memory: Memory) -> None:
        facts = {"memory": msgspec.to_builtins(memory), "order": "o"}
        self.saved[memory.step] = (memory, bytes(StateCopy(self.state).taken(facts)()))

    def wait(self) -> None:
        pass

    @property
    def state(self) -> State:
        return State(self.module, self.stepper, self.average)

    def restore(self, saved: bytes) -> Memory:
        tensors, facts = decode_state(saved)
        self.state.restore(tensors, facts, {"order": "o"})
        return msgspec.convert(facts["memory"], Memory)

    def run(self, memory: Memory | None = None) -> Memory:
        memory = memory or Memory()
        watch = Stopwatch(SystemClock().monotonic)
        self.objective = Objective(
            self.loss_of,
            self.stepper.parameters,
            seed=7,
            watch=watch,
            halved=lambda step, rows: self.told.append(("halved", {"step": step, "rows": rows})),
            **({"micro_batch": memory.micro_batch or None} | self.of_objective),
        )
        with Silent().task("train") as task:
            trainer = Trainer(
                plan=self.plan,
                module=self.module,
                objective=self.objective,
                stepper=self.stepper,
                batches=self.batches,
                evaluate=lambda: next(self.scores),
                recorder=self.histories,
                samples=SampleLedger(self.histories, memory.chain),
                saver=self,
                watch=watch,
                task=task,
                average=self.average,
                asked_to_leave=lambda: (
                    self.leave_after is not None and self.leave_after <= len(self.histories.values["loss"])
                ),
                tell=lambda type_, body: self.told.append((type_, body)),
            )
            return trainer.train(memory)


def _plan(**fields: Any) -> Plan:
    return Plan(**({"stop_at": 20, "lr": lambda step: 0.01 / (1 + step)} | fields))


@pytest.mark.parametrize(
    "clips",
    [{}, {"clip": 0.3}, {"clip_value": 0.05}, {"clip": 0.3, "clip_value": 0.05}],
    ids=["", "norm", "value", "both"],
)
def test_it_equals_the_loop_by_hand(clips: dict[str, float]) -> None:
    ours, by_hand = (Trial(_plan(**clips), dropout=0.0) for _ in range(2))
    ours.run()
    assert ours.histories.values["gradient_norm"][1] > 0.3
    optimizer = torch.optim.AdamW(by_hand.module.parameters(), lr=0.01, weight_decay=0.01, fused=True)
    by_hand.module.train()
    for step, (_, inputs, target) in zip(range(20), by_hand.batches.batches_from(0), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(by_hand.module(**inputs), target).backward()
        norm = torch.nn.utils.clip_grad_norm_(by_hand.module.parameters(), clips.get("clip", float("inf")))
        torch.nn.utils.clip_grad_value_(by_hand.module.parameters(), clips.get("clip_value", float("inf")))
        optimizer.step()
        assert ours.histories.values["gradient_norm"][step + 1] == pytest.approx(norm.item(), rel=1e-5)
    for mine, theirs in zip(ours.module.parameters(), by_hand.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 13])
@pytest.mark.parametrize("kind", ["plain", "everything"])
def test_gone_on_from_a_checkpoint_it_ends_with_the_same_bits(stop: int, kind: str) -> None:
    more: dict[str, Any] = {}
    if kind == "everything":
        more = {"ema": EMA(decay=0.9), "micro_batch": 11, "autocast": torch.bfloat16}
    whole, first, second = (Trial(_plan(), saves=lambda step: True, **more) for _ in range(3))
    whole.run()
    first.run()
    torch.manual_seed(99)
    memory = second.restore(first.saved[stop][1])
    end = second.run(memory)
    assert memory.step == stop
    assert end.chain == whole.saved[20][0].chain
    assert digest_weights(second.module) == digest_weights(whole.module)
    assert second.saved[20][1] == whole.saved[20][1]
    late = {step: value for step, value in whole.histories.values["loss"].items() if step > stop}
    assert second.histories.values["loss"] == late


@pytest.mark.parametrize("rows", [32, 8, 7, 5, 1])
def test_accumulation_equals_the_whole_batch(rows: int) -> None:
    assert (
        relative_difference(
            gradient(Trial(_plan(), dropout=0.0)), gradient(Trial(_plan(), dropout=0.0, micro_batch=rows))
        )
        < 1e-6
    )


def test_accumulation_of_sums_equals_the_whole_batch() -> None:
    """The mean is over what counts in the whole batch, not over means of parts."""
    trials = [Trial(_plan(), dropout=0.0), *(Trial(_plan(), dropout=0.0, micro_batch=rows) for rows in (8, 7, 5, 1))]
    for trial in trials:
        trial.loss_of = summed(trial)
    whole, *parts = (gradient(trial) for trial in trials)
    assert [relative_difference(whole, part) < 1e-6 for part in parts] == [True] * 4


def test_memory_that_runs_out_halves_the_micro_batch_within_the_step() -> None:
    calm, short = Trial(_plan(), dropout=0.0), Trial(_plan(), dropout=0.0)
    loss_of = short.loss_of

    def greedy(inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        if len(target) > 10:
            torch.empty(1 << 60)  # which no machine has
        return loss_of(inputs, target)

    short.loss_of = greedy
    assert relative_difference(gradient(calm), gradient(short)) < 1e-6
    assert short.told == [("halved", {"step": 1, "rows": 16}), ("halved", {"step": 1, "rows": 8})]
    assert short.objective.micro_batch == 8


def summed(trial: Trial) -> Any:
    """Targets of various lengths: the sum of the losses of those that count, and how many they are."""

    def loss_of(inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        counts = (target > 0).float()
        return ((trial.module(**inputs) - target) ** 2 * counts).sum(), counts.sum()

    return loss_of


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("CUDA error: out of memory")])
@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("loss", ["mean", "sum and count"])
@pytest.mark.parametrize("rows", [None, 20, 7])
def test_memory_that_runs_out_in_the_middle_of_a_step_changes_no_gradient(
    error: RuntimeError, when: str, loss: str, rows: int | None
) -> None:
    """At the last micro-batch, when gradients of others are there already, and then for whatever is above three rows."""
    calm, short = Trial(_plan(), dropout=0.0), Trial(_plan(), dropout=0.0, micro_batch=rows)
    if loss != "mean":
        calm.loss_of, short.loss_of = summed(calm), summed(short)
    inner, seen = short.loss_of, [0]

    def fail(gradient: torch.Tensor | None = None) -> None:
        raise error

    def greedy(inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        seen[0] += len(target)
        short_of = seen[0] >= 32 and len(target) > 3
        if short_of and when == "forward":
            fail()
        output = inner(inputs, target)
        if short_of:
            (output[0] if isinstance(output, tuple) else output).register_hook(fail)
        return output

    short.loss_of = greedy
    assert relative_difference(gradient(calm), gradient(short)) < 1e-6
    assert short.objective.micro_batch is not None
    assert short.objective.micro_batch <= 3
    assert {type_ for type_, _ in short.told} == {"halved"}


def test_a_batch_in_which_nothing_counts_moves_nothing() -> None:
    for rows in (None, 5):
        trial = Trial(_plan(stop_at=1), dropout=0.0, micro_batch=rows)
        trial.loss_of = lambda inputs, target, trial=trial: ((trial.module(**inputs) * 0).sum(), torch.tensor(0.0))
        trial.run()
        assert trial.histories.values["loss"] == {1: 0.0}
        assert trial.histories.values["gradient_norm"] == {1: 0.0}


def test_asked_to_leave_in_the_last_step_it_leaves_too() -> None:
    """What comes after a training may take as long as the training."""
    trial = Trial(_plan())
    trial.leave_after = 20
    with pytest.raises(Preempted, match="after step 20 is saved"):
        trial.run()
    again = Trial(_plan())
    assert again.run(again.restore(trial.saved[20][1])).step == 20


def test_the_failure_of_a_save_is_raised_by_the_next_step() -> None:
    trial = Trial(_plan())

    def due(step: int, now: float) -> bool:
        if step == 5:
            raise StorageError("no space left")
        return False

    trial.due = due  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="no space left"):
        trial.run()
    assert list(trial.histories.values["loss"]) == [1, 2, 3, 4, 5]


def test_memory_that_does_not_suffice_for_one_row_is_named() -> None:
    trial = Trial(_plan())
    trial.loss_of = lambda inputs, target: torch.empty(1 << 60)
    with pytest.raises(OutOfMemory, match="one row at step 1"):
        trial.run()


def gradient(trial: Trial) -> torch.Tensor:
    """The gradient of the first step."""
    trial.plan = msgspec.structs.replace(trial.plan, stop_at=1, lr=lambda step: 0.0)
    trial.run()
    return torch.cat([p.grad.flatten().double() for p in trial.module.parameters() if p.grad is not None])


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


def test_asked_to_leave_it_saves_and_leaves() -> None:
    trial = Trial(_plan())
    trial.leave_after = 5
    with pytest.raises(Preempted, match="after step 5 is saved"):
        trial.run()
    whole = Trial(_plan(), saves=lambda step: True)
    whole.run()
    trial.leave_after = None
    assert trial.run(trial.saved[5][0]).chain == whole.saved[20][0].chain
    assert digest_weights(trial.module) == digest_weights(whole.module)


@pytest.mark.parametrize("what", ["skip", "roll back"])
def test_a_batch_that_diverges_is_passed_over_by_policy(what: Any) -> None:
    trial = Trial(_plan(stop_at=7, on_divergence=what), poison=17)
    if what == "roll back":
        with pytest.raises(RollBack) as caught:
            trial.run()
        trial = Trial(_plan(stop_at=7, on_divergence=what), poison=17)
        trial.run(Memory(passed_over=(caught.value.step,)))
    else:
        trial.run()
        ((type_, body),) = [each for each in trial.told if each[0] != "run.parameters-without-gradient"]
        assert (type_, body["then"]) == ("run.diverged", "skip")
        assert 17 in body["rows"]
        assert body["not_finite"] == [17]
    assert all(torch.isfinite(parameter).all() for parameter in trial.module.parameters())
    assert [step for step, lr in trial.histories.values["lr"].items() if np.isnan(lr)] == [
        next(step + 1 for step in range(7) if 17 in trial.order.ids_of(step))
    ]


def test_float16_that_overflows_halves_the_scale_and_leaves_the_weights_alone() -> None:
    trial = Trial(_plan(), saves=lambda step: True, scaler=Scaler(active=True, scale=2.0**30), autocast=torch.float16)
    trial.run()
    rates = trial.histories.values["lr"]
    overflowed = [step for step, lr in rates.items() if np.isnan(lr)]
    assert 0 < len(overflowed) < 20
    for step, (memory, state) in trial.saved.items():
        before = trial.saved[step - 1] if step > 1 else (Memory(scale=2.0**30), None)
        assert memory.scale is not None
        assert before[0].scale is not None
        assert memory.scale == before[0].scale / (2 if step in overflowed else 1)
        if before[1]:
            assert (_moved(state) == _moved(before[1])) == (step in overflowed)


def test_a_loss_that_no_scale_makes_finite_is_no_overflow() -> None:
    """It is the rows', and told as in any other precision."""
    trial = Trial(_plan(), poison=17, scaler=Scaler(active=True), autocast=torch.float16)
    with pytest.raises(Diverged, match="has a loss or gradient that is not finite") as caught:
        trial.run()
    step = next(step for step in range(40) if 17 in trial.order.ids_of(step))
    assert f"step {step + 1} " in caught.value.problem
    assert f"samples RUN --step {step + 1}" in str(caught.value.remedy)


def _moved(saved: bytes) -> dict[str, bytes]:
    """The bits of weights and optimiser state."""
    tensors, _ = decode_state(saved)
    return {
        name: tensor.contiguous().numpy().tobytes()
        for name, tensor in tensors.items()
        if name.startswith(("model/", "optimizer/"))
    }


@pytest.mark.parametrize("what", ["stop", "skip", "roll back"])
def test_what_is_not_finite_never_changes_a_bit_of_the_weights(what: Any) -> None:
    trial = Trial(_plan(stop_at=7, on_divergence=what), poison=17, saves=lambda step: True)
    at = next(step for step in range(7) if 17 in trial.order.ids_of(step))
    assert at > 0
    with suppress(Diverged):
        trial.run()
    after = trial.saved[at + 1][1] if what == "skip" else bytes(StateCopy(trial.state).taken({})())
    assert _moved(after) == _moved(trial.saved[at][1])


def test_the_average_is_what_is_evaluated_and_the_weights_go_on() -> None:
    trial, plain = Trial(_plan(evaluate_every=10), ema=EMA(decay=0.9)), Trial(_plan())
    seen: list[float] = []
    trial.scores = (seen.append(trial.module.last.bias.item()) or 1.0 for _ in range(9))
    trial.run()
    plain.run()
    assert digest_weights(trial.module) == digest_weights(plain.module)
    assert len(seen) == 2
    assert seen[1] != trial.module.last.bias.item()
    assert trial.average is not None
    trial.average.settle()
    assert seen[1] == trial.module.last.bias.item()


SCORES = st.lists(st.integers(0, 12).map(lambda number: number / 4), min_size=1, max_size=25)


@given(SCORES, st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.6]))
@settings(max_examples=40)
def test_a_plateau_lowers_the_rate_as_torch_does(scores: list[float], patience: int, change: float) -> None:
    """PyTorch's patience is how many evaluations are borne, ours is the one that is not."""
    trial = Trial(
        _plan(stop_at=len(scores) + 1, evaluate_every=1, plateau=(0.5, patience, change), lr=lambda step: 0.01)
    )
    trial.scores = iter([*scores, 0.0])
    trial.run()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=patience - 1, threshold=change, threshold_mode="abs", eps=0.0
    )
    for step, score in enumerate(scores, 1):
        theirs.step(score)
        assert trial.histories.values["lr"][step + 1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@given(SCORES, st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.6]), st.sampled_from([0.0, 0.5]))
@settings(max_examples=40)
def test_it_stops_where_a_look_at_all_losses_says_so(
    scores: list[float], patience: int, change: float, smoothing: float
) -> None:
    trial = Trial(
        _plan(stop_at=len(scores), evaluate_every=1, patience=patience, minimum_change=change, smoothing=smoothing)
    )
    trial.scores = iter(scores)
    memory = trial.run()
    smoothed = [
        scores[0] * smoothing**last
        + sum((1 - smoothing) * scores[each] * smoothing ** (last - each) for each in range(1, last + 1))
        for last in range(len(scores))
    ]
    best, end = 0, len(scores)
    for step in range(1, len(scores)):
        if smoothed[step] < smoothed[best] - change:
            best = step
        if step - best >= patience:
            end = step + 1
            break
    assert (memory.step, memory.best_step, memory.best) == (end, best + 1, pytest.approx(smoothed[best]))
    assert memory.stopped == (end - 1 - best >= patience)


def test_a_parameter_that_no_loss_leads_to_is_told_once() -> None:
    trial = Trial(_plan())
    trial.run()
    names = ["unused.weight", "unused.bias"]
    assert trial.told == [("run.parameters-without-gradient", {"steps": 3, "names": names, "count": 2})]


@pytest.mark.parametrize("at", [2, 12])
def test_a_parameter_that_is_added_on_the_way_is_named(at: int) -> None:
    trial = Trial(_plan())
    loss_of = trial.loss_of

    def grows(inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        if len(trial.histories.values.get("loss", ())) == at:
            trial.module.late = torch.nn.Linear(1, 1)
        return loss_of(inputs, target)

    trial.loss_of = grows
    with pytest.raises(TrainingError, match=r"late\.bias \(added\), late\.weight \(added\)"):
        trial.run()
    assert trial.saved == {}


def test_a_parameter_that_shrinks_is_named_before_the_optimiser_reads_beyond_it() -> None:
    trial = Trial(_plan())

    def shrinks(inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        if len(trial.histories.values.get("loss", ())) == 5:
            trial.module.last.weight.data = torch.randn(1, 3)
        width = trial.module.last.weight.shape[1]
        return torch.nn.functional.mse_loss((inputs["x"][:, :width] @ trial.module.last.weight.t())[:, 0], target)

    trial.loss_of = shrinks
    with pytest.raises(TrainingError, match=r"last\.weight \(of shape \(1, 3\) instead of \(1, 6\)\)"):
        trial.run()


def test_the_chain_tells_each_change() -> None:
    chains = set()
    for change in ("none", "lr", "rows", "seed"):
        trial = Trial(_plan(lr=(lambda step: 0.02) if change == "lr" else (lambda step: 0.01)))
        if change == "rows":
            trial.batches._order = EpochOrder(ROWS, 32, seed=4)
        trial.of_objective = {} if change != "seed" else {"micro_batch": 16}
        chains.add(trial.run().chain)
    assert len(chains) == 4


def test_the_samples_are_checked_from_the_recorded_series_alone() -> None:
    trial = Trial(_plan())
    trial.run()
    series = trial.histories.values
    check_samples(trial.order.batches_from(0), series, 20)
    series["loss"][9] += 1e-9
    with pytest.raises(IntegrityError, match="step 9"):
        check_samples(trial.order.batches_from(0), series, 20)
    series["loss"][9] -= 1e-9
    with pytest.raises(IntegrityError, match="step 1 "):
        check_samples(EpochOrder(ROWS, 32, seed=4).batches_from(0), series, 20)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda output: None, "a tensor of one number"),
        (lambda output: output, "a tensor of one number"),
        (lambda output: output.mean().detach(), "no gradient"),
        (lambda output: output.mean().item(), "a tensor of one number"),
    ],
    ids=["nothing", "for each row", "detached", "a float"],
)
def test_a_step_without_a_loss_is_named(loss: Any, words: str) -> None:
    trial = Trial(_plan())
    trial.loss_of = lambda inputs, target: loss(trial.module(**inputs))
    with pytest.raises(TrainingError, match=words):
        trial.run()


def test_a_row_that_is_not_finite_never_reaches_the_weights() -> None:
    trial = Trial(_plan(), poison=17)
    with pytest.raises(Diverged, match="not finite") as caught:
        trial.run()
    step = len(trial.histories.values.get("loss", {}))
    assert 17 in trial.order.ids_of(step)
    assert f"step {step + 1}" in str(caught.value)
    assert "NaN or infinity in rows 17" in str(caught.value)
    assert all(torch.isfinite(parameter).all() for parameter in trial.module.parameters())


def test_where_all_rows_are_finite_those_of_the_step_are_named() -> None:
    trial = Trial(_plan(lr=lambda step: 1e30))
    with pytest.raises(Diverged, match=r"rows \d+, \d+, \d+, \d+, \d+, \.\.\., all of them finite"):
        trial.run()


def test_a_loss_that_reaches_no_parameter_is_named() -> None:
    trial = Trial(_plan())
    trial.stepper = TorchStepper(torch.optim.SGD(trial.module.unused.parameters(), lr=0.1))
    with pytest.raises(TrainingError, match="no parameter that the optimiser moves has a gradient"):
        trial.run()


def test_a_sparse_gradient_is_named() -> None:
    trial = Trial(_plan())
    table = torch.nn.Embedding(4, 1, sparse=True)
    trial.module.unused = table
    trial.module.forward = lambda x: table(torch.zeros(len(x), dtype=torch.int64))[:, 0]
    trial.stepper = TorchStepper(torch.optim.SGD(table.parameters(), lr=0.1))
    with pytest.raises(TrainingError, match=r"gradient of 'unused\.weight' is sparse"):
        trial.run()


def test_it_stops_when_the_validation_loss_no_longer_falls_and_remembers_the_best() -> None:
    trial = Trial(_plan(stop_at=100, evaluate_every=7, patience=2, minimum_change=0.1))
    trial.scores = iter([3.0, 2.0, 1.95, 1.94])
    memory = trial.run()
    assert (memory.stopped, memory.step, memory.best_step, memory.best) == (True, 28, 14, 2.0)
    assert sorted(trial.saved) == [7, 14, 21, 28]
    assert trial.run(memory) == memory


def test_a_validation_loss_that_is_not_finite_is_named() -> None:
    trial = Trial(_plan(evaluate_every=7))
    trial.scores = iter([float("nan")])
    with pytest.raises(Diverged, match="validation loss after step 7"):
        trial.run()


def test_every_row_is_seen_once_in_an_epoch() -> None:
    trial = Trial(_plan(stop_at=7))
    seen = [ids for (ids, _, _), _ in zip(trial.batches.batches_from(0), range(7), strict=False)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(ROWS))
