"""The published training in torch, eager as its authors run it, for comparison with ours.

It is written anew from the formulas of arXiv 2202.08835 and 2202.08978. As in the published code,
the schedules change once per epoch and the loss is read at every step.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

GAMMA_HC, GAMMA_POS, GAMMA_NEG, SMOOTHING = 3.0, 2.0, 2.0, 0.1
MAX_NORM, WEIGHT_DECAY = 1.0, 5e-4


def cyclical_focal_loss(logits: torch.Tensor, labels: torch.Tensor, hardness: float):
    """sum_j y'_j w_j log p_j as dense tensor operations, one after the other."""
    is_label = torch.zeros_like(logits).scatter_(1, labels[:, None], 1)
    is_other = 1 - is_label
    log_p = torch.log_softmax(logits, dim=-1)
    p_label, p_other = log_p.exp() * is_label, (1 - log_p.exp()) * is_other
    gamma = GAMMA_POS * is_label + GAMMA_NEG * is_other
    hard = torch.pow(1 - p_label - p_other, gamma)
    easy = torch.pow(1 + p_label, GAMMA_HC * is_label)
    weight = hardness * hard + (1 - hardness) * easy
    smoothed = is_label * (1 - SMOOTHING) + SMOOTHING / logits.shape[-1]
    return -(smoothed * weight * log_p).sum(dim=-1).mean()


def mlp(sizes: tuple[int, ...]) -> nn.Module:
    """Dense layers with BatchNorm and ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in zip(sizes, sizes[1:-1], strict=False):
        layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def cnn(widths: tuple[int, ...], hidden_size: int) -> nn.Module:
    """3x3 convolutions of 28 x 28 images with BatchNorm, ReLU and pooling, then a hidden layer."""
    layers: list[nn.Module] = []
    for before, width in zip((1, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    pixels = (28 // 2 ** len(widths)) ** 2
    layers += [nn.Flatten(), nn.Linear(pixels * widths[-1], hidden_size)]
    layers += [nn.BatchNorm1d(hidden_size), nn.ReLU(), nn.Linear(hidden_size, 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def epoch(
    network: nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Callable[[], None]:
    """Returns an epoch on data in memory: [n, height, width, 1] bytes and [n] labels."""
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    targets = torch.tensor(labels).long()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )

    def run():
        order = torch.randperm(len(targets))[: len(targets) // batch_size * batch_size]
        for index in order.split(batch_size):
            batch = pixels[index].float() / 127.5 - 1
            loss = cyclical_focal_loss(network(batch), targets[index], 0.4)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
            optimizer.step()
            loss.item()

    return run
