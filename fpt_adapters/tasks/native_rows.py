"""Rows that a projection reads in patches, or that a base made for them reads natively."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..data.native import native_input, native_processor
from .row_task import RowTask


@dataclass
class PatchesOrNative(RowTask):
    """Pictures or sound. `modality`: "image" or "audio"; `of_patches`: arguments that native input has no use for."""

    modality: ClassVar[str]
    of_patches: ClassVar[tuple[str, ...]]

    input_type: str | None = field(
        default=None,
        metadata={
            "help": "native: a base that was made for such rows reads them with its own processor and embeddings "
            "(default: patches, which a new projection reads)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_type not in (None, "native"):
            raise ValueError(f"input_type is native, or left out for patches; got {self.input_type!r}.")
        for name in self.of_patches if self.input_type else ():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"--{name} is for patches, and natively the base's own processor decides: leave it out, or "
                    "--input_type native."
                )

    def load_native(self) -> Any:
        """Load the processor of the base, as which `native` reads. Raises ValueError for a base that has none."""
        if self.base_config is None:
            raise ValueError(f"{self.name} reads natively with a base: set base and base_config before.")
        self.native = native_input(self.base_config, self.modality)
        return native_processor(self.native, self.base_config, self.base, **self.base_settings)
