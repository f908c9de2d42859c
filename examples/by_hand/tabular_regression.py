"""Predict a number from a table, by hand: datasets -> FPTTableProcessor -> a Trainer -> pipeline.

python examples/by_hand/tabular_regression.py BASE train.csv test.csv OUT [--stock]
mean absolute error 43.42 (R2 0.45), always the mean 69.19

scikit-learn's diabetes, unscaled (342 rows to train on, 100 others), on all-MiniLM-L6-v2; `--stock`: by transformers'
own Trainer.

Rows: `target`, a number; all other columns are read, whatever they hold.
"""

import sys
from statistics import fmean, pstdev

from datasets import load_dataset
from sklearn.metrics import mean_absolute_error, r2_score
from transformers import Trainer, TrainingArguments, set_seed

import fpt_adapters
from fpt_adapters import FPTForSequenceClassification, FPTTableProcessor, FPTTrainer

base, train_file, test_file, out, *flags = sys.argv[1:]
trainer_class = Trainer if "--stock" in flags else FPTTrainer
set_seed(0)

rows = load_dataset("csv", data_files={"train": train_file, "test": test_file})
targets = rows["train"]["target"]
processor = FPTTableProcessor.fit(rows["train"].remove_columns("target")[:])  # kinds, categories, scale of columns
examples = rows.map(lambda batch: {**processor(batch), "labels": batch["target"]}, batched=True)

model = FPTForSequenceClassification.from_backbone(
    base,
    id2label={0: "target"},
    problem_type="regression",
    label_mean=[fmean(targets)],  # so that it answers in the data's own units
    label_scale=[pstdev(targets)],
    **processor.config_fields,
)
trainer = trainer_class(
    model,
    TrainingArguments(out, num_train_epochs=30, learning_rate=1e-3, save_strategy="no"),
    train_dataset=examples["train"],
    eval_dataset=examples["test"],
    processing_class=processor,
    compute_metrics=lambda p: {
        "mae": mean_absolute_error(p.label_ids, p.predictions),
        "r2": r2_score(p.label_ids, p.predictions),
    },
)
trainer.train()
scores = trainer.evaluate()
floor = mean_absolute_error(rows["test"]["target"], [fmean(targets)] * len(rows["test"]))
print(f"mean absolute error {scores['eval_mae']:.4g} (R2 {scores['eval_r2']:.2f}), always the mean {floor:.4g}")

trainer.save_model(out)  # and, to share it: model.push_to_hub("you/name")
answer = fpt_adapters.pipeline(out, base_model_name_or_path=base)  # the base only where it has no Hub id
print(answer(rows["test"].to_pandas().drop(columns="target").head(3)))  # raw rows
