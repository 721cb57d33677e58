"""Named-entity recognition that fuses a small local encoder with a large language model.

This package is the vocabulary the others share: labels, spans, documents and their formats,
tokenisation, the LLM bridge, the bundle format, the gRPC stubs and the client. Importing it
loads nothing beyond the standard library; each submodule imports what its own job needs.
"""

__version__ = "0.1.0"
