"""Entities: spans of words, written as a tag for each word (IOB2: B-PER I-PER O; IOBES: also S-PER, E-PER)."""

import re
from collections.abc import Sequence

import datasets
import evaluate

TAG = re.compile(r"O|[BIES]-.+")


def are_tags(names: Sequence[str]) -> bool:
    """Whether all these classes are tags of entities, and one of them may begin an entity."""
    return all(TAG.fullmatch(name) for name in names) and any(name[:2] in ("B-", "I-", "S-") for name in names)


def spans_of(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities of a row: first word, word behind the last one, and kind.

    As conlleval (Tjong Kim Sang and Buchholz 2000, arXiv cs/0009008) reads them, what goes on without a beginning
    begins: O I-PER, B-LOC I-PER and E-PER I-PER each begin a person.
    """
    spans, start, before = set(), None, "O"
    for word, tag in enumerate([*tags, "O"]):
        begins = tag != "O" and (tag[0] in "BS" or before == "O" or before[0] in "ES" or tag[2:] != before[2:])
        if start is not None and (begins or tag == "O"):
            spans.add((start, word, before[2:]))
            start = None
        if begins:
            start = word
        before = tag
    return spans


class EntityScores(evaluate.Metric):
    """Precision, recall and F1 of whole entities: one is found where its first word, last word and kind are right.

    `compute(predictions=..., references=...)` takes a list of tags for each row.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = dict.fromkeys(("predictions", "references"), datasets.Sequence(datasets.Value("string")))
        return evaluate.MetricInfo(
            description="Precision, recall, F1 of entities.", citation="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        answered, real, right = 0, 0, 0
        for tags, truth in zip(predictions, references, strict=True):
            found, there = spans_of(tags), spans_of(truth)
            answered, real, right = answered + len(found), real + len(there), right + len(found & there)
        return {
            "entity_precision": right / answered if answered else 0.0,
            "entity_recall": right / real if real else 0.0,
            "entity_f1": 2 * right / (answered + real) if answered + real else 0.0,
        }
