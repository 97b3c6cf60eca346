"""`Objective`: the penalties of a model, each in a slot of its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from patronus_pl.objective.decorrelation import Decorrelation
from patronus_pl.objective.distinctness import Distinctness
from patronus_pl.objective.faithfulness import Faithfulness
from patronus_pl.objective.kurtosis import Kurtosis
from patronus_pl.objective.looking import Looking
from patronus_pl.objective.penalty import Penalty
from patronus_pl.objective.sparsity import Sparsity
from patronus_pl.objective.step import TrainingStep


class Term(NamedTuple):
    """One penalty on one step: weight · value is added to the loss."""

    name: str
    weight: float
    value: Float[Tensor, ""]


class Objective:
    """What is added to the denoising loss: Σ weight · penalty, over the penalties whose weight is not 0.

    Each penalty has a slot with a name, so that a YAML overlay or an option such as `--model.objective.sparsity.weight
    0.1` changes one number and leaves the rest.

    Args:
        decorrelation: prototypes that can be moved one at a time.
        kurtosis: each prototype a concept of its own, there or not.
        sparsity: a prototype changes little of the picture.
        faithfulness: what an edit asks for is what the picture then shows.
        looking: a prototype looks at what it moves.
        distinctness: the paper's optional penalty on near-duplicates.
    """

    def __init__(
        self,
        decorrelation: Decorrelation = Decorrelation(),
        kurtosis: Kurtosis = Kurtosis(),
        sparsity: Sparsity = Sparsity(),
        faithfulness: Faithfulness = Faithfulness(),
        looking: Looking = Looking(),
        distinctness: Distinctness = Distinctness(),
    ) -> None:
        self.decorrelation, self.kurtosis, self.sparsity = decorrelation, kurtosis, sparsity
        self.faithfulness, self.looking, self.distinctness = faithfulness, looking, distinctness

    @property
    def active(self) -> list[Penalty]:
        """The penalties whose weight is not 0."""
        slots = (
            self.decorrelation,
            self.kurtosis,
            self.distinctness,
            self.sparsity,
            self.faithfulness,
            self.looking,
        )
        return [penalty for penalty in slots if penalty.weight]

    @property
    def judges_edits(self) -> bool:
        """Whether any of them needs `TrainingStep.edit`."""
        return any(penalty.judges_edits for penalty in self.active)

    @property
    def balances(self) -> bool:
        """Whether `TrainingStep.attributes` are needed."""
        return self.decorrelation.balance is not None

    def prepare(self, names: Sequence[str], attributes: Callable[[], Float[Tensor, "n a"]]) -> None:
        """Look at the attributes of the training data, before training.

        Args:
            names: names of all attributes.
            attributes: Return the (n, a) attributes of the training images; called only if they are needed.
        """
        self.decorrelation.prepare(names, attributes)

    def terms(self, step: TrainingStep) -> Iterator[Term]:
        """Yield each penalty on this step, with its weight at this point of the training.

        A step without an edit, such as one of a single image, has no penalties that judge edits.
        """
        for penalty in self.active:
            if step.edit is not None or not penalty.judges_edits:
                yield Term(penalty.name, penalty.weight_at(step.number), penalty.value(step))
