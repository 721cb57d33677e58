"""`smallm convert`: annotated text from one format to another."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from smallm.documents import cut_sentences
from smallm.formats import FORMATS, SUFFIXES, read_documents, write_documents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    by_suffix = ", ".join(f"{suffix} is {name}" for suffix, name in SUFFIXES.items())
    parser.add_argument("input", type=Path, help="file, or folder for brat")
    parser.add_argument("output", type=Path, help="file, or folder for brat")
    parser.add_argument("--from", dest="source", choices=list(FORMATS), default="", help=f"default: {by_suffix}")
    parser.add_argument("--to", dest="target", choices=list(FORMATS), default="", help="default: by the suffix")
    parser.add_argument("--cut-sentences", action="store_true", help="cut long records after 。 outside entities")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    documents = read_documents(args.input, args.source)
    if args.cut_sentences:
        documents = [sentence for document in documents for sentence in cut_sentences(document)]
    write_documents(args.output, documents, args.target)
    types = Counter(span.type for document in documents for span in document.spans)
    counts = ", ".join(f"{type_} {count}" for type_, count in sorted(types.items()))
    print(f"{len(documents)} texts, {sum(types.values())} entities ({counts or 'none'}) to {args.output}")
    return 0
