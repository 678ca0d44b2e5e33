"""Versions of models: numbers without gaps, states, aliases such as champion, and the way back.

Everything is a pointer, moved by compare-and-set. `model:<name>` counts its versions. `version:<name>/<n>` holds the state and
the aliases that stand on it, such as "approved@champion": so whoever archives a version while another makes it champion is
told so, although they move different things. `alias:<name>@<alias>` holds the version an alias stands on, and its chain of
events is the alias's history. A move of an alias is one commit: the alias, the version it leaves and the one it comes to.
Cost: a commit for each verb; reading a version costs two small queries.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from velodrome.core.digest import Digest, decode
from velodrome.core.errors import ConfigurationError, IntegrityError, NotFound, PointerMoved, StateError, nearest
from velodrome.core.values import Record
from velodrome.registry.runs import require_whole
from velodrome.store.ledger import Event, Link, Move, Put, Stored, Write, digest_record, read_record
from velodrome.store.workspace import Workspace

__all__ = [
    "ANYONE",
    "CHAMPION",
    "Version",
    "VersionState",
    "VersionSummary",
    "aliases_of",
    "approve",
    "archive",
    "find_alias",
    "list_versions",
    "move_state",
    "promote",
    "register",
    "reject",
    "require_model",
    "resolve",
    "rollback",
    "state_of",
    "stood_as",
]

CHAMPION = "champion"
"""The alias of the version that is in use."""

ANYONE = "*"
"""Where `promote` asks over whom: over whoever the alias stands on."""

_DOCTOR = "run `velodrome doctor`"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PROMOTED, _ROLLED_BACK = "alias.promoted", "alias.rolled-back"


class VersionState(StrEnum):
    """What is thought of a version. Each move is an event of the version's chain, with its actor and reason:

    (nothing) → DRAFT                   version.registered
    DRAFT, REJECTED → CANDIDATE         version.candidate   its gates said yes, perhaps other gates than before
    DRAFT, CANDIDATE → REJECTED         version.rejected    its gates, or a person, said no
    CANDIDATE → APPROVED                version.approved    by a policy or a person; only now may an alias stand on it
    any but ARCHIVED → ARCHIVED         version.archived    never while an alias stands on it
    """

    DRAFT = "draft"
    CANDIDATE = "candidate"
    APPROVED = "approved"
    REJECTED = "rejected"
    ARCHIVED = "archived"


_BEFORE: dict[VersionState, tuple[VersionState, ...]] = {
    VersionState.CANDIDATE: (VersionState.DRAFT, VersionState.REJECTED),
    VersionState.APPROVED: (VersionState.CANDIDATE,),
    VersionState.REJECTED: (VersionState.DRAFT, VersionState.CANDIDATE),
    VersionState.ARCHIVED: tuple(state for state in VersionState if state is not VersionState.ARCHIVED),
}


class Version(Record, frozen=True, kw_only=True, tag="version"):
    """A registered model.

    Attributes:
        number: from 1, without gaps within a model.
        run: whose artifact it is; its report may be that of the run which judged it.
    """

    model: str
    number: int
    run: str
    artifact: Digest
    report: Digest | None

    @property
    def reference(self) -> str:
        return f"{self.model}/{self.number}"


class VersionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A version as a line of a list."""

    reference: str
    model: str
    number: int
    state: VersionState
    aliases: tuple[str, ...]
    run: str
    created: datetime
    created_by: str


class _Standing(msgspec.Struct, frozen=True):
    """The value of a version's pointer: its state and the aliases on it, sorted."""

    state: VersionState
    aliases: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: str) -> "_Standing":
        state, _, aliases = value.partition("@")
        if state not in set(VersionState):
            raise IntegrityError("the state of a version does not read", received=value, remedy=_DOCTOR)
        return cls(VersionState(state), tuple(aliases.split(",")) if aliases else ())

    def __str__(self) -> str:
        return f"{self.state}@{','.join(self.aliases)}" if self.aliases else str(self.state)

    def having(self, alias: str) -> "_Standing":
        return _Standing(self.state, tuple(sorted({*self.aliases, alias})))

    def without(self, alias: str) -> "_Standing":
        return _Standing(self.state, tuple(name for name in self.aliases if name != alias))


