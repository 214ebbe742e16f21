from __future__ import annotations

from llama_index.core.llms import ChatMessage

from tenant_middleware.local import chat_model, embeddings, llama_embedding, llama_llm

ASKED = "Answer from the context in one sentence.\n\nContext: {}\n\nQuestion: What does the Premium plan cost?"
ACME = ASKED.format("The Premium plan of Acme costs 89 USD per seat. It includes single sign-on and audit logs.")
GLOBEX = ASKED.format("The Premium plan of Globex costs 61 USD per seat. It includes single sign-on and audit logs.")


async def test_embeddings_are_those_of_the_langchain_face():
    vector = embeddings().embed_query("hello world")
    assert llama_embedding().get_text_embedding("hello world") == vector
    assert llama_embedding().get_query_embedding("hello world") == vector
    assert await llama_embedding().aget_query_embedding("hello world") == vector
    assert llama_embedding().get_text_embedding_batch(["hello world", "x"])[0] == vector


def test_the_model_answers_and_reports_usage():
    answer = llama_llm().chat([ChatMessage(role="user", content=ACME)])
    assert "89" in str(answer.message.content)
    assert answer.raw["usage"]["completion_tokens"] > 0 and answer.raw["usage"]["prompt_tokens"] > 30
    assert answer.message.content == chat_model().invoke(ACME).text, "one engine, one answer"
    other = llama_llm().complete(GLOBEX)
    assert "61" in other.text and "89" not in other.text


def test_caps_are_kept_and_streams_add_up():
    capped = llama_llm(max_tokens=50).complete("Tell a long story.", max_tokens=4)
    assert capped.raw["usage"]["completion_tokens"] == 4
    steps = list(llama_llm(max_tokens=12).stream_chat([ChatMessage(role="user", content=ACME)]))
    assert "".join(step.delta or "" for step in steps) == steps[-1].message.content
    assert steps[-1].raw["usage"]["completion_tokens"] <= 12
    assert list(llama_llm(max_tokens=5).stream_complete(ACME))[-1].text


async def test_the_async_face():
    asked = [ChatMessage(role="user", content=ACME)]
    model = llama_llm(max_tokens=8)
    said = model.chat(asked).message.content
    assert (await model.achat(asked)).message.content == said
    assert (await model.acomplete(ACME)).text == said
    assert [step async for step in await model.astream_chat(asked)][-1].message.content == said
    assert [step async for step in await model.astream_complete(ACME)][-1].text == said
    assert model.metadata.num_output == 8 and model.metadata.is_chat_model
