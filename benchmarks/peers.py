"""timm, imported even where torchvision lacks its operators.

torchvision's wheels are built for CUDA's torch. With a CPU's torch they find no `nms`, which they
describe to torch at import, and the import fails. timm uses none of them for what we compare.
"""

from types import ModuleType


def import_timm() -> ModuleType:
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # there is no such operator: it is declared, and never called
        for operator in ("nms", "qnms"):
            boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", boxes)
    import timm

    return timm
