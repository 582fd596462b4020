"""Before a head is trained on cached features: measure their spread."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch import nn

from common.data.datasets.features import FeatureDataset

__all__ = ["FeatureScaleFitter"]


class FeatureScaleFitter:
    """When a training starts, fit the scales of its fusion head to the features of the training set.

    Weights that have been trained before keep theirs (`common.networks.modality_fusion.FusionHead.fit_scales`): a
    federated client goes on with those of the model it was given.

    Args:
        network: `FeatureMDFNet`.
        dataset: features of the training set.
    """

    def __init__(self, network: nn.Module, dataset: FeatureDataset) -> None:
        self.network, self.dataset = network, dataset

    def attach(self, engine: Engine) -> None:
        """Fit when the engine starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine | None = None) -> None:
        """Fit now.

        Raises:
            ValueError: if no case has one of the modalities.
        """
        network = getattr(self.network, "module", self.network)
        network.fusion.fit_scales(self.dataset.vectors, self.dataset.vectors["present"])
