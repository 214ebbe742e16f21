"""Training files of one tenant alone: no row of another's, a manifest that says whose they are, and the model's owner.

A model that was trained on one tenant's data is that tenant's: `owns` in the policy makes it so, and nobody else's
calls reach it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenant_middleware import keys
from tenant_middleware.clock import Clock, SystemClock, utc
from tenant_middleware.errors import ConfigurationError, InvalidInput, TenantMismatch
from tenant_middleware.isolation.history import HistoryStore, Message
from tenant_middleware.isolation.place import STAMP
from tenant_middleware.isolation.vectors import Record, Vectors
from tenant_middleware.tenant import Tenant

FORMAT = "tenant-middleware-training/1"
_OWNER = "tenant_id"


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation as providers train on it, and where it came from; `tenant_id` is its stamp."""

    tenant_id: str
    source: str
    messages: tuple[Mapping[str, str], ...]

    def line(self) -> str:
        """The provider's JSON: messages alone, so that no id of ours is trained on."""
        return json.dumps({"messages": list(self.messages)}, ensure_ascii=False)


class TrainingSet:
    """Collects one tenant's examples; everything that isn't stamped as the tenant's is refused.

    `consent` says that the tenant agreed to training on its data: without it nothing is written.
    """

    def __init__(self, tenant: Tenant, *, consent: bool, clock: Clock | None = None) -> None:
        self.tenant = tenant
        self._consent, self._clock = consent, clock or SystemClock()
        self._examples: list[Example] = []

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, example: Example) -> None:
        """Add one example; TenantMismatch for another tenant's, InvalidInput for one without a stamp."""
        if not example.tenant_id:
            raise InvalidInput(f"training: an example from {example.source!r} has no stamp; whose it is can't be told")
        if example.tenant_id != self.tenant.id:
            raise TenantMismatch("training: an example is stamped for another tenant; it was not added")
        if not example.messages:
            raise InvalidInput("training: an example without messages")
        self._examples.append(example)

    def add_history(self, history: HistoryStore, sessions: Sequence[str] | None = None) -> int:
        """Add the tenant's sessions, all or those named, one example each; returns how many."""
        names = history.sessions(self.tenant) if sessions is None else sessions
        for name in names:
            messages = tuple(_turn(message) for message in history.read(self.tenant, name) if message.content)
            if messages:
                self.add(Example(self.tenant.id, f"history/{name}", messages))
        return len(names)

    def add_documents(self, vectors: Vectors, question: str = "What does this document say: {id}?") -> int:
        """Add the tenant's documents as question and answer, one example each; returns how many."""
        before = len(self)
        for record in vectors.export(self.tenant):
            if record.text:
                self.add(self._of_record(record, question))
        return len(self) - before

    def add_rows(self, rows: Iterable[Mapping[str, Any]], source: str) -> int:
        """Add rows of `{"tenant_id": ..., "messages": [...]}` from elsewhere; unstamped and mixed ones are refused."""
        added = [self._of_row(row, f"{source}/{number}") for number, row in enumerate(rows)]
        for example in added:  # all or none: a mixed file is no training file
            if example.tenant_id != self.tenant.id:
                self.add(example)
        for example in added:
            self.add(example)
        return len(added)

    def write(self, path: Path, *, model: str) -> Path:
        """Write the JSONL and its manifest beside it, and return the manifest's path; `model` is what is trained."""
        if not self._consent:
            raise ConfigurationError(
                "training: the tenant's consent isn't recorded (consent=True); nothing was written"
            )
        if not self._examples:
            raise InvalidInput("training: no examples; nothing was written")
        lines = [example.line() for example in self._examples]
        body = "".join(f"{line}\n" for line in lines)
        path.write_text(body, encoding="utf-8")
        manifest = {
            "format": FORMAT,
            "tenant": self.tenant.id,
            "tag": keys.tag(self.tenant),
            "model": model,
            "consent": True,
            "at": utc(self._clock.time()).isoformat(),
            "sha256": _hash(body),
            "rows": [
                {"source": one.source, "sha256": _hash(line)} for one, line in zip(self._examples, lines, strict=True)
            ],
        }
        beside = manifest_of(path)
        beside.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return beside

    def _of_record(self, record: Record, question: str) -> Example:
        stamp = record.metadata.get(_OWNER, self.tenant.id)
        marked = record.metadata.get(STAMP, keys.tag(self.tenant))
        owner = stamp if marked == keys.tag(self.tenant) else ""
        asked = question.format(id=record.id)
        turns = ({"role": "user", "content": asked}, {"role": "assistant", "content": record.text})
        return Example(str(owner), f"documents/{record.id}", turns)

    def _of_row(self, row: Mapping[str, Any], source: str) -> Example:
        owner, messages = row.get(_OWNER), row.get("messages")
        if not isinstance(owner, str) or not owner:
            raise InvalidInput(f"training: {source} has no {_OWNER}; whose it is can't be told")
        if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
            raise InvalidInput(f"training: {source} has no list of messages")
        turns = tuple({"role": str(m.get("role")), "content": str(m.get("content"))} for m in messages)
        return Example(owner, source, turns)


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that is as its manifest says."""

    tenant_id: str
    model: str
    rows: int


def verify_training(path: Path) -> Verified:
    """Check a training file against the manifest beside it; InvalidInput that names the first line that differs."""
    beside = manifest_of(path)
    try:
        body = path.read_text("utf-8")
        found, whole, rows = _read_manifest(json.loads(beside.read_text("utf-8")))
    except OSError as error:
        raise InvalidInput(
            f"training: {error.filename} can't be read; a file without a manifest is nobody's"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"training: {beside.name} is no manifest of {FORMAT} with consent") from error
    # Not splitlines(): a text may hold other line separators, which JSON leaves as they are.
    lines = body.split("\n")[: body.count("\n")]
    for number, (line, (source, digest)) in enumerate(zip(lines, rows, strict=False), 1):
        if _hash(line) != digest:
            raise InvalidInput(f"training: line {number} isn't what the manifest names as {source}")
    if len(lines) != len(rows) or _hash(body) != whole:
        raise InvalidInput(f"training: {len(lines)} lines, and the manifest has {len(rows)}; or it ends differently")
    return found


def _read_manifest(manifest: Mapping[str, Any]) -> tuple[Verified, str, list[tuple[str, str]]]:
    """Whose it is, the hash of the whole, source and hash of each row; ValueError for another kind of file."""
    if manifest["format"] != FORMAT or manifest["consent"] is not True:
        raise ValueError("another format, or no consent")
    rows = [(str(row["source"]), str(row["sha256"])) for row in manifest["rows"]]
    return Verified(manifest["tenant"], manifest["model"], len(rows)), manifest["sha256"], rows


def owned_model(path: Path, model_id: str) -> str:
    """The lines of TOML that make a trained model its tenant's alone, from a file that verifies."""
    verified = verify_training(path)
    if not model_id or any(sign in model_id for sign in '"\\*\n'):
        raise InvalidInput("training: expected the id of one model, as the provider names it")
    return f'[tenants.{json.dumps(verified.tenant_id)}]\nowns = ["{model_id}"]\n'


def manifest_of(path: Path) -> Path:
    """Where the manifest of a training file stands."""
    return path.with_name(f"{path.name}.manifest.json")


def _turn(message: Message) -> Mapping[str, str]:
    return {"role": message.role, "content": message.content}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
