"""What goes in and what comes out: input guard, canaries, provenance. Detects many known forms; isolation never rests on it."""

from tenant_middleware.guardrails.answers import AnswerGuard, check_answer
from tenant_middleware.guardrails.canary import CanaryGuard, CanaryStore, CanaryStream, Incident, InMemoryCanaryStore
from tenant_middleware.guardrails.classifier import AsyncClassifier, Classifier, GreyBand
from tenant_middleware.guardrails.fence import Found, fence
from tenant_middleware.guardrails.input import InputGuard
from tenant_middleware.guardrails.modes import GuardPolicy, Thresholds, TierModes
from tenant_middleware.guardrails.registry import Known, Registry
from tenant_middleware.guardrails.scanning import scan, scan_output
from tenant_middleware.guardrails.verdict import Action, Segment, Source, Span, Verdict

__all__ = [
    "Action",
    "AnswerGuard",
    "AsyncClassifier",
    "CanaryGuard",
    "CanaryStore",
    "CanaryStream",
    "Classifier",
    "Found",
    "GreyBand",
    "GuardPolicy",
    "InMemoryCanaryStore",
    "Incident",
    "InputGuard",
    "Known",
    "Registry",
    "Segment",
    "Source",
    "Span",
    "Thresholds",
    "TierModes",
    "Verdict",
    "check_answer",
    "fence",
    "scan",
    "scan_output",
]
