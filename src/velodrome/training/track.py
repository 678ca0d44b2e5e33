"""`vd.track`: a training loop of one's own, recorded, restorable and registered like any other run.

The loop stays yours; the run it belongs to is named by its script, parameters, data, environment and seed. A script that was
killed and is started again finds its run: `restore` puts the newest checkpoint back and says how many steps were done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from velodrome.core.digest import Digest, digest_json
from velodrome.core.errors import ConfigurationError, VelodromeError
from velodrome.core.extras import load
from velodrome.core.logging import bind, logger
from velodrome.data.labels import LabelTask
from velodrome.models.manifest import Manifest, save
from velodrome.registry.code import Captured, capture, capture_source
from velodrome.registry.environment import describe_environment
from velodrome.registry.facts import known_of
from velodrome.registry.provenance import collect_provenance
from velodrome.registry.runs import (
    Outcome,
    Run,
    begin_attempt,
    find_by_key,
    finish,
    outcome_of,
    record_failure,
    resumed,
    start,
)
from velodrome.registry.series import SeriesKind, history_digest, kind_of
from velodrome.registry.series_writer import SeriesReport, SeriesWriter
from velodrome.registry.tags import Tags, check_tags, tag
from velodrome.registry.versions import Version, register
from velodrome.store.ledger import Append, Put, digest_record
from velodrome.store.locks import hold
from velodrome.store.workspace import Workspace
from velodrome.training.checkpoints import Checkpointer, newest_verified

__all__ = ["TrackedRun", "tracked"]

_ACTIVATIONS = {"regression": "identity", "binary": "sigmoid", "multiclass": "softmax"}


class TrackedRun:
    """The run of a loop of one's own. Made by `vd.track`; `module` and `optimizer` are PyTorch's."""

    def __init__(self, ws: Workspace, run: Run, attempt: int) -> None:
        self.id = run.id
        self._ws, self._run, self._attempt = ws, run, attempt
        self._recorder = SeriesWriter(ws, run.id, attempt)
        self._checkpointer = Checkpointer(ws, run.id, attempt, self._recorder.flush)
        self._copy: Any = None
        self._step = 0
        self.artifact: Digest | None = None
        self.version: Version | None = None

    def log(self, step: int, /, **values: float) -> None:
        """Record values of a step (from 1); costs microseconds, survives a kill a fifth of a second later: docs/series.md."""
        self._step = max(self._step, step)
        self._recorder.log(step, **values)

    def checkpoint(self, module: Any, optimizer: Any, step: int | None = None) -> None:
        """Save module, optimiser and torch's random state as they are now; the writing goes on in the background.

        The optimiser's learning rate is part of it, a scheduler's own counter is not: give it `last_epoch` when it is built.

        Raises:
            TrainingError: the module or the optimiser keeps what a checkpoint cannot hold.
        """
        done = self._step if step is None else step
        self._copy = self._copy or self._first_copy(module, optimizer)
        facts = {"run": self.id, "order": None, "memory": {"step": done}}
        self._checkpointer.save(done, lambda: self._copy.taken(facts))

    def restore(self, module: Any, optimizer: Any) -> int:
        """Put the newest checkpoint of this run back, if there is one, and return how many steps it had done (else 0).

        Raises:
            TrainingError: the checkpoint belongs to another module or optimiser.
        """
        found = newest_verified(self._ws, self.id)
        if found is None:
            return 0
        checkpoint, data = found
        tensors, facts = _state().decode_state(data)
        _whole(module, optimizer).restore(tensors, facts, {"order": None})
        resumed(self._ws, self.id, attempt=self._attempt, step=checkpoint.step)
        self._step = checkpoint.step
        return checkpoint.step

    def model(
        self, module: Any, example: Any, *, task: LabelTask = "regression", classes: tuple[Any, ...] = ()
    ) -> Version:
        """Save the module as an artifact and register it as a version named like the run.

        Args:
            example: a batch that its `forward` takes: a tensor (n, k), or tensors (n, ...) by name.
            task: "regression" gives the outputs as they are; "binary" and "multiclass" take them for logits.
            classes: the labels that the outputs stand for.

        Raises:
            ArtifactError: the module cannot be exported; the reason is given.
        """
        exported = load("export:torch").export(module, example, activation=_ACTIVATIONS[task])
        manifest = Manifest(
            family="torch",
            task=task,
            classes=tuple(classes),
            inputs=exported.inputs,
            environment=self._run.environment,
            run=self.id,
            snapshot=self._run.snapshot,
            extra=exported.extra,
        )
        self.artifact = save(self._ws, manifest, exported.files)
        self.version = register(self._ws, model=self._run.name, run=self.id, artifact=self.artifact, report=None)
        return self.version

    def _first_copy(self, module: Any, optimizer: Any) -> Any:
        """Before the first save: a word about parameters that the optimiser was not given."""
        whole = _whole(module, optimizer)
        idle = whole.unmoved()
        if idle:
            logger().warning("run.parameters_not_trained", run=self.id, names=idle[:20])
            self._ws.commit(
                Append(f"run:{self.id}", "run.parameters-not-trained", {"names": idle[:100], "count": len(idle)})
            )
        return _state().StateCopy(whole)

    def _end(self) -> SeriesReport:
        try:
            self._checkpointer.close()
        finally:
            report = self._recorder.close()
        return report


@contextmanager
def tracked(
    ws: Workspace,
    name: str,
    *,
    params: dict[str, Any],
    snapshot: Digest | None = None,
    seed: int = 0,
    tags: Tags | None = None,
    file: Path | None = None,
    cells: tuple[str, ...] = (),
) -> Iterator[TrackedRun]:
    """Record what happens in the block as a run named `name`; see `velodrome.workspace.track`.

    Raises:
        RunHeld: the same script with the same parameters is running now.
        ConfigurationError: parameters that JSON cannot say, or a tag that could not be searched by.
    """
    check_tags(tags or {})
    with ws.writing():
        code = capture(ws, file, file.resolve().parent) if file else capture_source(ws, list(cells))
        environment = describe_environment(("torch",), device="cpu", capability="", threads=0)
        ws.commit(Put(environment))
        key = digest_json(
            {
                "kind": "track",
                "name": name,
                "params": _plain(params),
                "code": code.key,
                "data": snapshot,
                "environment": digest_record(environment),
                "seed": seed,
            }
        )
        with hold(ws.lock(f"run-{key}"), ws.holder):
            run = _run(ws, name, key, code, digest_record(environment), params, snapshot, seed, file)
            with bind(run=run.id):
                if tags:
                    tag(ws, run.id, tags)
                yield from _recorded(ws, run)


def _recorded(ws: Workspace, run: Run) -> Iterator[TrackedRun]:
    begun = ws.clock.monotonic()
    tracked_run = TrackedRun(ws, run, begin_attempt(ws, run.id))
    try:
        yield tracked_run
    except Exception as error:
        try:
            tracked_run._end()
        except VelodromeError as second:
            error.add_note(f"and its end could not be saved: {second.problem}")
        record_failure(ws, run.id, error)
        raise
    tracked_run._end().require_whole()
    seconds = ws.clock.monotonic() - begun
    history = history_digest(ws, run.id)
    finish(
        ws,
        run.id,
        Outcome(
            run=run.id,
            artifact=tracked_run.artifact,
            steps=tracked_run._step,
            planned_steps=tracked_run._step,
            seconds=seconds,
            history=history,
        ),
        metrics=_figures(ws, run.id),
    )


def _figures(ws: Workspace, run_id: str) -> dict[str, float]:
    """The last value of each series but the timings: what a loop that nobody judges is searched by."""
    known = known_of(ws, run_id, "series").items()
    last = {key.removesuffix(".last"): float(value) for key, value in known if key.endswith(".last")}
    return {name: value for name, value in last.items() if kind_of(name) is SeriesKind.VALUE}


def _run(
    ws: Workspace,
    name: str,
    key: Digest,
    code: Captured,
    environment: Digest,
    params: dict[str, Any],
    snapshot: Digest | None,
    seed: int,
    file: Path | None,
) -> Run:
    """The unfinished run of that key, or a new one."""
    found = find_by_key(ws, key)
    if found and outcome_of(ws, found.id) is None:
        return found
    provenance = collect_provenance(ws, file.resolve().parent if file else ws.root)
    ws.commit(Put(provenance))
    run = Run(
        id=ws.new_id(),
        name=name,
        key=key,
        type="track",
        snapshot=snapshot,
        code=code.code,
        environment=environment,
        provenance=digest_record(provenance),
        recipe=_plain(params),
        seed=seed,
        entry=file.name if file else "",
    )
    return start(ws, run)


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(params))
    except (TypeError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f"parameters are numbers, texts, lists and dicts: {error}", received=repr(params)
        ) from error
    return plain


def _state() -> ModuleType:
    return load("state:torch")


def _whole(module: Any, optimizer: Any) -> Any:
    return _state().State(module, load("optimizers:torch").TorchStepper(optimizer))
