"""Classify time series, by hand: datasets -> FPTFeatureExtractor -> a Trainer -> pipeline.

python examples/by_hand/time_series_classification.py BASE train.parquet test.parquet OUT [--stock]
accuracy 82.0%, the most frequent class 50.7%

GunPoint (50 series to train on, 150 others), on all-MiniLM-L6-v2; the same with `--stock`, transformers' own Trainer.

Rows: `values`, a list of numbers for each step (or one number), and `label`, a ClassLabel.
"""

import sys
from collections import Counter

from datasets import load_dataset
from sklearn.metrics import accuracy_score
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

import fpt_adapters
from fpt_adapters import FPTFeatureExtractor, FPTForSequenceClassification, FPTTrainer

base, train_file, test_file, out, *flags = sys.argv[1:]
trainer_class = Trainer if "--stock" in flags else FPTTrainer
set_seed(0)

rows = load_dataset("parquet", data_files={"train": train_file, "test": test_file})
names = rows["train"].features["label"].names
extractor = FPTFeatureExtractor.fit(rows["train"]["values"])  # length, channels, scale, patches
examples = rows.map(lambda batch: extractor(batch["values"], truncation=True), batched=True)

model = FPTForSequenceClassification.from_backbone(base, id2label=dict(enumerate(names)), **extractor.config_fields)
trainer = trainer_class(
    model,
    TrainingArguments(out, num_train_epochs=60, learning_rate=1e-3, save_strategy="no"),
    train_dataset=examples["train"],
    eval_dataset=examples["test"],
    data_collator=DataCollatorWithPadding(extractor),
    processing_class=extractor,
    compute_metrics=lambda p: {"accuracy": accuracy_score(p.label_ids, p.predictions.argmax(axis=-1))},
)
trainer.train()
accuracy = trainer.evaluate()["eval_accuracy"]
floor = Counter(rows["test"]["label"]).most_common(1)[0][1] / len(rows["test"])
print(f"accuracy {accuracy:.1%}, the most frequent class {floor:.1%}")

trainer.save_model(out)  # and, to share it: model.push_to_hub("you/name")
answer = fpt_adapters.pipeline(out, base_model_name_or_path=base)  # the base only where it has no Hub id
print(answer(rows["test"].select(range(3))))  # raw rows
