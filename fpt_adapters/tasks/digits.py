"""scikit-learn's handwritten digits: images that need no file."""

from dataclasses import dataclass, field

import numpy as np
import torch

from ..data.splits import FIXED_SEED, SAMPLES, SPLITS, draw_order, split_sizes
from .images import ImageTask
from .task import TaskData

DIGITS_SPLIT = 110  # the purpose of a draw with `draw_order`, see files.py


@dataclass
class Digits(ImageTask):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels: the task that needs no file, not the paper's.

    scikit-learn's pixels 0..16 become 0..255, as in other grey images. The split is fixed: 1,197 / 300 / 300. The same
    people wrote the digits of all three, so accuracy is higher than on new writers.
    """

    name = "digits"
    data_source = "scikit-learn's digits: the test part of the UCI set Optical Recognition of Handwritten Digits"
    data_license = "CC BY 4.0"
    limits = ("The same people wrote the training and the test digits: new writers will be read less well.",)
    image_size = 8
    num_channels = 1
    mean, std = (0.3053,), (0.3759,)  # of all images

    patch_size: int = field(default=2, metadata={"help": "Side of a square patch in pixels; one patch is one token."})

    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Load the digits. `seed` only chooses what `max_samples` keeps."""
        from sklearn.datasets import load_digits  # which takes long to import

        digits = load_digits()
        pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        order = draw_order(len(pixels), FIXED_SEED, DIGITS_SPLIT)
        rows = {"test": order[:300], "validation": order[300:600], "train": order[600:]}
        sizes = split_sizes({split: len(rows[split]) for split in SPLITS}, max_samples)
        images = {}
        for number, split in enumerate(SPLITS):
            chosen = rows[split][draw_order(len(rows[split]), seed, SAMPLES + number)[: sizes[split]]]
            chosen = np.sort(chosen)
            images[split] = (pixels, chosen, digits.target[chosen])
        return self.task_data(images, [str(digit) for digit in digits.target_names], seed)
