"""The way out of a chain: canaries are looked for in the answer, whole or in pieces; and a fence around found text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

try:
    from langchain_core.documents import Document
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable
    from langchain_core.runnables.config import RunnableConfig
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import InvalidInput
from tenant_middleware.guardrails import CanaryGuard, CanaryStream, Found, fence
from tenant_middleware.langchain.pinned import PinnedRunnable
from tenant_middleware.langchain.refusals import passing


class _Scanning(Runnable[Any, Any]):
    def __init__(self, canaries: CanaryGuard) -> None:
        self.canaries = canaries

    @passing
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._call_with_config(self._strip, input, config, **kwargs)

    def _strip(self, answer: Any) -> Any:
        text = _text(answer)
        return _with_text(answer, self.canaries.strip(text, current_tenant()))

    @passing
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield self.invoke(input, config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        yield await self.ainvoke(input, config, **kwargs)

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        stream, last = self.canaries.stream(current_tenant()), None
        for chunk in input:
            last = chunk
            yield from _pushed(stream, chunk)
        yield from _rest(stream, last)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        stream, last = self.canaries.stream(current_tenant()), None
        async for chunk in input:
            last = chunk
            for safe in _pushed(stream, chunk):
                yield safe
        for safe in _rest(stream, last):
            yield safe


class GuardOutput(PinnedRunnable, _Scanning):
    """Put it after the model: another tenant's canary stops the answer with IsolationBreach, one's own are taken out.

    In a stream the text comes a window later than the model gives it; message chunks keep their ids and usage.
    """


class Fence(Runnable[Any, str]):
    """Turns retrieved documents into one text that says where each came from and that it isn't an instruction.

    `provenance` names the metadata that is shown. It lowers the odds that a model obeys a document; it is no boundary.
    """

    def __init__(self, provenance: Iterable[str] = ("source", "id")) -> None:
        self.provenance = tuple(provenance)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        return self._call_with_config(self._fenced, input, config, **kwargs)

    def _fenced(self, found: Any) -> str:
        documents = [found] if isinstance(found, Document | str) else list(found)
        return fence(self._piece(document) for document in documents)

    def _piece(self, document: Any) -> Found:
        if isinstance(document, str):
            return Found(document)
        if not isinstance(document, Document):
            raise InvalidInput(f"Fence: expected documents or texts, got {type(document).__name__}")
        about = {"id": document.id} | document.metadata
        shown = tuple((name, str(about[name])) for name in self.provenance if about.get(name) is not None)
        return Found(document.page_content, shown)


def _pushed(stream: CanaryStream, chunk: Any) -> Iterator[Any]:
    """A chunk with the text that may be shown now; a chunk of text alone is left out while there is none."""
    safe = stream.push(_text(chunk))
    if safe or not isinstance(chunk, str):
        yield _with_text(chunk, safe)


def _rest(stream: CanaryStream, last: Any) -> Iterator[Any]:
    rest = stream.close()
    if not rest:
        return
    yield rest if last is None or isinstance(last, str) else type(last)(content=rest, id=last.id)


def _text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    if isinstance(answer, BaseMessage):
        return answer.text
    raise InvalidInput(f"GuardOutput: expected text or a message, got {type(answer).__name__}; put it after the model")


def _with_text(answer: Any, text: str) -> Any:
    if isinstance(answer, str):
        return text
    return answer if text == answer.text else answer.model_copy(update={"content": text})
