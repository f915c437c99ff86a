"""Story progression: the corruptions, where a story is cut, and the score against plain arithmetic."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_support import plainly, small_model, small_tokenizer, write_rows

from lilliput.errors import UserError
from lilliput.evaluate.corruptions import LEAST_WORDS, SCALES, corruptions
from lilliput.evaluate.progression import halves
from lilliput.evaluate.task import open_task, run_task

STORY = (
    "The cat that sat on the mats was asleep, and nobody had ever been there before. The child who never saw the sea "
    "was asleep too, but the cats on the mat were not; they sat and saw light and water."
)
WORDS = st.text("abcdeé世.,", min_size=1, max_size=6)
TEXTS = st.lists(WORDS, min_size=LEAST_WORDS, max_size=40).map(" ".join)


def test_each_corruption_does_what_its_name_says():
    text = halves(STORY)[1]
    spoilt = dict(corruptions(text, STORY))
    assert set(spoilt) == set(SCALES)
    words = text.split()
    for name, other in spoilt.items():
        assert other != text
        if name.endswith("shuffle") or name.startswith("ngram"):
            assert Counter(re.sub(r"\s", "", other)) == Counter(re.sub(r"\s", "", text))
    assert len(spoilt["random_byte_deletion"]) == len(text) - round(len(text) / 10)
    assert len(spoilt["random_byte_insertion"]) == len(text) + round(len(text) / 10)
    assert len(spoilt["random_byte_substitution"]) == len(text)
    assert len(spoilt["random_word_deletion"].split()) == len(words) - round(len(words) / 10)
    assert len(spoilt["random_word_insertion"].split()) == len(words) + round(len(words) / 10)
    assert Counter(spoilt["word_shuffle"].split()) == Counter(words)
    for size in (3, 5, 7, 12):
        groups = [tuple(words[at : at + size]) for at in range(0, len(words), size)]
        mixed = spoilt[f"ngram_shuffle_{size}"]
        assert all(" ".join(group) in mixed for group in groups)
    assert "but the cats on the mat were not;" in spoilt["parse_tree_shuffle"]


def test_phrases_keep_what_stands_between_marks_without_a_blank():
    text = '"Hi!" he said, and took 3.14 of the pies that were there for us all'
    spoilt = dict(corruptions(text, text))["parse_tree_shuffle"]
    assert '"Hi!" he said,' in spoilt
    assert "3.14" in spoilt
    assert spoilt.split() != text.split()


@given(TEXTS)
def test_corruptions_are_texts_and_the_same_each_time(text):
    found = list(corruptions(text, text))
    assert found == list(corruptions(text, text))
    assert all(other != text and other.encode().decode() == other for _, other in found)


@given(TEXTS, TEXTS)
def test_a_story_is_cut_between_words(first, second):
    story, continuation = halves(f"{first}\n{second}")
    words = f"{first}\n{second}".split()
    assert words[: len(story.split())] == story.split()
    assert words[len(story.split()) :][: len(continuation.split())] == continuation.split()
    assert len(continuation.split()) >= LEAST_WORDS


def test_scores_are_those_of_plain_arithmetic(tmp_path):
    tokenizer = small_tokenizer()
    model = small_model(tokenizer, context=160)
    other = STORY.replace("cat", "child").replace("asleep", "before")
    write_rows(tmp_path / "story_progression.jsonl", [{"text": STORY}, {"text": "Too short."}, {"text": other}])
    found = run_task(model, tokenizer, open_task("story_progression", tmp_path))

    def log_p(story, text):
        ids = [tokenizer.bos_id, *tokenizer.encode(f"{story} {text}")]
        return plainly(model, ids, len(ids) - 1 - len(tokenizer.encode(story)))[0]

    right = {}
    for text in (STORY, other):
        story, continuation = halves(text)
        true = log_p(story, continuation)
        right[text] = {name: true > log_p(story, bad) for name, bad in corruptions(continuation, text)}
    assert {name: row["acc"] for name, row in found["corruptions"].items()} == {
        name: np.mean([own[name] for own in right.values()]) for name in SCALES
    }
    shares = [np.mean(list(own.values())) for own in right.values()]
    assert found["acc"] == pytest.approx(np.mean(shares))
    assert found["stderr"] == pytest.approx(np.std(shares, ddof=1) / 2**0.5)
    assert (found["items"], found["stories"], found["mean_of"]) == (26, 2, "corruptions")
    assert found["all"] == np.mean([all(own.values()) for own in right.values()])
    assert set(found["scales"]) == {"bytes", "words", "phrases"}
    few = run_task(model, tokenizer, open_task("story_progression", tmp_path, limit=2))
    assert (few["items"], few["stories"], few["all"]) == (2, 2, None)


def test_the_published_rows_and_rows_that_hold_no_story(tmp_path):
    row = {"first_n_words": "The cat sat", "actual_continuation": "on the mat", "word_shuffle": "mat the on", "id": 3}
    file = write_rows(tmp_path / "set.jsonl", [row])
    task = open_task("story_progression", file)
    assert [(item.story, item.continuation, item.corrupted) for item in task.items] == [
        ("The cat sat", "on the mat", "mat the on")
    ]
    write_rows(file, [{"title": "The cat"}])
    with pytest.raises(UserError, match=r"holds no story: it has no text .*set.jsonl:1"):
        open_task("story_progression", file)
    write_rows(file, [{"text": "The cat."}])
    with pytest.raises(UserError, match="none of the rows is an item of story_progression"):
        open_task("story_progression", file)
