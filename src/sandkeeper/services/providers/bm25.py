"""Ranks documents for `local.Local`: a program that reads a job on stdin, writes pairs to stdout.

In: `{"query": text, "documents": [text, …]}`; out: `[[index, score], …]`, best first, the best
document's score being 1 and documents that share no word with the query absent.
"""

import re
import sys

import msgspec

__all__ = ["rank", "words"]

_WORD = re.compile(r"[^\W_]+")
_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(text: str) -> list[str]:
    """Split text and identifiers into lower-case words: `parseHTTPReply` has three."""
    return [part.lower() for word in _WORD.findall(text) for part in _CASE.split(word) if part]


def rank(query: str, documents: list[str]) -> list[tuple[int, float]]:
    """Score every document against the query."""
    import bm25s

    wanted = words(query)
    corpus = [words(text) or [""] for text in documents]
    if not wanted or not corpus:
        return []
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    known = [word for word in wanted if word in index.vocab_dict]
    if not known:
        return []
    scores = index.get_scores(known)
    best = float(max(scores))
    if best <= 0:
        return []
    order = sorted(range(len(documents)), key=lambda item: (-scores[item], item))
    return [(item, round(float(scores[item]) / best, 6)) for item in order if scores[item] > 0]


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read())
    sys.stdout.buffer.write(msgspec.json.encode(rank(job["query"], job["documents"])))


if __name__ == "__main__":
    main()
