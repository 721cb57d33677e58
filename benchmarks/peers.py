"""The same encoder behind other people's servers: `python benchmarks/peers.py litserve|pytriton MODEL_DIR PORT`.

MODEL_DIR is a transformers token-classification model with its tokenizer. Both batch dynamically, as their documents
advise, and answer a text with its entities as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

BATCH = 16
WAIT_S = 0.005  # that a batch waits to fill


def recognizer(folder: str) -> Callable[[Sequence[str]], list[str]]:
    """transformers' pipeline: texts to JSON."""
    from transformers.pipelines import pipeline

    recognize = pipeline("token-classification", model=folder, aggregation_strategy="simple", device="cpu")

    def run(texts: Sequence[str]) -> list[str]:
        found = recognize(list(texts), batch_size=len(texts))
        return [json.dumps([[one["start"], one["end"], one["entity_group"]] for one in of_text]) for of_text in found]

    return run


def litserve(folder: str, port: int) -> None:
    """POST /predict {"text": ...}."""
    import litserve_api
    from litserve import LitServer

    api = litserve_api.Recognize(folder, max_batch_size=BATCH, batch_timeout=WAIT_S)
    LitServer(api, accelerator="cpu").run(port=port, host="127.0.0.1", generate_client_file=False)


def pytriton(folder: str, port: int) -> None:
    """KServe v2 over HTTP: input `text`, output `entities`, both BYTES."""
    import numpy as np
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    run = recognizer(folder)

    @batch  # type: ignore[untyped-decorator]
    def infer(text: Any) -> dict[str, Any]:
        answers = run([one.decode() for one in text[:, 0]])
        return {"entities": np.array([[answer.encode()] for answer in answers], dtype=object)}

    config = ModelConfig(max_batch_size=BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=int(1e6 * WAIT_S)))
    with Triton(config=TritonConfig(http_port=port, grpc_port=port + 1, metrics_port=port + 2)) as triton:
        triton.bind(
            "ner", infer, [Tensor(name="text", dtype=bytes, shape=(1,))],
            [Tensor(name="entities", dtype=bytes, shape=(1,))], config=config,
        )  # fmt: skip
        triton.serve()


if __name__ == "__main__":
    {"litserve": litserve, "pytriton": pytriton}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