def register(ws: Workspace, *, model: str, run: str, artifact: Digest | None, report: Digest | None) -> Version:
    """The version of a run, registered now as a draft with the next number, or before.

    Safe to repeat and to race: however many processes register, each run has one version, and numbers have no gaps.

    Raises:
        ConfigurationError: a name that a reference could not say.
        StateError: the run saved no model, or registered another one before.
        Gone: it was collected, or what it rests on.
    """
    if not _NAME.fullmatch(model):
        raise ConfigurationError("a model's name is letters, digits and . _ -", received=model, remedy="rename it")
    if artifact is None:
        raise StateError(f"the run {run} saved no model", remedy="save its model before it is registered")
    while True:
        known = _value(ws, f"registered:{run}")
        if known:
            return _registered_before(resolve(ws, known), model, artifact)
        try:
            return _register_next(ws, model, run, artifact, report)
        except PointerMoved:
            continue  # another process took the number, or registered or moved this run: look again


def move_state(ws: Workspace, reference: str, to: VersionState, *, reason: str, actor: str) -> Version:
    """Move a version to a state.

    Raises:
        NotFound: no such version. StateError: its present state does not allow it.
        Gone: it is to be a candidate, and its run, or what that rests on, was collected.
        PointerMoved: somebody moved it at the same moment.
    """
    version = resolve(ws, reference)
    whole = require_whole(ws, version.run) if to is VersionState.CANDIDATE else []
    standing = _standing(ws, version.reference)
    _require(version, standing, to)
    after = _Standing(to, standing.aliases)
    ws.commit(*whole, _move(version.reference, standing, after, f"version.{to}", reason=reason), actor=actor)
    return version


def approve(ws: Workspace, reference: str, *, reason: str, actor: str) -> Version:
    """Approve a candidate. Raises as `move_state`."""
    return move_state(ws, reference, VersionState.APPROVED, reason=reason, actor=actor)


def reject(ws: Workspace, reference: str, *, reason: str, actor: str) -> Version:
    """Reject a draft or candidate. Raises as `move_state`."""
    return move_state(ws, reference, VersionState.REJECTED, reason=reason, actor=actor)


def archive(ws: Workspace, reference: str, *, reason: str, actor: str) -> Version:
    """Put a version away for good. Raises as `move_state`."""
    return move_state(ws, reference, VersionState.ARCHIVED, reason=reason, actor=actor)


def promote(
    ws: Workspace, reference: str, *, alias: str = CHAMPION, reason: str, actor: str, over: str | None = ANYONE
) -> Version:
    """Let an alias stand on an approved version; nothing happens if it does already.

    Args:
        over: the version that the alias must stand on until then, by reference; None: on none.

    Raises:
        NotFound: no such version. StateError: it is not approved.
        PointerMoved: the alias stands on another than `over`, or somebody moved it or the version at the same moment.
    """
    version = resolve(ws, reference)
    _require_name(alias)
    standing = _standing(ws, version.reference)
    if standing.state is not VersionState.APPROVED:
        raise StateError(
            f"only an approved version can be {alias}",
            received=f"{version.reference}, {standing.state}",
            remedy=f"velodrome models approve {version.reference} --reason ...",
        )
    present = _value(ws, _alias(version.model, alias))
    if present != version.reference:
        if over not in (ANYONE, present):
            raise PointerMoved(f"{version.model}@{alias} is not what it was compared with", received=present)
        ws.commit(*_placed(ws, alias, version, standing, present, _PROMOTED, reason), actor=actor)
    return version


def rollback(ws: Workspace, model: str, *, alias: str = CHAMPION, reason: str, actor: str) -> Version:
    """Let the alias stand where it stood before its present version was promoted, and return that version.

    Versions that were archived meanwhile are passed over. Rolling back twice goes back twice.

    Raises:
        NotFound: no such model. StateError: there is nothing to go back to.
        PointerMoved: somebody moved the alias or a version at the same moment.
    """
    require_model(ws, model)
    present = _value(ws, _alias(model, alias))
    for earlier in reversed(_promotions(ws.ledger.events(_alias(model, alias)))):
        standing = _standing(ws, earlier)
        if earlier != present and standing.state is VersionState.APPROVED:
            version = _version(ws, earlier)
            ws.commit(*_placed(ws, alias, version, standing, present, _ROLLED_BACK, reason), actor=actor)
            return version
    raise StateError(
        f"{model} has no earlier {alias} to go back to", received=present, remedy="promote an approved version instead"
    )


