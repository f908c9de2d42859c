"""Classify sequences of symbols, by hand: datasets -> a tokenizer of their own -> a Trainer -> pipeline.

python examples/by_hand/sequence_classification.py BASE train.parquet test.parquet OUT --stock
accuracy 51.5%, the most frequent class 38.0%

Proteins of at most 100 residues of SCOPe 2.07 and their class, a to d (500 to train on, 200 of other superfamilies),
on all-MiniLM-L6-v2 with `--stock`, transformers' own Trainer.

Rows: `sequence`, a string whose characters are symbols (a protein, DNA, SMILES), and `label`, a text.
"""

import sys
from collections import Counter

from datasets import ClassLabel, load_dataset
from sklearn.metrics import accuracy_score
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, pipeline, set_seed

from fpt_adapters import FPTForSequenceClassification, FPTTrainer, symbol_tokenizer

base, train_file, test_file, out, *flags = sys.argv[1:]
trainer_class = Trainer if "--stock" in flags else FPTTrainer
set_seed(0)

rows = load_dataset("parquet", data_files={"train": train_file, "test": test_file})
names = sorted(set(rows["train"]["label"]))
rows = rows.cast_column("label", ClassLabel(names=names))
tokenizer = symbol_tokenizer(rows["train"]["sequence"])  # vocabulary and length
examples = rows.map(lambda batch: tokenizer(batch["sequence"], truncation=True), batched=True)

model = FPTForSequenceClassification.from_backbone(
    base,
    input_type="tokens",
    vocab_size=len(tokenizer),
    sequence_length=tokenizer.model_max_length,
    pad_token_id=tokenizer.pad_token_id,
    id2label=dict(enumerate(names)),
)
trainer = trainer_class(
    model,
    TrainingArguments(out, num_train_epochs=5, learning_rate=1e-3, save_strategy="no"),
    train_dataset=examples["train"],
    eval_dataset=examples["test"],
    data_collator=DataCollatorWithPadding(tokenizer),
    processing_class=tokenizer,
    compute_metrics=lambda p: {"accuracy": accuracy_score(p.label_ids, p.predictions.argmax(axis=-1))},
)
trainer.train()
accuracy = trainer.evaluate()["eval_accuracy"]
floor = Counter(rows["test"]["label"]).most_common(1)[0][1] / len(rows["test"])
print(f"accuracy {accuracy:.1%}, the most frequent class {floor:.1%}")

trainer.save_model(out)  # and, to share it: model.push_to_hub("you/name")
where = {"base_model_name_or_path": base}  # only where the base has no Hub id
classify = pipeline("text-classification", model=out, model_kwargs=where, truncation=True)
print(classify(rows["test"]["sequence"][:3]))  # raw sequences
