"""Text, words and symbols of one's own: found, trained by the script, answered by a pipeline from what was saved."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import tiny_config
from tokenizers import processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, pipeline

import fpt_adapters
from fpt_adapters.run import training as run_fpt
from fpt_adapters.tasks import SequenceClassification, TextClassification, TokenClassification
from fpt_adapters.tasks.words import on_first_pieces


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def rows_in(tmp_path):
    """A function that writes columns into a file and returns its path."""

    def write(name="train", **columns):
        path = tmp_path / f"{name}.parquet"
        datasets.Dataset.from_dict(columns).to_parquet(path)
        return str(path)

    return write


def run(task, base, folder, *flags):
    training = ["--do_train", "--do_eval", "--max_steps", "2", "--use_cpu", "--disable_tqdm", "true"]
    named = ["--task_name", task, "--model_name_or_path", str(base), "--output_dir", str(folder)]
    return run_fpt.main([*named, *training, "--save_strategy", "no", *flags])


TEXT = ["good film", "bad film", "very good very good film", "not good"] * 5
LABELS = {  # what stands in the label column, the problem that it poses, its labels, a score
    "classes": (["pos", "neg", "pos", "neg"] * 5, "single_label_classification", ("neg", "pos"), "accuracy"),
    "several": ([["a"], ["b"], ["a", "b"], []] * 5, "multi_label_classification", ("a", "b"), "micro_f1"),
    "numbers": ([1.5, 0.5, 3.0, 0.25] * 5, "regression", ("label",), "r2"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_text_trains_and_a_pipeline_answers_from_what_was_saved(kind, text_base, rows_in, tmp_path):
    labels, problem, names, score = LABELS[kind]
    results = run("text-classification", text_base, tmp_path / "out", "--train_file", rows_in(text=TEXT, label=labels))
    assert {f"eval_{score}", f"eval_floor_{score}"} <= results.keys()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["input_type"] == "native"
    assert config["sequence_length"] == 7  # of the longest, with [CLS] and [SEP]
    assert config["problem_type"] == problem
    assert tuple(config["id2label"].values()) == names
    place = {"base_model_name_or_path": str(text_base)}
    classify = pipeline("text-classification", model=str(tmp_path / "out"), model_kwargs=place, truncation=True)
    answers = classify(["good film", "very bad film " * 9], batch_size=2)
    assert all(answer["label"] in names for answer in answers)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "text, as up to 7 tokens of the base's own vocabulary of 100" in card


def test_a_base_without_padding_fills_up_with_its_end(text_base, rows_in, tmp_path, warned):
    base = tmp_path / "gpt2"
    torch.manual_seed(1)
    AutoModel.from_config(tiny_config("gpt2")).save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(text_base)
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.Sequence([])
    ended = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="[SEP]", unk_token="[UNK]", padding_side="left"
    )
    ended.save_pretrained(base)
    run("text-classification", base, tmp_path / "out", "--train_file", rows_in(text=TEXT, label=[0, 1] * 10))
    assert "no field of FPTConfig" not in warned.text
    place = {"base_model_name_or_path": str(base)}
    classify = pipeline("text-classification", model=str(tmp_path / "out"), model_kwargs=place)
    together, alone = classify(["good film", "very bad film"], batch_size=2), classify(["good film"])
    assert together[0]["label"] == alone[0]["label"]
    assert together[0]["score"] == pytest.approx(alone[0]["score"], abs=1e-5)


def test_pairs_are_told_apart_by_their_segments(text_base, rows_in):
    columns = {"first": TEXT, "second": TEXT[::-1], "label": [0, 1] * 10}
    task = TextClassification(train_file=rows_in(**columns), text_column="first, second")
    task.base = str(text_base)
    batch = task.collate([task.load().train[number] for number in range(3)])
    assert batch.keys() == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert batch["token_type_ids"].max() == 1
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()


def test_what_is_cut_is_counted(text_base, rows_in, caplog):
    task = TextClassification(train_file=rows_in(text=TEXT, label=[0, 1] * 10), max_length=5)
    task.base = str(text_base)
    data = task.load()
    assert data.config["sequence_length"] == task.processor().model_max_length == 5
    assert max(len(row["input_ids"]) for row in data.train) == 5
    cut = sum("more than max_length=5" in record.getMessage() for record in caplog.records)
    assert cut >= 1
    assert "the longest has 7" in caplog.text
    assert "write a larger --max_length" in caplog.text


@pytest.mark.parametrize(("most", "reads"), [(None, [16, 2, 2]), (5, [16, 5, 2, 2])], ids=["all", "cut"])
def test_rows_are_tokenized_once_and_those_that_are_cut_again(most, reads, text_base, rows_in, monkeypatch):
    task = TextClassification(train_file=rows_in(text=TEXT, label=[0, 1] * 10), max_length=most)
    task.base = str(text_base)
    read, call = [], PreTrainedTokenizerFast.__call__

    def counting(self, text, **settings):
        read.append(len(text))
        return call(self, text, **settings)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counting)
    data = task.load()  # sixteen rows train, two validate, two test; the five that are long are in training
    assert read == reads
    plain = task.processor()
    for part in (data.train, data.test):
        for example in part:
            text = plain.decode(example["input_ids"], skip_special_tokens=True)
            assert plain(text, truncation=True)["input_ids"] == example["input_ids"].tolist()


WORDS = [["Anna", "saw", "Paris"], ["Anna", "saw", "Anna", "not", "Paris"]] * 6
TAGS = [["B-PER", "O", "B-LOC"], ["B-PER", "O", "B-PER", "O", "B-LOC"]] * 6


def test_words_train_and_a_pipeline_answers(text_base, rows_in, tmp_path):
    train = rows_in(tokens=WORDS, tags=TAGS)
    results = run(
        "token-classification", text_base, tmp_path / "out", "--train_file", train, "--learning_rate", "0.03"
    )
    assert {"eval_accuracy", "eval_macro_f1", "eval_floor_accuracy", "eval_entity_f1"} <= results.keys()
    assert results["eval_floor_entity_f1"] < 1
    place = {"base_model_name_or_path": str(text_base)}
    tag = pipeline("token-classification", model=str(tmp_path / "out"), model_kwargs=place)
    assert {answer["entity"] for answer in tag("Anna saw Paris")} <= {"B-PER", "B-LOC", "O"}


def test_each_word_has_an_answer(text_base, rows_in, tmp_path):
    train = rows_in(tokens=WORDS, tags=TAGS)
    run("token-classification", text_base, tmp_path / "out", "--train_file", train, "--max_length", "6")
    tag = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=text_base)
    rows = [["Anna", "saw", "Anna"], ["Paris"], ["not"] * 6]  # six pieces with [CLS] and [SEP]; three; eight
    answers = tag(rows, batch_size=2)
    assert [len(answer["label"]) for answer in answers] == [3, 1, 6]
    assert [label is None for label in answers[2]["label"]] == [False] * 4 + [True] * 2  # those that are cut off
    assert tag([" ".join(row) for row in rows]) == tag(datasets.Dataset.from_dict({"id": [1, 2, 3], "words": rows}))
    assert tag(rows[:1])[0]["label"] == answers[0]["label"]
    ids = torch.tensor([[2, 8, 9, 11, 3]])  # [CLS] ann ##a saw [SEP]
    with torch.no_grad():
        numbers = tag.model(input_ids=ids).logits.argmax(dim=-1)[0]
    assert tag(["Anna saw"])[0]["label"] == [tag.model.config.id2label[numbers[token].item()] for token in (1, 3)]


ROWS = {  # task, its columns, new rows, which column has the inputs
    "pairs": ("text-classification", {"first": TEXT, "second": TEXT[::-1]}, "first, second", [("good", "bad film")]),
    "symbols": ("sequence-classification", {"sequence": [["AB", "C"], ["D"]] * 10}, None, [["D", "AB", "new"]]),
    "ids": ("sequence-classification", {"sequence": [[7, 8], [9]] * 10}, None, [[9, 9, 7]]),
}


@pytest.mark.parametrize(("task", "columns", "named", "new"), ROWS.values(), ids=ROWS)
def test_rows_of_several_texts_are_answered_as_they_were_trained(
    task, columns, named, new, text_base, rows_in, tmp_path
):
    flags = ["--train_file", rows_in(**columns, label=[0, 1] * 10)]
    run(task, text_base, tmp_path / "out", *flags, *(["--text_column", named] if named else []), "--do_predict")
    place = {"base_model_name_or_path": text_base, "input_column": named}
    classify = fpt_adapters.pipeline(tmp_path / "out", **place)
    answers = classify(datasets.Dataset.from_dict(columns), batch_size=7)
    saved = np.load(tmp_path / "out" / "test_predictions.npz")["predictions"]
    probabilities = np.exp(saved) / np.exp(saved).sum(axis=1, keepdims=True)
    for row in probabilities:
        assert min(abs(answer["score"] - row.max()) for answer in answers) < 1e-4
    assert len(classify(new)) == 1
    with pytest.raises(ValueError, match="each row needs a text, but row 1 has None"):
        classify([new[0], None])


def test_a_words_first_piece_has_its_label(text_base, rows_in):
    task = TokenClassification(train_file=rows_in(tokens=WORDS, tags=TAGS))
    task.base = str(text_base)
    data = task.load()
    assert data.config["id2label"] == {0: "B-LOC", 1: "B-PER", 2: "O"}
    short = next(row for row in data.train if len(row["labels"]) == 6)
    assert short["input_ids"].tolist() == [2, 8, 9, 11, 12, 3]  # [CLS] ann ##a saw paris [SEP]
    assert short["labels"].tolist() == [-100, 1, -100, 2, 0, -100]
    batch = task.collate([data.train[number] for number in range(len(data.train))])
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert len({len(row["labels"]) for row in data.train}) > 1
    assert all(task.floors(split)["accuracy"] <= 0.5 for split in (data.train, data.test))
    assert on_first_pieces([None, 0, 1, 1, None], np.array([5, 6])).tolist() == [-100, 5, 6, -100, -100]


SYMBOLS = {  # a column of sequences, flags, the vocabulary, a new row as a pipeline takes it
    "letters": (["ACGT", "AAC", "GGTA", "C"] * 5, [], "ACGT", "ACGGT"),
    "words": (["open read close", "open close", "read"] * 6, ["--symbol_separator", " "], 3, "open read new"),
    "ids": ([[7, 8, 9], [7, 300], [8]] * 6, [], 4, "7 300"),
}


@pytest.mark.parametrize("kind", SYMBOLS)
def test_symbols_have_a_vocabulary_of_their_own(kind, text_base, rows_in, tmp_path):
    column, more, vocabulary, row = SYMBOLS[kind]
    labels = [number % 2 for number in range(len(column))]
    flags = ["--train_file", rows_in(sequence=column, label=labels), *more]
    run("sequence-classification", text_base, tmp_path / "out", *flags)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    count = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
    assert config["vocab_size"] == count + 2
    assert config["pad_token_id"] == 0
    assert config["sequence_length"] == (4 if kind == "letters" else 3)
    place = {"base_model_name_or_path": str(text_base)}
    classify = pipeline("text-classification", model=str(tmp_path / "out"), model_kwargs=place, truncation=True)
    assert classify([row])[0]["label"] in ("0", "1")
    answers = fpt_adapters.pipeline(tmp_path / "out", **place)(column[:2])  # rows as the file has them
    assert [answer["label"] in ("0", "1") for answer in answers] == [True, True]


def test_symbols_of_no_training_row_are_said(rows_in, caplog):
    files = {name: rows_in(name, sequence=["AC", "CA"] * 5, label=[0, 1] * 5) for name in ("train", "test")}
    files["validation"] = rows_in("validation", sequence=["AX", "XX"], label=[0, 1])
    task = SequenceClassification(**{f"{name}_file": path for name, path in files.items()})
    data = task.load()
    assert [row["input_ids"].tolist() for row in data.validation] == [[2, 1], [1, 1]]
    assert "3 symbols of the validation split" in caplog.text


def test_symbols_are_read_as_far_as_the_base_has_positions(text_base, rows_in, tmp_path, capsys, caplog):
    flags = ["--train_file", rows_in(sequence=["A" * (60 + 4 * (row % 3)) for row in range(30)], label=[0, 1] * 15)]
    run("sequence-classification", text_base, tmp_path / "out", *flags)
    assert "60 to 68 symbols out of 1, of which it reads 64" in capsys.readouterr().out
    assert "and were cut to it (the longest has 68): the base reads no more." in caplog.text
    resumed = [*flags, "--base_model_name_or_path", str(text_base)]
    run("sequence-classification", tmp_path / "out", tmp_path / "again", *resumed)
    with pytest.raises(ValueError, match="reads 64 tokens at most, got max_length=65"):
        run("sequence-classification", text_base, tmp_path / "long", "--max_length", "65", *flags)


WRONG = [  # task, columns, arguments, message
    (TextClassification, {"text": ["good", None, "bad"]}, {}, r"needs a text, but row \d+ of the train split"),
    (TextClassification, {"text": ["good", " ", "bad"]}, {}, r"row \d+ .* has none in column 'text'"),
    (TextClassification, {"number": [1, 2, 3]}, {}, "no column that looks right for text_column"),
    (TextClassification, {"number": [1, 2, 3]}, {"text_column": "number"}, "texts are strings, but column 'number'"),
    (TextClassification, {"text": ["a"] * 3}, {"text_column": "text,text,text"}, "one text, or two"),
    (TextClassification, {"text": ["a"] * 3}, {"max_length": 65}, "the base reads 64 tokens at most"),
    (TokenClassification, {"tokens": [["a"], ["b", "a"], ["a"]]}, {}, "lists of strings or whole numbers"),
    (SequenceClassification, {"sequence": ["A", "", "B"]}, {}, r"row \d+ .* has none"),
    (SequenceClassification, {"sequence": [["A"], ["A B"], ["B"]]}, {}, "has 'A B' in it"),
    (SequenceClassification, {"sequence": [["A"], ["<pad>"], ["B"]]}, {}, "'<pad>' or '<unk>' among them"),
    (SequenceClassification, {"sequence": [0.5, 1.0, 2.0]}, {"sequence_column": "sequence"}, "sequences are strings"),
]


@pytest.mark.parametrize(("task_class", "columns", "arguments", "message"), WRONG)
def test_wrong_rows_are_named(task_class, columns, arguments, message, text_base, rows_in):
    columns = {name: values * 4 for name, values in columns.items()}
    task = task_class(train_file=rows_in(**columns, label=[0, 1, 1] * 4), **arguments)
    task.base = str(text_base)
    with pytest.raises(ValueError, match=message):
        task.load()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            [["X"], ["X", "Y"]],
            "row 0 of the train split .* has 2 words in column 'tokens' and 1 labels in column 'tags'",
        ),
        ([["X", None], ["X", "Y"]], "row 0 .* lacks that of word 1"),
        ([["X", "Y"], ["Y", "X"], ["Y", "new"]], "label 'new' in word 1 of row 0 of the test split"),
        ([["X", "X"], ["X", "X"]], "needs rows of two classes"),
    ],
)
def test_words_and_labels_that_do_not_match_are_named(tags, message, text_base, rows_in):
    columns = {"tokens": [["good", "film"]] * 12, "tags": tags[:2] * 6}
    test = {"test_file": rows_in("test", tokens=[["good", "film"]], tags=tags[2:])} if tags[2:] else {}
    task = TokenClassification(train_file=rows_in(**columns), **test)
    task.base = str(text_base)
    with pytest.raises(ValueError, match=message):
        task.load()


@pytest.mark.parametrize("base", [None, "bare"])
def test_a_base_without_a_tokenizer_is_named(base, text_base, rows_in):
    task = TextClassification(train_file=rows_in(text=TEXT, label=[0, 1] * 10))
    task.base = base and str(Path(text_base).parent / base)
    with pytest.raises(ValueError, match="write --tokenizer_name"):
        task.load()