def resolve(ws: Workspace, reference: str) -> Version:
    """The version that `name/7`, `name@alias`, `name` or an alias alone names.

    A name alone is its champion, or its only version. An alias alone is meant when the workspace has one model.

    Raises:
        NotFound: no such model, version or alias; the nearest is named.
    """
    model, alias, number = _parsed(ws, reference)
    require_model(ws, model)
    if alias is not None:
        found = find_alias(ws, model, alias)
        if found is None:
            known = [pointer.subject.partition("@")[2] for pointer in ws.ledger.pointers(_alias(model, ""))]
            raise NotFound(f"{model} has no alias {alias!r}", received=reference, remedy=nearest(alias, known))
        return found
    return _version(ws, f"{model}/{number}") if number else _meant(ws, model)


def find_alias(ws: Workspace, model: str, alias: str) -> Version | None:
    """The version that an alias stands on, or None; an unknown model has none."""
    reference = _value(ws, _alias(model, alias))
    return _version(ws, reference) if reference else None


def state_of(ws: Workspace, version: Version) -> VersionState:
    return _standing(ws, version.reference).state


def stood_as(ws: Workspace, version: Version, alias: str, *, since: datetime | None = None) -> bool:
    """Whether the version was promoted to the alias, ever or at or after a moment, wherever that stands now."""
    promoted = (event for event in ws.ledger.events(_alias(version.model, alias)) if event.type == _PROMOTED)
    return any(event.body["to"] == version.reference and (since is None or event.time >= since) for event in promoted)


def aliases_of(ws: Workspace, version: Version) -> tuple[str, ...]:
    """The aliases that stand on a version now, sorted."""
    return _standing(ws, version.reference).aliases


def list_versions(ws: Workspace, model: str | None = None) -> list[VersionSummary]:
    """Versions, newest first, optionally those of one model. Two queries in all.

    Raises:
        NotFound: there is no such model; the nearest is named.
    """
    if model is not None:
        require_model(ws, model)
    versions = ws.ledger.records(Version.kind(), name=model)
    pointers = ws.ledger.pointers(f"version:{model}/" if model else "version:")
    standings = {pointer.subject: _Standing.read(pointer.value or "") for pointer in pointers}
    return [_summary(stored, standings) for stored in versions]


def require_model(ws: Workspace, model: str) -> None:
    """
    Raises:
        NotFound: there is no such model; the nearest is named.
    """
    if _value(ws, f"model:{model}") is None:
        raise NotFound("there is no such model", received=model, remedy=nearest(model, _models(ws)))


def _register_next(ws: Workspace, model: str, run: str, artifact: Digest, report: Digest | None) -> Version:
    count = _value(ws, f"model:{model}")
    version = Version(model=model, number=int(count or 0) + 1, run=run, artifact=artifact, report=report)
    digest, subject = digest_record(version), _subject(version.reference)
    ws.commit(
        *require_whole(ws, run),
        Put(version, model),
        Link(subject, digest, "record"),
        Link(digest, f"run:{run}", "run"),
        Link(digest, artifact, "artifact"),
        *([Link(digest, report, "report")] if report else []),
        Move(f"model:{model}", count, str(version.number), "model.version-added", {"run": run}),
        Move(subject, None, str(_Standing(VersionState.DRAFT)), "version.registered", {"record": digest}),
        Move(f"registered:{run}", None, version.reference, "run.registered"),
    )
    return version


def _registered_before(version: Version, model: str, artifact: Digest) -> Version:
    if (version.model, version.artifact) != (model, artifact):
        raise StateError(
            f"the run {version.run} is registered as {version.reference} already, with another name or model",
            received=f"{model}, artifact {artifact[:12]}",
            remedy="a run is one version: train another run",
        )
    return version


def _placed(
    ws: Workspace, alias: str, version: Version, standing: _Standing, present: str | None, type_: str, reason: str
) -> Iterator[Write]:
    """The writes that let `alias` stand on `version`, provided that is still `standing` so, instead of on `present`."""
    yield _move(version.reference, standing, standing.having(alias), "version.promoted", alias=alias, reason=reason)
    if present:
        left = _standing(ws, present)
        yield _move(present, left, left.without(alias), "version.replaced", alias=alias, by=version.reference)
    yield Move(_alias(version.model, alias), present, version.reference, type_, {"reason": reason})


