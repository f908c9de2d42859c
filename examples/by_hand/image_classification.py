"""Classify images, by hand: datasets -> FPTImageProcessor -> a Trainer -> pipeline.

python examples/by_hand/image_classification.py BASE train.parquet test.parquet OUT [--stock]
accuracy 60.0%, the most frequent class 12.2%

MNIST (1,000 images to train on, 500 others), on all-MiniLM-L6-v2; `--stock`: by transformers' own Trainer.

Rows: `image`, and `label`, a ClassLabel.
"""

import sys
from collections import Counter

from datasets import load_dataset
from sklearn.metrics import accuracy_score
from transformers import Trainer, TrainingArguments, pipeline, set_seed

from fpt_adapters import FPTForImageClassification, FPTImageProcessor, FPTTrainer

base, train_file, test_file, out, *flags = sys.argv[1:]
trainer_class = Trainer if "--stock" in flags else FPTTrainer
set_seed(0)

rows = load_dataset("parquet", data_files={"train": train_file, "test": test_file})
names = rows["train"].features["label"].names
processor = FPTImageProcessor.fit(rows["train"]["image"][:])  # size, channels, scale, patches
examples = rows.with_transform(  # each image is read when its turn comes
    lambda batch: {"pixel_values": processor(batch["image"])["pixel_values"], "labels": batch["label"]}
)

model = FPTForImageClassification.from_backbone(base, id2label=dict(enumerate(names)), **processor.config_fields)
trainer = trainer_class(
    model,
    TrainingArguments(out, num_train_epochs=5, learning_rate=1e-3, save_strategy="no", remove_unused_columns=False),
    train_dataset=examples["train"],
    eval_dataset=examples["test"],
    processing_class=processor,
    compute_metrics=lambda p: {"accuracy": accuracy_score(p.label_ids, p.predictions.argmax(axis=-1))},
)
trainer.train()
accuracy = trainer.evaluate()["eval_accuracy"]
floor = Counter(rows["test"]["label"]).most_common(1)[0][1] / len(rows["test"])
print(f"accuracy {accuracy:.1%}, the most frequent class {floor:.1%}")

trainer.save_model(out)  # and, to share it: model.push_to_hub("you/name")
where = {"base_model_name_or_path": base}  # only where the base has no Hub id
classify = pipeline("image-classification", model=out, model_kwargs=where)
print(classify(rows["test"]["image"][:3], top_k=1))  # raw images, or the paths of some
