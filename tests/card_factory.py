"""The card of a fine-tuned ResNet50, for tests that show or write what a card says."""

from __future__ import annotations

from data_contracts.model_card import Calibration, InputSpec, ModelCard


def resnet50_card() -> ModelCard:
    return ModelCard(
        name="noduleflow",
        run_id="run-1",
        backbone="resnet50",
        weights="ResNet50_Weights.IMAGENET1K_V2",
        weights_sha256="ab" * 32,
        pretrained=True,
        head="mlp",
        input=InputSpec(kind="2.5d", patch_shape=(3, 64, 64), value_unit="HU", spacing_mm=0.75, input_size_px=96),
        calibration=Calibration(
            bias=0,
            image_weight=1,
            size_weight=1,
            image_only_bias=0,
            image_only_weight=1,
            size_only_bias=0,
            size_only_weight=2,
        ),
        checkpoint_sha256="cd" * 32,
        dataset_id="dataset-1",
    )
