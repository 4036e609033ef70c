"""Ranks documents for `local.Local`: a program that reads a job on stdin, writes pairs to stdout.

In: `{"query": text, "documents": [text, …]}`; out: `[[index, score], …]`, best first, the best
document's score being 1 and documents that share no word with the query absent.
"""

import math
import re
import sys
from collections import Counter

import msgspec

__all__ = ["rank", "words"]

K1 = 1.5
"""How soon more of the same word stops to count."""
B = 0.75
"""How much a long document has to make up for its length, 0 to 1."""

_WORD = re.compile(r"[^\W_]+")
_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(text: str) -> list[str]:
    """Split text and identifiers into lower-case words: `parseHTTPReply` has three."""
    return [part.lower() for word in _WORD.findall(text) for part in _CASE.split(word) if part]


def rank(query: str, documents: list[str]) -> list[tuple[int, float]]:
    """Score every document against the query: BM25 with Lucene's inverse document frequency.

    Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), 3.4; Lucene's form adds
    1 inside the logarithm, so that a word which most documents have still counts a little.
    """
    wanted = Counter(words(query))
    counted = [Counter(words(text)) for text in documents]
    lengths = [max(1, counts.total()) for counts in counted]
    mean = sum(lengths) / max(1, len(lengths))
    scores = [0.0] * len(documents)
    for word, times in wanted.items():
        having = [item for item, counts in enumerate(counted) if word in counts]
        rarity = math.log1p((len(documents) - len(having) + 0.5) / (len(having) + 0.5))
        for item in having:
            count = counted[item][word]
            damped = count / (count + K1 * (1 - B + B * lengths[item] / mean))
            scores[item] += times * rarity * damped
    best = max(scores, default=0.0)
    order = sorted(range(len(documents)), key=lambda item: (-scores[item], item))
    return [(item, round(scores[item] / best, 6)) for item in order if scores[item] > 0]


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read())
    sys.stdout.buffer.write(msgspec.json.encode(rank(job["query"], job["documents"])))


if __name__ == "__main__":
    main()
