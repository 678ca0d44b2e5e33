"""What a recipe may ask of a training, each in a real run: beside the same run without it, or a loop by hand."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from digits import Digits, Network, network, pictures, with_dropout

import velodrome as vd
from velodrome.control.training import train
from velodrome.core.errors import Diverged, OutOfMemory, TrainingError
from velodrome.registry.search import list_runs
from velodrome.store.ledger import Append, Put, digest_record
from velodrome.training import torch_learner
from velodrome.training.checkpoints import checkpoints_of

LARGE = 1 << 60
"""Bytes that no machine has."""


@pytest.fixture
def digits(tmp_path: Path) -> Iterator[Digits]:
    made = Digits(tmp_path)
    yield made
    made.ws.close()


# -------------------------------------------------------------------------------------------------------- how it computes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of torch
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler; there is no g++ here")
def test_a_compiled_network_learns_what_the_plain_one_does(digits: Digits) -> None:
    whole = {"batch": 5000, "epochs": 3}  # each size of a batch would be compiled anew
    plain, compiled = digits.train(**whole), digits.train(**whole, compile=True)
    assert list(compiled.losses) == list(plain.losses) == [1, 2, 3]
    assert list(compiled.losses.values()) == pytest.approx(list(plain.losses.values()), rel=1e-3)
    assert compiled.validation[3] == pytest.approx(plain.validation[3], rel=1e-3)


def test_channels_last_changes_where_weights_lie_and_not_what_is_learned(digits: Digits) -> None:
    seen: list[torch.nn.Module] = []

    def kept(inputs: list[dict[str, Any]]) -> torch.nn.Module:
        seen.append(pictures(inputs))
        return seen[-1]

    plain, last = digits.train(kept), digits.train(kept, channels_last=True)
    layouts = [module.second.weight.is_contiguous(memory_format=torch.channels_last) for module in seen]  # type: ignore[union-attr]
    assert layouts == [False, True]
    assert list(last.losses.values()) == pytest.approx(list(plain.losses.values()), rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_leaves_the_weights_whole(digits: Digits, precision: str) -> None:
    types: set[torch.dtype] = set()

    def step(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        output = module(**inputs)
        types.update((output.dtype, next(module.parameters()).dtype))
        return torch.nn.functional.cross_entropy(output.float(), target)

    plain, half = digits.train(), digits.train(step=step, precision=precision)
    assert types == {torch.float32, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert half.weights != plain.weights
    assert half.validation[12] == pytest.approx(plain.validation[12], rel=0.05)


def test_a_run_rolls_back_ten_times_and_then_it_has_diverged(digits: Digits) -> None:
    def step(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(module(**inputs), target)
        return loss * float("nan") if module.training else loss

    with pytest.raises(Diverged, match=r"step 11 has a loss .* after 10 others") as caught:
        digits.train(step=step, on_divergence="roll back")
    assert type(caught.value) is Diverged
    assert "gradient norm nan" in str(caught.value.received)


def test_a_loss_of_no_number_of_rows_is_a_mean_in_steps_and_evaluations(digits: Digits) -> None:
    def told(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        return torch.nn.functional.cross_entropy(module(**inputs), target), None

    def plain(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> Any:
        return told(module, inputs, target)[0]

    one, other = digits.train(step=told), digits.train(step=plain)
    assert (one.weights, one.validation) == (other.weights, other.validation)


def test_deterministic_refuses_what_torch_cannot_repeat_and_only_during_the_run(digits: Digits) -> None:
    def step(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        output = module(**inputs)
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
        return torch.nn.functional.cross_entropy(output, target)

    digits.train(step=step, epochs=1)
    with pytest.raises(TrainingError, match="deterministic implementation"):
        digits.train(step=step, epochs=1, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


# ------------------------------------------------------------------------------------------------------- what it learns from


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"augment": (vd.GaussianNoise(), vd.MaskFields())},
        {"curriculum": vd.Curriculum(by="p5", start=0.3, steps=8)},
    ],
    ids=["augmented", "easiest first"],
)
def test_the_bits_are_the_same_whatever_the_workers(digits: Digits, settings: dict[str, Any]) -> None:
    courses = [digits.train(with_dropout, workers=workers, **settings) for workers in (0, 1, 3)]
    assert len({course.weights for course in courses}) == 1
    assert len({course.trained.outcome.samples for course in courses}) == 1
    assert digits.train(with_dropout).weights != courses[0].weights
    assert digits.train(with_dropout, seed=1, **settings).weights != courses[0].weights


def test_a_batch_larger_than_the_data_is_one_step_an_epoch(digits: Digits) -> None:
    assert list(digits.train(batch=5000).losses) == [1, 2]


@pytest.mark.parametrize(
    ("when", "saved"),
    [
        (vd.Checkpoints(every=1), 12),
        (vd.Checkpoints(every=5), 4),
        (vd.Checkpoints(lose_at_most="1h"), 2),
        (vd.Checkpoints(lose_at_most="0s"), 12),
        (vd.Checkpoints(failures_every="1000d"), 3),  # one at once, which measures what a save costs
        (vd.Checkpoints(failures_every="auto"), 2),
    ],
    ids=str,
)
def test_when_checkpoints_are_saved_never_changes_what_is_trained(
    digits: Digits, when: vd.Checkpoints, saved: int
) -> None:
    """Beside the end of each of the two epochs of six steps."""
    course = digits.train(with_dropout, checkpoints=when)
    events = digits.ws.ledger.events(f"checkpoints:{course.trained.run.id}")
    assert sum(event.type == "checkpoint.saved" for event in events) == saved
    assert course.weights == digits.train(with_dropout).weights


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_memory_that_runs_out_is_an_event_of_the_run_and_changes_nothing_else(digits: Digits) -> None:
    def greedy(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        if len(target) > 10 and module.training:
            torch.empty(LARGE)
        return torch.nn.functional.cross_entropy(module(**inputs), target)

    short, planned = digits.train(step=greedy), digits.train(step=greedy, micro_batch=8)
    assert short.told("run.micro-batch-halved") == [{"step": 1, "rows": 16}, {"step": 1, "rows": 8}]
    assert planned.told("run.micro-batch-halved") == []
    assert short.weights == planned.weights
    whole = digits.train()
    assert list(short.losses.values()) == pytest.approx(list(whole.losses.values()), rel=1e-4)


class NowhereToGo(Network):
    """A network that an accelerator has no room for."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity of 1 MiB")


