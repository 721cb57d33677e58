"""OpenAI's Batch API: a day's patience for half the price. A state file remembers the batch under way."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from smallm import atomic
from smallm.errors import DataError, LLMError
from smallm.llm.bridge import Bridge
from smallm.llm.client import body, reply_of
from smallm.llm.limits import Usage, estimate
from smallm.llm.question import Question
from smallm.llm.reasons import Reason

DISCOUNT = 0.5
FORMAT = 1
_RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})


async def send(bridge: Bridge, questions: Sequence[Question], state: Path) -> int:
    """Start a batch of as many `questions` as the day's budget allows; how many. Raises LLMError, StoreError."""
    line = bridge.asker.lines[0]
    lines: list[dict[str, Any]] = []
    for question in questions:
        request = question.requests(0)[0]
        reserved = estimate(request)
        try:
            bridge.asker.budget.reserve(reserved, _price(bridge, reserved))
        except LLMError as error:
            if error.reason != Reason.OVER_BUDGET or not lines:
                raise
            break
        await bridge.asker.announce(request, question)
        parameters = body(request, line.settings.max_tokens_field)
        parameters |= parameters.pop("extra_body", {})
        lines.append({"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": parameters})
    content = "\n".join(json.dumps(one, ensure_ascii=False) for one in lines).encode()
    client = line.client.openai
    try:
        file = await client.files.create(file=("requests.jsonl", content), purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    except openai.OpenAIError as error:
        raise LLMError(Reason.UNAVAILABLE, f"the batch could not be sent: {type(error).__name__}") from None
    atomic.write_json(state, {"format": FORMAT, "batch": made.id, "endpoint": line.settings.url})
    return len(lines)


async def collect(
    bridge: Bridge, questions: Sequence[Question], state: Path, poll_s: float, told: Callable[[str], None]
) -> Counter[str]:
    """Wait for the batch of `state`, keep its answers, forget the batch; answers by outcome.

    `told` hears the batch's status after every look. Raises LLMError, DataError.
    """
    client = bridge.asker.lines[0].client.openai
    name = _batch(state, bridge.settings.endpoint[0].url)
    try:
        while (batch := await client.batches.retrieve(name)).status in _RUNNING:
            told(batch.status)
            await asyncio.sleep(poll_s)
        told(batch.status)
        content = (await client.files.content(batch.output_file_id)).text if batch.output_file_id else ""
    except openai.OpenAIError as error:
        raise LLMError(Reason.UNAVAILABLE, f"batch {name} cannot be read: {type(error).__name__}") from None
    asked = {question.requests(0)[0].key: question for question in questions}
    outcomes: Counter[str] = Counter()
    for line in content.splitlines():
        if line.strip():
            outcomes[await _keep(bridge, asked, json.loads(line))] += 1
    state.unlink()
    return outcomes


async def _keep(bridge: Bridge, asked: Mapping[str, Question], answered: dict[str, Any]) -> str:
    line = bridge.asker.lines[0]
    question = asked.get(answered.get("custom_id", ""))
    response = answered.get("response") or {}
    if question is None:
        return "unknown"  # answered meanwhile, or the file of texts was changed
    if response.get("status_code") != 200:
        return Reason.UNAVAILABLE
    try:
        reply = reply_of(ChatCompletion.model_validate(response["body"]), 0.0)
    except (KeyError, ValidationError):
        return Reason.UNAVAILABLE
    request = question.requests(0)[0]
    reserved = estimate(request)
    await bridge.asker.account(line, reply, reserved, _price(bridge, reserved), DISCOUNT)
    try:
        await bridge.asker.keep(line, request, question, reply)
    except LLMError as error:
        return error.reason
    return "fresh"


def _price(bridge: Bridge, usage: Usage) -> int:
    return round((1 - DISCOUNT) * usage.cost(bridge.settings.endpoint[0]))


def _batch(state: Path, endpoint: str) -> str:
    value = atomic.read_versioned(state, FORMAT, "`smallm llm annotate --batch` writes it")
    if value.get("endpoint") != endpoint or not isinstance(value.get("batch"), str):
        raise DataError("belongs to a batch at another endpoint", source=str(state), field="endpoint")
    return str(value["batch"])
