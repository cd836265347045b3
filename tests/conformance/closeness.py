"""How far two sets of logits are from one another, said so that a failure can be read."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Closeness:
    """Worst max|a - b| / max|b| over positions; blocks of rows are added one after another."""

    limit: float
    label: str = ""
    rows: int = 0
    worst: float = 0.0
    worst_text: str = ""
    over: list = field(default_factory=list)

    def add(self, ours: np.ndarray, reference: np.ndarray) -> None:
        assert ours.shape == reference.shape, f"{self.label}: shapes {ours.shape} {reference.shape}"
        difference = np.abs(ours.astype(np.float64) - reference)
        difference[~np.isfinite(difference)] = np.inf
        error = difference.max(axis=1) / np.abs(reference).max(axis=1)
        for row, e in enumerate(error):
            if not e <= self.limit:
                self.over.append(self.rows + row)
        row = int(error.argmax())
        if not error[row] <= self.worst:
            token = int(difference[row].argmax())
            self.worst = float(error[row])
            self.worst_text = (
                f"position {self.rows + row}, token {token}: ours {ours[row, token]:.7g}, "
                f"reference {reference[row, token]:.7g}, max|logit| {np.abs(reference[row]).max():.4g}"
            )
        self.rows += len(error)

    def __str__(self) -> str:
        return (
            f"{self.label}: worst max|dlogit|/max|logit| {self.worst:.3g} (limit {self.limit:g}) "
            f"over {self.rows} positions; {self.worst_text}"
        )

    def check(self) -> None:
        assert self.rows > 0, f"{self.label}: nothing was compared"
        if self.over:
            raise AssertionError(
                f"{self}\n{len(self.over)} of {self.rows} positions are over the limit, "
                f"the first at {self.over[0]}"
            )


def check_close(label, ours, reference, limit) -> Closeness:
    closeness = Closeness(limit, label)
    closeness.add(np.asarray(ours), np.asarray(reference, dtype=np.float64))
    closeness.check()
    return closeness


def check_same_bits(label, a, b) -> None:
    assert a.shape == b.shape, f"{label}: shapes {a.shape} {b.shape}"
    wrong = np.argwhere(np.asarray(a).view(np.uint32) != np.asarray(b).view(np.uint32))
    if len(wrong):
        row, token = wrong[0]
        relative = np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
        raise AssertionError(
            f"{label}: {len(wrong)} of {a.size} logits differ, the first at position {row}, token {token}: "
            f"{a[row, token]!r} {b[row, token]!r}; worst difference {relative:.3g} of max|logit|"
        )
