"""Decoders: from an encoder's stages to one logit a pixel. A new one is one function and one line in DECODERS."""

from collections.abc import Callable

from fastai.layers import ConvLayer
from fastai.vision.models import unet
from torch import Tensor, nn

from kit.errors import InputError
from kit.nets import classic, salt, switches
from kit.nets.encoders import Encoder
from kit.recipe import Salt

NECK = 512  # channels


class DynamicUnet(unet.DynamicUnet):
    """fastai's DynamicUnet, without its last layer, which only strips fastai's tensor types and stops torch.export."""

    def __init__(self, encoder: nn.Sequential, image_size: int):
        super().__init__(encoder, n_out=1, img_size=(image_size, image_size))
        del self.layers[-1]

    @property
    def encoder(self) -> nn.Module:
        """The stages, and the 1x1 convolution behind them where there is one."""
        return self.layers[0]

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        finally:
            # maps of a training step that stay in the hooks hold memory, most of all where a lack of it ended the step,
            # and a net that keeps them cannot be copied
            for hook in self.sfs:
                hook.stored = None


def dynamic(encoder: Encoder, image_size: int, options: Salt) -> nn.Module:
    """DynamicUnet (fastai) on the stages: pixel shuffle with ICNR, a skip wherever the scale changes, a last cross.

    An encoder that ends wider than 512 channels gets a 1x1 convolution to 512 behind its last stage: the decoder's
    parameters grow with the square of that width (341 M instead of 113 M for seresnext50_32x4d). It has no switches.
    """
    if foreign := switches.foreign(options):
        raise InputError(f"decoder dynamic has no {', '.join(foreign)}: use net.decoder salt, or leave the key out")
    stages = list(encoder)
    if encoder.channels[-1] > NECK:
        stages.append(ConvLayer(encoder.channels[-1], NECK, ks=1))
    return DynamicUnet(nn.Sequential(*stages), image_size)


def salt_unet(encoder: Encoder, image_size: int, options: Salt) -> nn.Module:
    """The competition's decoder, with every switch of the options; see kit/nets/salt.py."""
    return salt.build(encoder, options)


DECODERS: dict[str, Callable[[Encoder, int, Salt], nn.Module]] = {
    "dynamic": dynamic,
    "salt": salt_unet,
}


def build(name: str, encoder: Encoder, image_size: int, options: Salt | None = None) -> nn.Module:
    """The decoder `name` around `encoder`, whose modules it takes over: (B, C, S, S) -> logits (B, 1, S, S).

    "salt" gives heads.Outputs instead where its options (default: Salt()) ask for an extra head. The new layers are
    initialised at random, the encoder is left as it is. Raises InputError for an unknown name and for options that
    the decoder does not have.
    """
    if name not in DECODERS:
        raise InputError(
            f"no decoder is called {name!r}: use {' or '.join(DECODERS)}, "
            f"or without an encoder {', '.join(classic.NETS)}"
        )
    return DECODERS[name](encoder, image_size, options or Salt()).train()
