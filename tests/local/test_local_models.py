from __future__ import annotations

import asyncio
import contextlib

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from tenant_middleware.errors import InvalidInput
from tenant_middleware.local import chat_model, echo_chat_model, scripted_tool_model
from tenant_middleware.local.engine import engine

ASKED = "Answer from the context in one sentence.\n\nContext: {}\n\nQuestion: What does the Premium plan cost?"
ACME = ASKED.format("The Premium plan of Acme costs 89 USD per seat. It includes single sign-on and audit logs.")
GLOBEX = ASKED.format("The Premium plan of Globex costs 61 USD per seat. It includes single sign-on and audit logs.")


def test_the_local_model_answers_from_its_context_and_says_what_it_used():
    answer = chat_model().invoke(ACME)
    assert "89" in answer.text
    assert answer.response_metadata["model_name"] == "smollm2-135m-instruct"
    used = answer.usage_metadata
    assert used is not None and used["input_tokens"] > 30 and 0 < used["output_tokens"] <= 64
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]


def test_two_prompts_in_a_row_do_not_bleed():
    model = chat_model(max_tokens=40)
    alone = model.invoke(GLOBEX).text
    first, second = model.invoke(ACME).text, model.invoke(GLOBEX).text
    assert "89" in first and "61" in second and "89" not in second and "Acme" not in second
    assert second == alone, "what another call asked before must not change an answer"


def test_no_prompt_is_kept_between_calls():
    server = engine()._server
    request = {"messages": [{"role": "user", "content": ACME}], "max_tokens": 1, "cache_prompt": False}
    for _ in range(2):
        assert server.handle_chat_completions(request)["timings"]["cache_n"] == 0
    kept = server.handle_chat_completions(request | {"cache_prompt": True})
    kept = server.handle_chat_completions(request | {"cache_prompt": True})
    assert kept["timings"]["cache_n"] > 0, "the check above must be able to fail"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_smallest_cap_wins(name: str):
    answer = chat_model(max_tokens=50).invoke("Tell a long story about a ship.", **{name: 4})
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == 4
    assert answer.response_metadata["finish_reason"] == "length"
    answer = chat_model(max_tokens=3).invoke("Tell a long story about a ship.", **{name: 40})
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == 3


def test_a_stream_is_the_same_answer_in_pieces():
    chunks = list(chat_model(max_tokens=24).stream(ACME))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    said = chat_model(max_tokens=24).invoke(ACME)
    assert len(chunks) > 5 and whole.text == said.text
    assert whole.usage_metadata == said.usage_metadata
    assert whole.response_metadata["model_name"] == said.response_metadata["model_name"]


async def test_async_says_the_same():
    said = chat_model(max_tokens=12).invoke(ACME).text
    assert (await chat_model(max_tokens=12).ainvoke(ACME)).text == said
    assert "".join([chunk.text async for chunk in chat_model(max_tokens=12).astream(ACME)]) == said


async def test_a_cancelled_call_stops_the_model():
    model = chat_model()
    started = asyncio.Event()

    async def read() -> None:
        async for _ in model.astream("Tell a very long story about a ship.", max_tokens=2000):
            started.set()

    reading = asyncio.create_task(read())
    await started.wait()
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    # the one slot is free again long before 2000 tokens could have been said
    assert (await asyncio.wait_for(model.ainvoke("Say hello.", max_tokens=2), 10)).text


def test_an_abandoned_stream_stops_the_model():
    stream = chat_model().stream("Tell a very long story about a ship.", max_tokens=2000)
    next(stream)
    stream.close()
    assert chat_model().invoke("Say hello.", max_tokens=2).text


def test_a_prompt_beyond_the_window_is_refused_without_repeating_it():
    with pytest.raises(InvalidInput, match="at most 4096 tokens") as caught:
        chat_model().invoke("zebra " * 9000)
    assert "zebra" not in str(caught.value)


def test_system_and_history_reach_the_model():
    used = chat_model(max_tokens=1).invoke("hello").usage_metadata
    longer = (
        chat_model(max_tokens=1)
        .invoke([SystemMessage("Be terse."), HumanMessage("hi"), AIMessage("yes?"), HumanMessage("hello")])
        .usage_metadata
    )
    assert used is not None and longer is not None and longer["input_tokens"] != used["input_tokens"]


def test_echo_repeats_the_last_message_word_by_word():
    model = echo_chat_model()
    assert model.invoke([HumanMessage("not this"), HumanMessage(" one  two\nthree ")]).text == " one  two\nthree "
    assert [chunk.text for chunk in model.stream("one two three")] == ["one ", "two ", "three", ""]
    assert model.invoke("").text == ""


def test_echo_counts_words_and_stops_at_caps_and_stop_words():
    answer = echo_chat_model().invoke([SystemMessage("be brief"), HumanMessage("one two three four")], max_tokens=2)
    assert answer.text == "one two" and answer.response_metadata == {"model_name": "echo", "finish_reason": "length"}
    assert answer.usage_metadata == {"input_tokens": 6, "output_tokens": 2, "total_tokens": 8}
    assert echo_chat_model(max_tokens=3).invoke("one two three", max_tokens=9).text == "one two three"
    assert echo_chat_model().invoke("one two three", stop=["three", "two"]).text == "one "


async def test_echo_streams_async_and_lets_others_run():
    order: list[str] = []

    async def speak(text: str) -> None:
        async for chunk in echo_chat_model().astream(text):
            order.append(chunk.text.strip())

    await asyncio.gather(speak("a1 a2 a3"), speak("b1 b2 b3"))
    assert sorted(filter(None, order)) == ["a1", "a2", "a3", "b1", "b2", "b3"] and order != sorted(order)


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"max_tokens": -1}, {"n": 2}])
@pytest.mark.parametrize("make", [chat_model, echo_chat_model, scripted_tool_model])
def test_what_no_model_offers_is_refused(make, options):
    with pytest.raises(InvalidInput):
        make().invoke("hello", **options)


@tool
def invoices(customer: str, least: int) -> str:
    """Open invoices."""
    return f"{customer}: {least}"


@tool
def weather() -> str:
    """The weather."""
    return "rain"


def test_the_scripted_model_calls_the_first_tool_then_repeats_what_it_said():
    model = scripted_tool_model().bind_tools([invoices, weather])
    asked = HumanMessage("Which invoices are open?")
    call = model.invoke([asked])
    assert [c["name"] for c in call.tool_calls] == ["invoices"]
    assert call.tool_calls[0]["args"] == {"customer": "Which invoices are open?", "least": 0}
    said = model.invoke([asked, call, ToolMessage("ACME-77 is open", tool_call_id=call.tool_calls[0]["id"])])
    assert said.text == "ACME-77 is open" and not said.tool_calls


def test_the_scripted_model_follows_tool_choice_and_streams_its_call():
    model = scripted_tool_model().bind_tools([invoices, weather], tool_choice="weather")
    chunks = list(model.stream("hello"))
    assert [c["name"] for chunk in chunks for c in chunk.tool_call_chunks] == ["weather"]
    assert chunks[-1].usage_metadata


class Person(BaseModel):
    """A person."""

    name: str
    age: int = Field(ge=18)
    tags: list[str] = []


def test_the_scripted_model_gives_structured_output():
    assert scripted_tool_model().with_structured_output(Person).invoke("Ada") == Person(name="Ada", age=18)


def test_without_tools_the_scripted_model_echoes():
    assert scripted_tool_model().invoke("hello there").text == "hello there"
