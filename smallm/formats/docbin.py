"""spaCy's DocBin: compressed msgpack of documents with `doc.ents`. Needs the extra `spacy`.

A document is written with one token a character, so that no tokenizer decides where an entity may
end; its id goes to `doc.user_data["id"]`. Any tokenization is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallm import atomic
from smallm.documents import Document, Span
from smallm.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from spacy.tokens import Doc


class DocBinFile:
    """See `smallm.formats.Format`."""

    def read(self, path: Path) -> Iterator[Document]:
        """Yield a document for each Doc; ids default to their number from 1.

        Raises DataError for a file that is no DocBin, MissingExtraError without spaCy.
        """
        tokens, vocab = _spacy()
        try:
            content = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise DataError("no such file", source=str(path)) from None
        try:
            docs = list(tokens.DocBin().from_bytes(content).get_docs(vocab.Vocab()))
        except Exception as error:  # whatever spaCy trips over: zlib, msgpack, numpy, its own error codes
            message = f"not a spaCy DocBin ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
            raise DataError(f"{message}; write one with `DocBin.to_disk`", source=str(path)) from None
        for number, doc in enumerate(docs, start=1):
            yield _document(doc, number, str(path))

    def write(self, path: Path, documents: Iterable[Document]) -> None:
        """Write one DocBin in one step. Raises MissingExtraError without spaCy."""
        tokens, vocab = _spacy()
        shared = vocab.Vocab()
        written = tokens.DocBin(attrs=["ORTH", "SPACY", "ENT_IOB", "ENT_TYPE"], store_user_data=True)
        for document in documents:
            words = list(document.text)
            doc = tokens.Doc(shared, words=words, spaces=[False] * len(words), user_data={"id": document.id})
            doc.set_ents([tokens.Span(doc, span.start, span.end, label=span.type) for span in document.spans])
            written.add(doc)
        with atomic.new_file(path) as temporary:
            temporary.write_bytes(written.to_bytes())


def _document(doc: Doc, number: int, source: str) -> Document:
    given = doc.user_data.get("id")
    spans = (Span(entity.start_char, entity.end_char, entity.label_) for entity in doc.ents)
    try:
        unnamed = [entity.text for entity in doc.ents if not entity.label_]
        if unnamed:
            raise DataError(f"the entity '{unnamed[0]}' has no label")
        return Document(given if isinstance(given, str) else str(number), doc.text, tuple(sorted(spans)))
    except DataError as error:
        raise DataError(str(error), source=source, field=f"docs[{number - 1}].ents") from None


def _spacy() -> tuple[Any, Any]:
    """spaCy's `tokens` and `vocab` modules."""
    try:
        import spacy.tokens
        import spacy.vocab
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the format 'spacy' needs {error.name}, which is not installed: pip install 'smallm[spacy]'"
        ) from None
    return spacy.tokens, spacy.vocab
