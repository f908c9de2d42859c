"""Give texts any number of labels, by hand: datasets -> the base's own tokenizer -> a Trainer -> pipeline.

python examples/by_hand/text_classification.py BASE train.parquet test.parquet OUT [--stock]
micro-F1 83.7%, the best of one set of labels for all 18.9%

Banking77 (1,500 texts to train on, 500 others), where the words of an intent's name are its labels, on
all-MiniLM-L6-v2; `--stock`: by transformers' own Trainer.

Rows: `text`, and `labels`, a list of names.
"""

import sys

import numpy as np
from datasets import load_dataset
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, pipeline, set_seed

from fpt_adapters import FPTForSequenceClassification, FPTTrainer, native_tokenizer

base, train_file, test_file, out, *flags = sys.argv[1:]
trainer_class = Trainer if "--stock" in flags else FPTTrainer
set_seed(0)

rows = load_dataset("parquet", data_files={"train": train_file, "test": test_file})
binarizer = MultiLabelBinarizer().fit(rows["train"]["labels"])
tokenizer = native_tokenizer(base, rows["train"]["text"])  # the base's own; how far the model reads
examples = rows.map(lambda batch: tokenizer(batch["text"], truncation=True), batched=True)
examples = examples.map(lambda batch: {"labels": np.float32(binarizer.transform(batch["labels"]))}, batched=True)

model = FPTForSequenceClassification.from_backbone(
    base,
    input_type="native",  # the base's own embeddings
    sequence_length=tokenizer.model_max_length,
    id2label=dict(enumerate(binarizer.classes_)),
    problem_type="multi_label_classification",
)
trainer = trainer_class(
    model,
    TrainingArguments(out, num_train_epochs=10, learning_rate=2e-3, save_strategy="no"),
    train_dataset=examples["train"],
    eval_dataset=examples["test"],
    data_collator=DataCollatorWithPadding(tokenizer),
    processing_class=tokenizer,
    compute_metrics=lambda p: {"f1": f1_score(p.label_ids > 0, p.predictions > 0, average="micro")},
)
trainer.train()
f1 = trainer.evaluate()["eval_f1"]
truth = binarizer.transform(rows["test"]["labels"])
floor = max(f1_score(truth, np.tile(one, (len(truth), 1)), average="micro") for one in np.unique(truth, axis=0))
print(f"micro-F1 {f1:.1%}, the best of one set of labels for all {floor:.1%}")

trainer.save_model(out)  # and, to share it: model.push_to_hub("you/name")
where = {"base_model_name_or_path": base}  # only where the base has no Hub id
classify = pipeline("text-classification", model=out, model_kwargs=where, truncation=True)
print(classify(rows["test"]["text"][:3], top_k=3))  # raw texts
