"""Naming a run before it happens: snapshot, code, environment, recipe and seed, and the digest of all of them, the run key."""

from dataclasses import dataclass, field
from pathlib import Path

from velodrome.control.loading import project_root
from velodrome.core.digest import Digest, digest_json
from velodrome.core.extras import load
from velodrome.core.values import describe
from velodrome.data.own_snapshots import OwnTaken, take_own
from velodrome.data.snapshots import Taken, take_snapshot
from velodrome.data.sources import Own
from velodrome.data.training_set import Ingredients
from velodrome.recipe import Recipe
from velodrome.registry.code import Captured, capture, capture_source
from velodrome.registry.environment import Environment, describe_environment
from velodrome.registry.tags import Tags, check_tags
from velodrome.store.ledger import Put, digest_record
from velodrome.store.workspace import Workspace
from velodrome.training.learners import Torch, learner_kind

__all__ = ["Declared", "Source", "declare", "source_of"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a recipe was declared: a file of a project, or the cells of a notebook."""

    root: Path
    file: Path | None = None
    cells: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """The path of the file below the root, as its code names it; empty for a notebook."""
        if self.file is None:
            return ""
        file, root = self.file.resolve(), self.root.resolve()
        return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def source_of(ws: Workspace, file: Path | None, cells: tuple[str, ...]) -> Source:
    """Where a recipe was declared: in `file`, whose project is found from it, or in `cells` of the workspace's project."""
    return Source(project_root(file), file.resolve()) if file else Source(ws.root, None, cells)


@dataclass(frozen=True, slots=True)
class Declared:
    """All inputs of a run, named. `key` is the digest of those that the weights depend on; `tags` are none of them."""

    recipe: Recipe
    source: Source
    taken: Taken | OwnTaken
    code: Captured
    environment: Digest
    seed: int
    key: Digest
    tags: Tags = field(default_factory=dict)

    def refit_key(self, steps: int) -> Digest:
        """The key of the run that trains on all rows for the steps that this one chose."""
        return digest_json({"kind": "refit", "judge": self.key, "steps": steps})

    def ingredients(self, *, everything: bool = False) -> Ingredients:
        return Ingredients(
            snapshot=self.taken.digest,
            features=self.recipe.features,
            label=self.recipe.label,
            task=self.recipe.task,
            prepare=self.recipe.prepare,
            encoding=self.recipe.learner.encoding,
            split=self.recipe.split,
            time=self.recipe.data.time,
            seed=self.seed,
            everything=everything,
        )


def declare(
    ws: Workspace,
    recipe: Recipe,
    source: Source,
    seed: int,
    *,
    taken: Taken | OwnTaken | None = None,
    tags: Tags | None = None,
) -> Declared:
    """Take the snapshot (or go on with the given one), capture the code, look at the environment; each is stored.

    Raises:
        DataError: the data breaks its contract in a way that stops.
        ConfigurationError: a tag that could not be searched by.
    """
    check_tags(tags or {})
    taken = taken or _taken(ws, recipe)
    code = capture(ws, source.file, source.root) if source.file else capture_source(ws, list(source.cells))
    environment = _environment(ws, recipe)
    ws.commit(Put(environment))
    named = {
        "kind": "train",
        "snapshot": taken.digest,
        "code": code.key,
        "recipe": describe(recipe.training_part()),
        "environment": digest_record(environment),
        "seed": seed,
    }
    return Declared(recipe, source, taken, code, digest_record(environment), seed, digest_json(named), tags or {})


def _taken(ws: Workspace, recipe: Recipe) -> Taken | OwnTaken:
    own = isinstance(recipe.data.source, Own)
    return take_own(ws, recipe.data, recipe.label) if own else take_snapshot(ws, recipe.data)


def _environment(ws: Workspace, recipe: Recipe) -> Environment:
    learner = recipe.learner
    library = "torch" if isinstance(learner, Torch) else _distribution(type(learner.estimator).__module__)
    machine = load(f"machine:{learner_kind(learner)}").machine
    device, capability, threads = machine(ws.config.threads, ws.config.device)
    return describe_environment((library,), device=device, capability=capability, threads=threads)


def _distribution(module: str) -> str:
    package = module.split(".", maxsplit=1)[0]
    return "scikit-learn" if package == "sklearn" else package