def _move(reference: str, before: _Standing, after: _Standing, type_: str, **body: str) -> Move:
    return Move(_subject(reference), str(before), str(after), type_, body)


def _promotions(events: Iterable[Event]) -> list[str]:
    """Where an alias stood, oldest first, without what was rolled back; the last is where it stands."""
    stack: list[str] = []
    for event in events:
        to = str(event.body["to"])
        if event.type == _PROMOTED:
            stack.append(to)
        else:
            while stack[-1] != to:
                stack.pop()
    return stack


def _parsed(ws: Workspace, reference: str) -> tuple[str, str | None, str | None]:
    """Model, alias and number of a reference; None for what it does not say."""
    if "@" in reference:
        model, _, alias = reference.partition("@")
        return model, alias, None
    if "/" in reference:
        model, _, number = reference.partition("/")
        if not re.fullmatch(r"[1-9][0-9]*", number):
            raise NotFound("a version's number is 1, 2, ...", received=reference, remedy=f"write {model}/1")
        return model, None, number
    models = _models(ws)
    if reference not in models and len(models) == 1 and find_alias(ws, models[0], reference):
        return models[0], reference, None
    return reference, None, None


def _meant(ws: Workspace, model: str) -> Version:
    """The version that a model's name alone stands for."""
    champion = find_alias(ws, model, CHAMPION)
    if champion:
        return champion
    count = int(_value(ws, f"model:{model}") or 0)
    if count == 1:
        return _version(ws, f"{model}/1")
    raise NotFound(f"{model} has {count} versions and no champion", received=model, remedy=f"name one: {model}/{count}")


def _models(ws: Workspace) -> list[str]:
    return [pointer.subject.removeprefix("model:") for pointer in ws.ledger.pointers("model:")]


def _require_name(alias: str) -> None:
    if not _NAME.fullmatch(alias):
        raise ConfigurationError("an alias is letters, digits and . _ -", received=alias, remedy="rename it")


def _require(version: Version, standing: _Standing, to: VersionState) -> None:
    before = _BEFORE.get(to, ())
    if standing.state not in before:
        states = " or ".join(before) or "nothing"
        raise StateError(
            f"{version.reference} is {standing.state}: only {states} becomes {to}",
            remedy=f"see its history with: velodrome models trace {version.reference}",
        )
    if to is VersionState.ARCHIVED and standing.aliases:
        raise StateError(
            f"{version.reference} is {', '.join(standing.aliases)} and cannot be archived",
            remedy="promote another version first, or roll back",
        )


def _version(ws: Workspace, reference: str) -> Version:
    found = ws.ledger.edges(_subject(reference), role="record")
    if not found:
        model = reference.partition("/")[0]
        count = _value(ws, f"model:{model}")
        raise NotFound(f"{model} has no such version", received=reference, remedy=f"its newest is {model}/{count}")
    return read_record(ws.ledger, found[0].dst, Version)


def _standing(ws: Workspace, reference: str) -> _Standing:
    value = _value(ws, _subject(reference))
    if value is None:
        raise NotFound("there is no such version", received=reference, remedy="is this the right workspace?")
    return _Standing.read(value)


def _summary(stored: Stored, standings: Mapping[str, _Standing]) -> VersionSummary:
    version = decode(stored.payload, Version)
    standing = standings.get(_subject(version.reference))
    if standing is None:
        raise IntegrityError(f"{version.reference} has no state any more", remedy=_DOCTOR)
    return VersionSummary(
        reference=version.reference,
        model=version.model,
        number=version.number,
        state=standing.state,
        aliases=standing.aliases,
        run=version.run,
        created=stored.created,
        created_by=stored.actor,
    )


def _subject(reference: str) -> str:
    return f"version:{reference}"


def _alias(model: str, alias: str) -> str:
    return f"alias:{model}@{alias}"


def _value(ws: Workspace, subject: str) -> str | None:
    pointer = ws.ledger.pointer(subject)
    return pointer.value if pointer else None
