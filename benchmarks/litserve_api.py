"""What LitServe serves in `peers.py`: a module of its own, because LitServe's workers are spawned and import it."""

from __future__ import annotations

from typing import Any

import litserve
from peers import recognizer


class Recognize(litserve.LitAPI):  # type: ignore[misc]
    """Texts in, JSON out, in batches."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the model, in a worker."""
        self.run = recognizer(self.folder)

    def decode_request(self, request: dict[str, str]) -> str:
        """The text."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """A batch is a list."""
        return inputs

    def predict(self, inputs: list[str]) -> list[str]:
        """Answer a batch."""
        return self.run(inputs)

    def unbatch(self, output: list[str]) -> list[str]:
        """Its answers."""
        return output

    def encode_response(self, output: str) -> dict[str, str]:
        """One answer."""
        return {"entities": output}
