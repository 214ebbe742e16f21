"""The chain of the demo as an application would write it: no step of it names a tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from tenant_middleware.langchain import (
    GuardInput,
    TenantChatModel,
    TenantCheckpointSaver,
    TenantEmbeddings,
    TenantVectorStore,
    cached,
)
from tenant_middleware.langchain.semantic import CachedRunnable
from tenant_middleware.local import embeddings
from tenant_middleware.tenancy import Tenancy

EMBEDDING = "local/embed"
_REMEMBERED = 2  # the last exchange: more would fill a small model's attention, and its window

PROMPT = ChatPromptTemplate.from_messages(
    [
        MessagesPlaceholder("history"),
        ("human", "Answer from the context in one short sentence.\n\nContext: {context}\n\nQuestion: {question}"),
    ]
)


class Turn(MessagesState):
    """A conversation, and how its last answer was made."""

    sources: list[str]
    hit: bool
    distance: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a question; `distance` of a hit is that of the two questions."""

    question: str
    text: str
    sources: list[str]
    hit: bool
    distance: float | None
    remembered: int


class Assistant:
    """Guard, memory, semantic cache, retrieval and model in one chain that every tenant shares."""

    def __init__(self, tenancy: Tenancy, model: BaseChatModel, model_name: str, stop: Sequence[str] = ()) -> None:
        embedding = TenantEmbeddings(embeddings(), model_name=EMBEDDING, gate=tenancy.gate)
        self.store = TenantVectorStore(vectors=tenancy.vectors, embedding=embedding)
        self.model = TenantChatModel(model=model, model_name=model_name, gate=tenancy.gate)
        self.saver = InMemorySaver()
        retrieve = RunnableLambda(_search_text) | self.store.as_retriever(search_kwargs={"k": 1})
        answer = (
            RunnablePassthrough.assign(found=retrieve)
            | RunnablePassthrough.assign(context=lambda given: _joined(given["found"]))
            | {"answer": PROMPT | self._speaker(stop) | StrOutputParser(), "sources": RunnableLambda(_sources)}
        )
        self.answer = cached(answer, cache=tenancy.cache, embedding=embedding, question="question")
        self.conversation = _conversation(self.answer, TenantCheckpointSaver(self.saver))
        self.chain = GuardInput(tenancy.guard) | self.conversation

    def _speaker(self, stop: Sequence[str]) -> Runnable[Any, Any]:
        return self.model.bind(stop=list(stop)) if stop else self.model

    def ask(self, question: str, thread: str) -> Answer:
        """Ask for the tenant in context; `thread` is its own, whatever other tenants call theirs."""
        turn = self.chain.invoke({"messages": [HumanMessage(question)]}, {"configurable": {"thread_id": thread}})
        said = turn["messages"]
        return Answer(question, said[-1].text, turn["sources"], turn["hit"], turn["distance"], len(said) - 2)


def _conversation(answer: CachedRunnable, saver: TenantCheckpointSaver) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Memory around the cache: earlier messages of a thread are part of what must be equal for a hit."""

    def reply(turn: Turn) -> dict[str, Any]:
        *before, asked = turn["messages"]
        given = answer.answer({"question": asked.text, "history": before[-_REMEMBERED:]})
        return {
            "messages": [AIMessage(given.value["answer"].strip())],
            "sources": given.value["sources"],
            "hit": given.hit,
            "distance": given.distance,
        }

    graph = StateGraph(Turn)
    graph.add_node("reply", RunnableLambda(reply))
    graph.add_edge(START, "reply")
    graph.add_edge("reply", END)
    return graph.compile(checkpointer=saver)


def _search_text(given: Mapping[str, Any]) -> str:
    """A follow-up is searched together with the question it follows."""
    history: list[BaseMessage] = given["history"]
    asked = [message.text for message in history if isinstance(message, HumanMessage)]
    return " ".join([*asked[-1:], given["question"]])


def _joined(found: list[Document]) -> str:
    return "\n".join(document.page_content for document in found)


def _sources(given: Mapping[str, Any]) -> list[str]:
    return [str(document.metadata["source"]) for document in given["found"]]
