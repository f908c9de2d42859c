"""Classify sounds, by hand: datasets -> FPTAudioFeatureExtractor -> a Trainer -> pipeline.

python examples/by_hand/audio_classification.py BASE train.parquet test.parquet OUT [--stock]
accuracy 63.0%, the most frequent class 10.0%

Spoken digits of two speakers (1,000 clips), answered for a third (500), on all-MiniLM-L6-v2; `--stock`: by
transformers' own Trainer.

Rows: `audio` (wav, flac or ogg files), and `label`, a text or a whole number.
"""

import sys
from collections import Counter

from datasets import Audio, ClassLabel, load_dataset
from sklearn.metrics import accuracy_score
from transformers import Trainer, TrainingArguments, set_seed

import fpt_adapters
from fpt_adapters import FPTAudioFeatureExtractor, FPTForAudioClassification, FPTTrainer

base, train_file, test_file, out, *flags = sys.argv[1:]
trainer_class = Trainer if "--stock" in flags else FPTTrainer
set_seed(0)

rows = load_dataset("parquet", data_files={"train": train_file, "test": test_file})
names = [str(label) for label in sorted(set(rows["train"]["label"]))]
rows = rows.cast_column("label", ClassLabel(names=names)).cast_column("audio", Audio(decode=False))
extractor = FPTAudioFeatureExtractor.fit(rows["train"]["audio"])  # rate, length, scale of each band, patches
examples = rows.with_transform(lambda batch: {**extractor(batch["audio"]), "labels": batch["label"]})

model = FPTForAudioClassification.from_backbone(base, id2label=dict(enumerate(names)), **extractor.config_fields)
trainer = trainer_class(
    model,
    TrainingArguments(out, num_train_epochs=10, learning_rate=1e-3, save_strategy="no", remove_unused_columns=False),
    train_dataset=examples["train"],
    eval_dataset=examples["test"],
    processing_class=extractor,
    compute_metrics=lambda p: {"accuracy": accuracy_score(p.label_ids, p.predictions.argmax(axis=-1))},
)
trainer.train()
accuracy = trainer.evaluate()["eval_accuracy"]
floor = Counter(rows["test"]["label"]).most_common(1)[0][1] / len(rows["test"])
print(f"accuracy {accuracy:.1%}, the most frequent class {floor:.1%}")

trainer.save_model(out)  # and, to share it: model.push_to_hub("you/name")
answer = fpt_adapters.pipeline(out, base_model_name_or_path=base)  # the base only where it has no Hub id
print(answer(rows["test"].select(range(3))))  # raw rows; also the paths of files
