"""The loss of a student by what its teacher says (Hinton et al. 2015, Distilling the Knowledge in a Neural Network)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

LEAST = 1e-6
"""Probabilities are written with so many digits: a smaller one is taken for this."""


def class_losses(logits: torch.Tensor, probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far a student is from its teacher in the choice of a class, shape (examples,).

    The Kullback-Leibler divergence of both softmaxes at a temperature, times its square: the gradient is then about as
    large at every temperature.

    Args:
        logits: Of the student, shape (examples, classes).
        probabilities: Of the teacher, likewise.
        temperature: Divides the logits of both.
    """
    teacher = (probabilities.clamp_min(LEAST).log() / temperature).softmax(dim=1)
    student = (logits / temperature).log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="none").sum(dim=1) * temperature**2


def label_losses(logits: torch.Tensor, probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """The same where each label is there or not, whatever the others are: the mean over the labels, shape (examples,).

    Args:
        logits: Of the student, shape (examples, labels).
        probabilities: Of the teacher, likewise.
        temperature: Divides the logits of both.
    """
    teacher = (probabilities.clamp(LEAST, 1 - LEAST).logit() / temperature).sigmoid()
    crossed = F.binary_cross_entropy_with_logits(logits / temperature, teacher, reduction="none")
    own = F.binary_cross_entropy(teacher, teacher, reduction="none")
    return (crossed - own).mean(dim=1) * temperature**2
