"""What the competition is: its names, tile size, columns, metric, limits. Another one is another instance."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Competition:
    """The facts that every room asks for. Sizes are in pixels, thresholds are intersection over union."""

    slug: str
    title: str
    tile_shape: tuple[int, int]
    id_column: str
    mask_column: str
    depth_column: str
    iou_thresholds: tuple[float, ...]
    daily_limit: int

    @property
    def columns(self) -> tuple[str, str]:
        """The two columns of train.csv and of a submission."""
        return self.id_column, self.mask_column


TGS = Competition(
    slug="tgs-salt-identification-challenge",
    title="TGS Salt Identification Challenge",
    tile_shape=(101, 101),
    id_column="id",
    mask_column="rle_mask",
    depth_column="z",
    iou_thresholds=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    daily_limit=5,
)
