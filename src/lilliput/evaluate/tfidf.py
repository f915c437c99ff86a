"""The baseline beside every table: TF-IDF and logistic regression, of scikit-learn (extra `lab`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lilliput.errors import MissingExtra

NAME = "TF-IDF + logistic regression"
# Words and pairs of words, sublinear counts, C = 10: fixed beforehand, never chosen by a test split.
_PAIRS, _C, _ITERATIONS = 2, 10.0, 1000


def check_baseline() -> None:
    """Raise MissingExtra where there is no scikit-learn, before hours of work."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise MissingExtra("scikit-learn", "lab") from None


def tfidf_guesses(
    texts: Sequence[str], labels: Sequence[int], asked: Sequence[str], *, balanced: bool = False
) -> npt.NDArray[np.int64]:
    """The label's number of each text in `asked`, told by a model of `texts` and their `labels`; of texts without a
    word, and where all labels are one, the commonest label. Raises MissingExtra without scikit-learn."""
    check_baseline()
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    known = np.asarray(labels, np.int64)
    commonest = np.full(len(asked), np.bincount(known).argmax())
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, _PAIRS), token_pattern=r"(?u)\b\w+\b")
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError:  # no text holds a word
        return commonest
    if len(set(known.tolist())) < 2:
        return commonest
    weights = "balanced" if balanced else None
    model = LogisticRegression(C=_C, max_iter=_ITERATIONS, class_weight=weights).fit(features, known)
    found: npt.NDArray[np.int64] = model.predict(vectorizer.transform(asked)).astype(np.int64)
    return found