def nowhere_to_go(inputs: list[dict[str, Any]]) -> torch.nn.Module:
    return NowhereToGo()


def test_memory_that_does_not_suffice_before_the_first_step_is_named(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for the weights, nor for what an optimiser keeps of each."""
    with pytest.raises(OutOfMemory, match="for the network, its optimiser and its average") as caught:
        digits.train(nowhere_to_go)
    assert caught.value.received == "CUDA out of memory. Tried to allocate 20.00 MiB."
    monkeypatch.setattr(torch_learner, "make_stepper", lambda *_: torch.empty(LARGE))
    with pytest.raises(OutOfMemory, match="for the network, its optimiser and its average"):
        digits.train()


def test_memory_that_runs_out_in_an_evaluation_takes_fewer_rows_at_once(digits: Digits) -> None:
    def greedy(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        if len(target) > 20 and not module.training:
            torch.empty(LARGE)
        return torch.nn.functional.cross_entropy(module(**inputs), target)

    short = digits.train(step=greedy)
    told = [each["rows"] for each in short.told("run.evaluation-halved")]
    assert told[-1] <= 20 < told[-2]
    assert list(short.validation.values()) == pytest.approx(list(digits.train().validation.values()), rel=1e-5)

    def hopeless(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        if not module.training:
            torch.empty(LARGE)
        return torch.nn.functional.cross_entropy(module(**inputs), target)

    with pytest.raises(OutOfMemory, match="evaluate one row"):
        digits.train(step=hopeless)


def test_parameters_that_nothing_moves_or_reaches_are_told_by_name(digits: Digits) -> None:
    def build(inputs: list[dict[str, Any]]) -> torch.nn.Module:
        module = network(inputs)
        module.idle = torch.nn.Linear(2, 2)
        module.layers[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
        return module

    course = digits.train(build)
    assert course.told("run.parameters-not-trained") == [{"names": ["layers.0.weight"], "count": 1}]
    (told,) = course.told("run.parameters-without-gradient")
    assert told == {"steps": 3, "names": ["idle.weight", "idle.bias"], "count": 2}
    assert digits.train().told("run.parameters-without-gradient") == []


def _wider(inputs: list[dict[str, Any]]) -> torch.nn.Module:
    module = Network()
    module.layers = torch.nn.Sequential(torch.nn.Linear(16, 20), torch.nn.Linear(20, 10))
    return module


class _Precise(Network):
    def forward(self, **pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(**{name: pixel.double() for name, pixel in pixels.items()}).float()


def _precise(inputs: list[dict[str, Any]]) -> torch.nn.Module:
    return _Precise().double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"build": _wider}, r"model/layers\.0\.weight \(\(20, 16\) for \(16, 16\)\)"),
        ({"build": _precise}, r"model/layers\.0\.bias \(torch\.float64 for torch\.float32\)"),
        ({"optimizer": vd.SGD(lr=0.01)}, r"optimizer/0/exp_avg \(missing\)"),
        ({"ema": vd.EMA()}, r"ema/0 \(unknown here\)"),
        ({"seed": 1}, r"order \(of other rows, batches or seed\)"),
        ({"format": 3}, "in a format that this version does not read"),
    ],
    ids=["model", "precision", "optimiser", "average", "rows", "version"],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(digits: Digits, other: dict[str, Any], named: str) -> None:
    """The newest checkpoint of an unfinished run is exchanged for one of another run."""
    broken = True

    def step(module: torch.nn.Module, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        if broken and not module.training:
            raise KeyError("not yet")
        return torch.nn.functional.cross_entropy(module(**inputs), target)

    declared = digits.declared(step=step, checkpoints=vd.Checkpoints(every=2))
    with pytest.raises(TrainingError, match="not yet"):
        train(digits.ws, declared)
    (run,) = list_runs(digits.ws)
    newest = checkpoints_of(digits.ws, run.id)[-1]
    broken = False
    version = other.get("format")
    donor = digits.train(**({} if version else other))
    blob = checkpoints_of(digits.ws, donor.trained.run.id)[-1].blob
    if version:
        data = digits.ws.blobs.read(newest.blob)
        blob = digits.ws.blobs.put(data.replace(b'\\"format\\":2', b'\\"format\\":%d' % version)).digest
    foreign = msgspec.structs.replace(newest, step=newest.step + 1, blob=blob)
    body = {"step": foreign.step, "checkpoint": digest_record(foreign)}
    digits.ws.commit(Put(foreign, run.id), Append(f"checkpoints:{run.id}", "checkpoint.saved", body))
    with pytest.raises(TrainingError, match=named) as caught:
        train(digits.ws, declared)
    assert "--fresh" in str(caught.value)
    digits.ws.commit(Append(f"checkpoints:{run.id}", "checkpoint.dropped", body))
    assert train(digits.ws, declared).outcome.weights == digits.train(step=step).weights
